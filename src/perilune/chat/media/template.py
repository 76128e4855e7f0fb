"""What a checkpoint's own chat template says about videos; it is read as text, never run."""

from __future__ import annotations

import json
from pathlib import Path

_MARK = "<|kimi_k25_video_placeholder|>"
_MOST_BYTES = 4 << 20


def video_newline(folder: str | Path) -> bool | None:
    """Whether the template leaves a newline after a video; None where it does not tell.

    White space behind the placeholder stays in the prompt up to the next tag, unless that tag
    begins with `{%-`. Transformers renders with `lstrip_blocks`, so of an indented line break only
    the break stays.
    """
    text = _template(Path(folder))
    _, found, after = text.partition(_MARK)
    if not found:
        return None
    space, tag, rest = after.partition("{")
    if not tag or space.strip():
        return False
    return "\n" in space and not rest.startswith(("%-", "{-", "#-"))


def _template(folder: Path) -> str:
    """chat_template.jinja, or the template in tokenizer_config.json; "" without either."""
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        file = folder / name
        try:
            if not file.is_file() or file.stat().st_size > _MOST_BYTES:
                continue
            text: object = file.read_text("utf-8")
            if name.endswith(".json"):
                found = json.loads(str(text))
                text = found.get("chat_template") if isinstance(found, dict) else None
        except (OSError, ValueError, RecursionError):
            continue  # the tokenizer's own reader reports a broken file
        if isinstance(text, str) and text:
            return text
    return ""
