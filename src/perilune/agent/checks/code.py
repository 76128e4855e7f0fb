"""Code in an answer: each fenced block parses, and a whole Python program runs.

It runs in the sandbox, in an empty folder, without network. A block that fails for want of what it
cannot have there (a name or file from elsewhere, a package, input, the network, time) is noted as
not run, for it may be a fragment; any other exception is a failure. A block that shows something
wrong on purpose, or a piece that parses in its place (see `fragments.py`), is noted too.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from perilune.agent.checks.check import Proposal, made
from perilune.agent.checks.fragments import is_fragment, shows_a_fault
from perilune.agent.evidence.passages import FENCE
from perilune.agent.tools.syntax import syntax_problem
from perilune.errors import SandboxError, ToolError
from perilune.events import CheckMade

_SUFFIXES = {
    "python": ".py", "py": ".py", "python3": ".py",
    "json": ".json", "toml": ".toml", "yaml": ".yaml", "yml": ".yaml",
}  # fmt: skip
_WANTS = re.compile(
    r"^(NameError|ModuleNotFoundError|ImportError|FileNotFoundError|EOFError|ConnectionError|OSError|"
    r"PermissionError|socket\.\w+|urllib\.error\.\w+|SystemExit|KeyboardInterrupt|MemoryError)\b",
    re.M,
)
_OUTSIDE = re.compile(
    r"\b(?:sys\.(?:argv|stdin)|os\.(?:environ|getenv|getcwd|listdir)|input\(|argparse|subprocess|"
    r"Path\(|open\(|requests\.|socket)"
)
"""What a program takes from its surroundings, which are others here."""
SECONDS = 20.0
_BEFORE = 200
"""Characters before a block that say what it shows."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its number in the answer, language, text, and the words before it."""

    number: int
    language: str
    text: str
    before: str = ""


def blocks(answer: str) -> list[Block]:
    """The fenced blocks of languages that can be checked."""
    found = []
    for number, match in enumerate(FENCE.finditer(answer), 1):
        language = match[2].strip().split()[0].lower() if match[2].strip() else ""
        if language in _SUFFIXES and match[3].strip():
            before = answer[max(0, match.start() - _BEFORE) : match.start()]
            found.append(Block(number, language, match[3], before))
    return found


class Code:
    """The code of an answer parses, and runs. `run` False: it is only parsed."""

    name = "code"

    def __init__(self, *, run: bool = True) -> None:
        self._run = run

    async def examine(self, proposal: Proposal) -> CheckMade | None:
        found = blocks(proposal.text)
        if not found:
            return None
        problems, notes, evidence = [], [], []
        for block in found:
            what = f"code block {block.number} ({block.language})"
            text = _without_prompts(block.text)
            suffix = _SUFFIXES[block.language]
            elided = suffix != ".py" and "..." in text
            problem = "" if elided else syntax_problem(f"block{suffix}", text)
            if problem and (shows_a_fault(block.text, block.before) or is_fragment(suffix, text)):
                notes.append(f"{what} is a piece, and not looked at as a whole: {problem}")
            elif problem:
                problems.append(f"In the answer, {what} does not parse: {problem}")
            elif self._run and suffix == ".py":
                outcome, detail = await _run_block(text, proposal)
                if outcome == "failed" and shows_a_fault(block.text, block.before, detail):
                    outcome = "unrun"
                if outcome == "failed":
                    problems.append(f"In the answer, {what} fails when it is run: {detail}")
                elif outcome == "ran":
                    evidence.append(f"{what} runs")
                else:
                    notes.append(f"{what} parses, but could not be run here: {detail}")
            else:
                evidence.append(f"{what} parses")
        return made(self.name, problems, notes=notes, evidence=evidence)


def _without_prompts(text: str) -> str:
    """Of an interpreter session, what was typed."""
    if not text.lstrip().startswith(">>> "):
        return text
    typed = (line[4:] for line in text.splitlines() if line.startswith((">>> ", "... ")))
    return "\n".join(typed) + "\n"


async def _run_block(text: str, proposal: Proposal) -> tuple[str, str]:
    """How a program ended: "ran", "failed" or "unrun", and why."""
    from perilune.agent.tools.base import in_thread, sandbox_of

    try:
        sandbox = await sandbox_of(proposal.tools)
    except ToolError as error:
        return "unrun", error.message
    with tempfile.TemporaryDirectory(prefix="perilune-code-") as scratch:
        folder = Path(scratch) / "workspace"
        await in_thread(folder.mkdir)
        Path(scratch).chmod(0o711)
        (folder / "program.py").write_text(text, "utf-8")
        limits = replace(sandbox.limits, wall_seconds=SECONDS)
        try:
            result = await sandbox.run_async(
                [sandbox.python.executable, "program.py"],
                workspace=folder,
                limits=limits,
                merge_stderr=True,
            )
        except SandboxError as error:
            return "unrun", error.message
    if result.stdout_file is not None:
        result.stdout_file.unlink()
    if result.exit_code == 0:
        return "ran", ""
    last = next((line for line in reversed(result.stdout.splitlines()) if line.strip()), "")
    wants = _WANTS.search(last) or _OUTSIDE.search(text)
    if result.exit_code is None or result.exit_code != 1 or wants:
        return "unrun", (last or result.explanation)[:200]
    return "failed", last[:300]
