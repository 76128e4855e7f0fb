"""Text that every file, socket and database takes: valid Unicode.

Python's strings can hold halves of surrogate pairs: `json.loads` makes one of an escape such as
`\\ud83d`, and so do file names and arguments that are not UTF-8 (PEP 383). UTF-8 cannot hold them,
so a single one in a model's reply or a tool's output would end a run where it is written down. They
are mended where text enters: two halves that belong together are joined, any other becomes U+FFFD,
as the Unicode Standard recommends (section 3.9).
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

REPLACEMENT = "\ufffd"
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_DEPTH = 200
T = TypeVar("T")


def valid_text(text: str) -> str:
    """The text without lone surrogates; a text that has none is returned as it is."""
    if text.isascii() or _SURROGATE.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def valid_json(value: T) -> T:
    """A JSON value with `valid_text` applied to every string and key.

    A value that needs nothing is returned as it is. In one that does, what is nested deeper than
    200 becomes U+FFFD.
    """
    if not _has_surrogate(value):
        return value
    mended: T = _valid(value, _MAX_DEPTH)
    return mended


def _has_surrogate(value: Any) -> bool:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            if not each.isascii() and _SURROGATE.search(each):
                return True
        elif isinstance(each, dict):
            waiting += each
            waiting += each.values()
        elif isinstance(each, list | tuple):
            waiting += each
    return False


def _valid(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return valid_text(value)
    if isinstance(value, dict | list) and depth == 0:
        return REPLACEMENT
    if isinstance(value, dict):
        return {_valid(key, depth): _valid(each, depth - 1) for key, each in value.items()}
    if isinstance(value, list):
        return [_valid(each, depth - 1) for each in value]
    if isinstance(value, tuple):
        return tuple(_valid(each, depth - 1) for each in value)
    return value


class TextJoiner:
    """Pieces of one text -> valid pieces. A pair that was cut between two pieces is joined."""

    __slots__ = ("_half",)

    def __init__(self) -> None:
        self._half = ""

    def feed(self, piece: str) -> str:
        """The piece as valid text, less a first half at its end, which waits for the next."""
        text = self._half + piece
        self._half = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return valid_text(text)

    def finish(self) -> str:
        """What still waits, once."""
        half, self._half = self._half, ""
        return valid_text(half)
