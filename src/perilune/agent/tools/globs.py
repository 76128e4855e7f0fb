"""Globs over relative paths, with `**`."""

from __future__ import annotations

import re
from functools import lru_cache

from perilune.errors import ToolError


@lru_cache(maxsize=64)
def glob_pattern(glob: str) -> re.Pattern[str]:
    """A glob as a regular expression for whole relative paths.

    `*` and `?` stay within a name, `**/` spans folders; a glob without a slash fits a name in any
    folder; `{a,b}` is either. Raises `ToolError` for one that is malformed.
    """
    glob = glob.removeprefix("./").lstrip("/")
    if "/" not in glob:
        glob = f"**/{glob}"
    try:
        return re.compile(_translate(glob), re.DOTALL)
    except re.error as error:
        raise ToolError(f"{glob!r} is not a glob: {error}") from None


def _translate(glob: str) -> str:
    parts: list[str] = []
    depth, at = 0, 0
    while at < len(glob):
        char = glob[at]
        if glob.startswith("**/", at):
            parts.append("(?:[^/]+/)*")
            at += 3
            continue
        if glob.startswith("**", at):
            parts.append(".*")
            at += 2
            continue
        if char == "*":
            parts.append("[^/]*")
        elif char == "?":
            parts.append("[^/]")
        elif char == "[" and (end := glob.find("]", at + 2)) > 0:
            inner = glob[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            inner = f"^{inner[1:]}" if inner.startswith("!") else inner
            parts.append(f"[{inner}]")
            at = end
        elif char == "{" and "}" in glob[at:]:
            parts.append("(?:")
            depth += 1
        elif char == "}" and depth:
            parts.append(")")
            depth -= 1
        elif char == "," and depth:
            parts.append("|")
        else:
            parts.append(re.escape(char))
        at += 1
    return "".join(parts)
