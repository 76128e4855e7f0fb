"""A report that a run wrote: its claims are cited and grounded, its tables and pictures are whole.

The report is the Markdown file that was published last, else the last Markdown file that the run
wrote. It goes through the same checks of citations and numbers as an answer.
"""

from __future__ import annotations

import re

from perilune.agent.checks.check import Proposal, made
from perilune.agent.checks.citations import Citations
from perilune.agent.checks.numbers import Numbers, figures
from perilune.agent.evidence.passages import FENCE, passages
from perilune.agent.tools.base import in_thread
from perilune.agent.workspace.workspace import Workspace
from perilune.errors import ToolError
from perilune.events import CheckMade

_PICTURE = re.compile(r"!\[([^\]]*)\]\(\s*<?([^)\s>]+)>?[^)]*\)")
_FILLER = re.compile(
    r"\b(?:TODO|TBD|FIXME|XXX|lorem ipsum)\b|\[(?:insert|your|citation needed)[^\]]*\]", re.I
)
_SENTENCES_SHOWN = 5


class Report:
    """The report is whole and each of its figures and quotations is grounded."""

    name = "report"

    async def examine(self, proposal: Proposal) -> CheckMade | None:
        path = report_path(proposal)
        if path is None:
            return None
        workspace = Workspace(proposal.workspace)
        try:
            text = await in_thread(workspace.read_text, path)
        except ToolError as error:
            return made(self.name, [f"The report cannot be read: {error.message}"])
        problems = [*_form_problems(text, workspace), *_uncited(text, proposal)]
        evidence = [path]
        inner = proposal.with_text(text)
        for check in (Citations(strict=True), Numbers(strict=True)):
            found = await check.examine(inner)
            if found is not None:
                problems += [f"In {path}: {each}" for each in found.problems]
                evidence += found.evidence
        published = published_path(proposal)
        if published is None:
            problems.append(f"{path} is not published. Call `publish` with it.")
        elif _stale(proposal, path):
            problems.append(f"{path} was changed after it was published. Publish it again.")
        return made(self.name, problems, evidence=evidence)


def report_path(proposal: Proposal) -> str | None:
    """The Markdown file of the report; None when the run wrote none."""
    published = [
        str(done.arguments.get("source"))
        for done in proposal.state.ledger
        if done.name == "publish" and done.outcome == "ok"
    ]
    written = [
        str(done.arguments.get("path"))
        for done in proposal.state.ledger
        if done.name in ("write_file", "edit_file") and done.outcome == "ok"
    ]
    pages = [path for path in written if path.endswith((".md", ".markdown"))]
    found = published or pages
    return found[-1] if found else None


def published_path(proposal: Proposal) -> str | None:
    """The HTML file that was published last."""
    for done in reversed(proposal.state.ledger):
        if done.name == "publish" and done.outcome == "ok":
            return str(done.arguments.get("path"))
    return None


async def report_text(proposal: Proposal) -> str | None:
    path = report_path(proposal)
    if path is None:
        return None
    try:
        return await in_thread(Workspace(proposal.workspace).read_text, path)
    except ToolError:
        return None


def _stale(proposal: Proposal, path: str) -> bool:
    """Whether the report was written to after it was published."""
    for done in reversed(proposal.state.ledger):
        if done.outcome != "ok":
            continue
        if done.name == "publish":
            return False
        if done.name in ("write_file", "edit_file") and done.arguments.get("path") == path:
            return True
    return False


def _form_problems(text: str, workspace: Workspace) -> list[str]:
    problems = []
    bare = FENCE.sub("\n", text)
    if not re.search(r"^#\s+\S", bare, re.M):
        problems.append("The report has no title (a line that begins with `# `).")
    for filler in dict.fromkeys(match[0] for match in _FILLER.finditer(bare)):
        problems.append(f"The report still holds {filler!r}.")
    for words, path in _PICTURE.findall(bare):
        if re.match(r"[a-z][a-z0-9+.-]*:", path, re.I):
            problems.append(f"The picture {path[:80]} is not in the workspace.")
        elif not workspace.exists(path):
            problems.append(f"There is no picture {path}.")
        if not words.strip():
            problems.append(f"The picture {path[:80]} has no words that say what it shows.")
    problems += _broken_tables(bare)
    lines = [line for line in bare.splitlines() if line.strip()]
    for line, following in zip(lines, [*lines[1:], "# end"], strict=True):
        level = re.match(r"#+(?=\s)", line)
        next_level = re.match(r"#+(?=\s)", following)
        if level and next_level and len(next_level[0]) <= len(level[0]):
            problems.append(f"The section {line.lstrip('# ')!r} is empty.")
    return problems


def _broken_tables(text: str) -> list[str]:
    problems, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.strip().startswith("|"):
            rows.append(len(re.findall(r"(?<!\\)\|", line.strip().strip("|"))) + 1)
        elif rows:
            if len(set(rows)) > 1:
                problems.append(f"A table has rows of {min(rows)} and of {max(rows)} cells.")
            rows = []
    return problems


def _uncited(text: str, proposal: Proposal) -> list[str]:
    """Sentences outside of tables that state a figure and name no source."""
    if not proposal.state.evidence:
        return []
    text = _PICTURE.sub("", re.sub(r"^#.*$", "", text, flags=re.M))
    missing = [
        sentence.text
        for sentence in passages(text).sentences
        if not sentence.cited and not sentence.text.startswith("|") and figures(sentence.text)
    ]
    shown = missing[:_SENTENCES_SHOWN]
    return [f"This states a figure and cites nothing: {each[:120]!r}" for each in shown]
