"""Large tool outputs go to a file; the model is shown their head and tail and where the rest is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perilune.agent.tool import ToolResult
    from perilune.events import Content

SHOWN_CHARACTERS = 16_000
"""About 4,000 tokens: what one tool output may take of the window."""


def fit_output(
    result: ToolResult, call_id: str, folder: Path, *, shown: int = SHOWN_CHARACTERS
) -> tuple[Content, str | None]:
    """`(content, path)`: what the model is shown, and the file of the whole text if it was cut."""
    content = result.content
    if isinstance(content, list):
        texts = [part for part in content if part.get("type") == "text"]
        long = sum(len(part["text"]) for part in texts) > shown
        if not long and result.full_output is None:
            return content, None
        whole = "\n".join(part["text"] for part in texts)
        text, path = _fit_text(whole, result.full_output, call_id, folder, shown)
        rest = [part for part in content if part.get("type") != "text"]
        return [{"type": "text", "text": text}, *rest], path
    return _fit_text(content, result.full_output, call_id, folder, shown)


def _fit_text(
    text: str, full: str | None, call_id: str, folder: Path, shown: int
) -> tuple[str, str | None]:
    if full is None and len(text) <= shown:
        return text, None
    whole = text if full is None else full
    path = folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', call_id)[:80]}.txt"
    kept: str | None = str(path)
    try:
        folder.mkdir(exist_ok=True)
        path.write_text(whole, "utf-8", "surrogatepass")
        where = f"is in {path}"
    except OSError as error:  # a full disk: the run goes on with what is shown
        kept, where = None, f"could not be kept: {error}"
    if len(text) > shown:
        head, tail = text[: shown * 2 // 3], text[len(text) - shown // 3 :]
        cut = len(text) - len(head) - len(tail)
        text = f"{head}\n[... {cut} characters were left out here ...]\n{tail}"
    text = f"{text}\n[The whole output, {len(whole)} characters, {where}]"
    return text, kept
