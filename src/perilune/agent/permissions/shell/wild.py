"""Whether a text with unknown parts may match a glob."""

from __future__ import annotations

import fnmatch
import re

from perilune.agent.permissions.shell.words import WILD

_LONGEST = 5_000
_TOKEN = re.compile(r"\[[^]]+\]|.", re.DOTALL)


def may_match(text: str, glob: str) -> bool:
    """Whether some text in the place of every `WILD` makes the whole match the glob.

    Beyond 5,000 characters only the beginning is looked at, and the rest may be anything.
    """
    if WILD not in text:
        return fnmatch.fnmatchcase(text, glob)
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + WILD
    tokens = _TOKEN.findall(glob)
    states = _closed({(0, 0)}, text, tokens)
    seen = set(states)
    while states:
        following: set[tuple[int, int]] = set()
        for i, j in states:
            if j == len(tokens):
                if i == len(text):
                    return True
                continue
            if j == len(tokens) - 1 and tokens[j] == "*":
                return True
            if i == len(text):
                continue
            if text[i] == WILD:
                if tokens[j] != "*":
                    following.add((i, j + 1))
            elif tokens[j] == "*":
                following.add((i + 1, j))
            elif tokens[j] == "?" or fnmatch.fnmatchcase(text[i], tokens[j]):
                following.add((i + 1, j + 1))
        states = _closed(following, text, tokens) - seen
        seen |= states
    return False


def _closed(states: set[tuple[int, int]], text: str, tokens: list[str]) -> set[tuple[int, int]]:
    """The states, and those reached without a character: `*` and `WILD` may be empty."""
    work = list(states)
    while work:
        i, j = work.pop()
        more = []
        if j < len(tokens) and tokens[j] == "*":
            more.append((i, j + 1))
        if i < len(text) and text[i] == WILD:
            more.append((i + 1, j))
        for each in more:
            if each not in states:
                states.add(each)
                work.append(each)
    return states
