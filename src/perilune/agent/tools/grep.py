"""`grep`: a regular expression over the workspace's text files, bounded in time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import regex

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import ReadingTool, in_thread, workspace_of
from perilune.agent.tools.globs import glob_pattern
from perilune.agent.workspace.workspace import Workspace
from perilune.errors import ToolError
from perilune.text_file import BinaryFileError, UnknownEncodingError, lines_of

LARGEST_FILE = 4 << 20
SECONDS = 20.0
SECONDS_A_LINE = 1.0
_LONGEST_SHOWN = 400
MOST_NAMED = 10  # files that could not be searched, a reason


class Grep(ReadingTool):
    name = "grep"
    timeout = 60.0

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        text = await in_thread(_grep, workspace_of(context), arguments)
        return ToolResult(text)


def _grep(workspace: Workspace, arguments: dict[str, Any]) -> str:
    pattern = _compile(arguments)
    path = str(arguments.get("path", "."))
    fits = glob_pattern(str(arguments["glob"])) if "glob" in arguments else None
    around, limit = int(arguments.get("context", 0)), int(arguments.get("limit", 100))
    deadline = time.monotonic() + SECONDS
    shown: list[str] = []
    hits = files = 0
    unread: dict[str, list[str]] = {}
    for file in workspace.files(path):
        if fits and not fits.fullmatch(file.path):
            continue
        if file.size > LARGEST_FILE:
            unread.setdefault(f"over {LARGEST_FILE >> 20} MiB", []).append(file.path)
            continue
        try:
            lines = lines_of(workspace.read_text(file.path, most=LARGEST_FILE))
        except ToolError as error:
            unread.setdefault(_reason(error), []).append(file.path)
            continue
        found = list(_hits(pattern, lines, deadline))
        files += bool(found)
        for number in found:
            hits += 1
            if hits <= limit:
                shown += _show(file.path, lines, number, around)
        if time.monotonic() > deadline:
            shown.append(f"[stopped after {SECONDS:g} s; narrow the search]")
            break
    if not hits and not shown:
        shown.append(f"no line fits {arguments['pattern']!r}")
    if hits > limit:
        shown.append(f"[{hits} hits in {files} files, {limit} shown; narrow the search]")
    return "\n".join([*shown, *_unread(unread)])


def _reason(error: ToolError) -> str:
    """Why a file was not searched, in a word that others share."""
    if isinstance(error, BinaryFileError):
        return "binary"
    return "unknown encoding" if isinstance(error, UnknownEncodingError) else "not readable"


def _unread(unread: dict[str, list[str]]) -> list[str]:
    """A line for each reason, with some of the names."""
    lines = []
    for reason, paths in unread.items():
        more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
        lines.append(f"[not searched, {reason}: {', '.join(paths[:MOST_NAMED])}{more}]")
    return lines


def _compile(arguments: dict[str, Any]) -> regex.Pattern[str]:
    pattern = str(arguments["pattern"])
    if arguments.get("literal"):
        pattern = regex.escape(pattern)
    try:
        return regex.compile(pattern, regex.IGNORECASE if arguments.get("ignore_case") else 0)
    except regex.error as error:
        raise ToolError(f"{pattern!r} is not a regular expression: {error}") from None


def _hits(pattern: regex.Pattern[str], lines: list[str], deadline: float) -> Iterator[int]:
    """Indices of lines that fit. A pattern that explodes is stopped, not waited for."""
    for number, line in enumerate(lines):
        try:
            if pattern.search(line, timeout=SECONDS_A_LINE):
                yield number
        except TimeoutError:
            raise ToolError(
                f"the pattern takes longer than {SECONDS_A_LINE:g} s on one line",
                remedy="Write it without nested repetitions.",
            ) from None
        if number % 1000 == 0 and time.monotonic() > deadline:
            return


def _show(path: str, lines: list[str], number: int, around: int) -> list[str]:
    shown = [
        f"{path}:{n + 1}{':' if n == number else '-'} {lines[n][:_LONGEST_SHOWN]}"
        for n in range(max(0, number - around), min(len(lines), number + around + 1))
    ]
    return [*shown, "--"] if around else shown
