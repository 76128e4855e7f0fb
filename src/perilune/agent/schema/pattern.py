"""Regular expressions of schemas (ECMA-262), searched in bounded time.

The `regex` module does the work, for it knows `\\p{L}`, look-around and time limits; a linear-time
engine lacks look-ahead. An expression that it cannot read, or that takes too long on a text, says
nothing about that text: the caller does not hold the constraint.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import regex

SECONDS = 0.1
"""What one search may take; one that is not through by then is given up."""

LONGEST_PATTERN = 2_000
LONGEST_TEXT = 100_000  # characters; the time limit is looked at between the engine's own steps

_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_"}
_SPACE = r"\t\n\v\f\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"


class BadPattern(ValueError):
    """An expression that the engine cannot read."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One expression, ready to be searched for."""

    source: str
    _compiled: regex.Pattern[str]

    def search(self, text: str, seconds: float = SECONDS) -> bool | None:
        """Whether it occurs in the text; None where that could not be told in time."""
        if len(text) > LONGEST_TEXT or seconds <= 0:
            return None
        try:
            return self._compiled.search(text, timeout=seconds) is not None
        except (TimeoutError, MemoryError, RecursionError, regex.error):
            return None


@lru_cache(maxsize=1024)
def read_pattern(source: str) -> Pattern:
    """Raises `BadPattern` with the reason, in few words."""
    if len(source) > LONGEST_PATTERN:
        raise BadPattern(f"it has {len(source)} characters, at most {LONGEST_PATTERN}")
    try:
        return Pattern(source, regex.compile(_translated(source), regex.V0))
    except (regex.error, ValueError, OverflowError, IndexError, KeyError) as error:
        raise BadPattern(str(error)[:120]) from None
    except RecursionError:
        raise BadPattern("it is nested too deeply") from None
    except Exception as error:  # the compiler of foreign text has had faults of its own
        raise BadPattern(f"{type(error).__name__} in the engine") from None


def _translated(source: str) -> str:
    """ECMA-262's spelling (mode `u`, and the older one) in that of `regex`."""
    out: list[str] = []
    in_class = False
    place = 0
    while place < len(source):
        char = source[place]
        if char == "\\":
            text, place = _escape(source, place + 1, in_class)
            out.append(text)
            continue
        place += 1
        if in_class:
            if char == "]":
                in_class = False
            out.append("\\[" if char == "[" else char)
        elif char == "[":
            text, place, in_class = _open_class(source, place)
            out.append(text)
        elif char == "$":
            out.append(r"\Z")  # `$` of Python also stands before a last line break
        elif char == "{" and not regex.match(r"\d+(?:,\d*)?\}", source[place : place + 30]):
            out.append(r"\{")  # itself; `regex` would read `{e}` as a permitted error
        elif source.startswith("(?", place - 1):
            text = _group(source, place - 1)
            out.append(text)
            place += len(text) - 1
        else:
            out.append(char)
    return "".join(out)


def _open_class(source: str, place: int) -> tuple[str, int, bool]:
    """`[^]` is any character and `[]` none; `]` first in a class would be itself in Python."""
    if source.startswith("^]", place):
        return r"(?s:.)", place + 2, False
    if source.startswith("]", place):
        return r"(?!)", place + 1, False
    if source.startswith("^", place):
        return "[^", place + 1, True
    return "[", place, True


def _group(source: str, place: int) -> str:
    """The head of a group; those that ECMA-262 lacks are refused, `regex` knows too many."""
    for head in ("(?:", "(?=", "(?!", "(?<=", "(?<!"):
        if source.startswith(head, place):
            return head
    named = regex.match(r"\(\?P?<[A-Za-z_$][\w$]*>", source[place : place + 80])
    if named is not None:
        return named[0]
    flags = regex.match(r"\(\?[ims]*(?:-[ims]+)?[:)]", source[place : place + 20])
    if flags is not None:  # of ECMA-262 2025, and what people write by habit
        return flags[0]
    raise BadPattern(f"{source[place : place + 4]!r} is not a group")


def _escape(source: str, place: int, in_class: bool) -> tuple[str, int]:
    """What stands after a backslash, in `regex`'s spelling, and where it ends."""
    if place >= len(source):
        raise BadPattern("it ends in a backslash")
    char = source[place]
    after = place + 1
    if char in _CLASSES:
        return (_CLASSES[char] if in_class else f"[{_CLASSES[char]}]"), after
    if char in "DW":
        inside = _CLASSES[char.lower()]
        return (f"\\{char}" if in_class else f"[^{inside}]"), after
    if char == "s":
        return (_SPACE if in_class else f"[{_SPACE}]"), after
    if char == "S":
        return (r"\S" if in_class else f"[^{_SPACE}]"), after
    if char in "pP" and source.startswith("{", after):
        return _property(source, place)
    if char == "u":
        return _code_point(source, place)
    if char == "x" and (code := regex.match(r"[0-9a-fA-F]{2}", source[after : after + 2])):
        return regex.escape(chr(int(code[0], 16)), special_only=False), after + 2
    if char == "c" and source[after : after + 1].isalpha() and source[after].isascii():
        return f"\\x{ord(source[after]) % 32:02x}", after + 1
    if char == "k" and (name := regex.match(r"<([A-Za-z_]\w*)>", source[after : after + 80])):
        return f"(?P={name[1]})", after + len(name[0])
    if char == "0" and not source[after : after + 1].isdigit():
        return r"\x00", after
    if char in "bB" and in_class:
        return r"\x08", after
    if char in "bBfnrtv" or (char in "123456789" and not in_class):
        return f"\\{char}", after
    if char in "AZz" and not in_class:  # of other languages; no letter is meant
        return {"A": "^", "Z": r"\Z", "z": r"\Z"}[char], after
    return (f"\\{char}" if not char.isalnum() else regex.escape(char)), after


def _property(source: str, place: int) -> tuple[str, int]:
    """`\\p{L}`, `\\p{Script=Greek}`; Unicode's names are the same in both."""
    found = regex.match(r"[pP]\{\^?[\w=: -]{1,60}\}", source[place : place + 70])
    if found is None:
        raise BadPattern(f"'\\{source[place : place + 10]}' is not a property")
    return "\\" + found[0], place + len(found[0])


def _code_point(source: str, place: int) -> tuple[str, int]:
    """`\\u00e9`, `\\u{1f600}`, and the two halves of one character."""
    rest = source[place : place + 12]
    if braced := regex.match(r"u\{([0-9a-fA-F]{1,6})\}", rest):
        code, length = int(braced[1], 16), len(braced[0])
    elif halves := regex.match(r"u([dD][89abAB]..)\\u([dD][c-fC-F]..)", rest):
        high, low = int(halves[1], 16), int(halves[2], 16)
        code, length = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00), len(halves[0])
    elif plain := regex.match(r"u([0-9a-fA-F]{4})", rest):
        code, length = int(plain[1], 16), 5
    else:
        return "u", place + 1
    if code > 0x10FFFF:
        raise BadPattern(f"{rest[:length]!r} is not a character")
    return f"\\U{code:08x}", place + length
