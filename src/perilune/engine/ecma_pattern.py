"""Patterns of JSON schemas (ECMAScript's regular expressions) -> patterns that a grammar can hold.

The grammar library reads Rust's dialect and knows neither look-around, nor word boundaries, nor
back references. A pattern with those becomes one that allows more: an assertion that is left out
never makes a text wrong that was right before. Where ECMAScript's classes and Python's differ
(`\\w`, `\\s`), what both accept is emitted, so that a client of either kind finds its pattern kept.

Source: ECMA-262, 22.2.1 and annex B.1.2.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import llguidance

from perilune.errors import GrammarError

MAX_NESTING = 60  # of groups
MAX_REPEAT = 100_000
_ANY = r"(?s:.)"
_NOTHING = r"[^\x{0}-\x{10ffff}]"
# Exact forms, without look-ahead, of patterns that many clients send. Source: pydantic's Decimal.
_KNOWN = {
    r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$": r"^[+-]?(\d+\.?\d*|\.\d+)$",
}
_DOT = r"[^\n\r\x{2028}\x{2029}]"
_DIGIT, _WORD = "0-9", "0-9A-Za-z_"
_SPACE = r"\x{9}-\x{d}\x{20}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
_SPACE_OF_ANYBODY = _SPACE + r"\x{1c}-\x{1f}\x{85}\x{feff}"
# A class escape as the members of a class: what ECMAScript and Python both take.
_NARROW = {
    "d": _DIGIT, "w": _WORD, "s": _SPACE, "D": r"\D", "W": r"\W", "S": f"[^{_SPACE_OF_ANYBODY}]",
}  # fmt: skip
# The same where the class is negated: what either takes, so that what is left is taken by both.
_WIDE = {
    "d": r"\d", "w": r"\w", "s": _SPACE_OF_ANYBODY, "D": f"[^{_DIGIT}]", "W": f"[^{_WORD}]",
    "S": f"[^{_SPACE}]",
}  # fmt: skip
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "a": 7}
_QUANTIFIER = re.compile(r"([*+?]|\{(\d{1,6})(?:(,)(\d{0,6}))?\})(\??)")
_FLAGS = re.compile(r"\?([imsxu]*(?:-[imsx]+)?)([:)])")
_NAME = re.compile(r"\?P?<([A-Za-z_$][\w$]*)>")
_PROPERTY = re.compile(r"\{\^?[A-Za-z0-9_=& -]{1,64}\}")


@dataclass(frozen=True, slots=True)
class Pattern:
    """`patterns` must all be found in a text. exact: they say no less than what was given."""

    patterns: tuple[str, ...]
    exact: bool


def translate(pattern: str) -> Pattern:
    """Raises GrammarError (param "grammar") for what is not a pattern in ECMAScript."""
    reader = _Reader(_KNOWN.get(pattern, pattern))
    text = reader.disjunction(0)
    if reader.place != len(reader.text):
        raise reader.error("a ')' that closes nothing")
    return Pattern((text, *reader.ahead), reader.exact)


class _Reader:
    """A recursive descent; each method returns what it read in Rust's dialect."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0
        self.exact = True
        self.ahead: list[str] = []  # of look-aheads at the start: patterns of their own
        self._alternatives = _has_alternatives(text)

    def error(self, what: str) -> GrammarError:
        return GrammarError(
            f"the pattern {self.text[:80]!r} has {what} at {self.place}", param="grammar"
        )

    def disjunction(self, depth: int) -> str:
        if depth > MAX_NESTING:
            raise self.error(f"groups nested deeper than {MAX_NESTING}")
        branches = [self._alternative(depth)]
        while self._peek() == "|":
            self.place += 1
            branches.append(self._alternative(depth))
        return "|".join(branches)

    def _alternative(self, depth: int) -> str:
        terms: list[str] = []
        at_start = depth == 0 and not self._alternatives  # only anchors and look-aheads so far
        while self.place < len(self.text) and self._peek() not in "|)":
            begin = self.place
            if self._peek() == "^":
                self.place += 1
                terms.append("^")
                self._no_quantifier()
                continue
            if self._peek() == "$":
                self.place += 1
                terms.append("$")
                self._no_quantifier()
                at_start = False
                continue
            look = next((s for s in ("(?=", "(?!", "(?<=", "(?<!") if self._at(s)), None)
            if look is not None:
                self._look_around(look, depth, at_start and terms[:1] == ["^"])
                continue
            atom = self._atom(depth)
            at_start = False
            terms.append(atom + self._quantifier(atom))
            assert self.place > begin
        return "".join(terms)

    def _look_around(self, kind: str, depth: int, at_start: bool) -> None:
        """Left out; one that looks ahead from the start of the text is a pattern of its own."""
        self.place += len(kind)
        exact, ahead = self.exact, len(self.ahead)
        inner = self.disjunction(depth + 1)
        inner_exact, self.exact = self.exact, exact
        del self.ahead[ahead:]
        self._expect(")")
        repeated = bool(self._quantifier("(?:)"))  # annex B allows one, which changes little
        if kind == "(?=" and at_start and not repeated:
            self.ahead.append(f"^(?:{inner})")
            self.exact = exact and inner_exact
        else:
            self.exact = False

    def _atom(self, depth: int) -> str:
        char = self._peek()
        match char:
            case ".":
                self.place += 1
                return _DOT
            case "(":
                return self._group(depth)
            case "[":
                return self._class()
            case "\\":
                return self._escape()
            case "*" | "+" | "?":
                raise self.error(f"a {char!r} that repeats nothing")
            case "{" if _QUANTIFIER.match(self.text, self.place):
                raise self.error("a '{' that repeats nothing")
        self.place += 1
        return _literal(ord(char))

    def _quantifier(self, atom: str) -> str:
        found = _QUANTIFIER.match(self.text, self.place)
        if found is None:
            return ""
        low, high = int(found[2] or 0), int(found[4] or found[2] or 0)
        if max(low, high) > MAX_REPEAT:
            raise self.error(f"a repeat of more than {MAX_REPEAT}")
        if found[4] and low > high:
            raise self.error("a repeat whose bounds are the wrong way round")
        self.place = found.end()
        self._no_quantifier()
        return found[1]  # lazy or not matches the same texts

    def _no_quantifier(self) -> None:
        if _QUANTIFIER.match(self.text, self.place):
            raise self.error("a repeat of a repeat or of an anchor")

    def _group(self, depth: int) -> str:
        self.place += 1
        head = "(?:"
        if self._at("?:"):
            self.place += 2
        elif self._at("?>"):  # atomic, in some dialects: gives nothing back
            self.place += 2
            self.exact = False
        elif name := _NAME.match(self.text, self.place):
            self.place = name.end()
        elif flags := _FLAGS.match(self.text, self.place):
            self.place = flags.end()
            kept = flags[1].replace("u", "")
            if flags[2] == ")":
                return f"(?{kept})" if kept.strip("-") else "(?:)"
            head = f"(?{kept}:" if kept.strip("-") else "(?:"
        elif self._at("?"):
            raise self.error("a group of a kind that ECMAScript does not have")
        inner = self.disjunction(depth + 1)
        self._expect(")")
        return f"{head}{inner})"

    def _escape(self) -> str:
        """An escape outside of a class."""
        following = self.text[self.place + 1 : self.place + 2]
        if following in ("b", "B"):
            self.place += 2
            self._no_quantifier()
            self.exact = False
            return "(?:)"
        if following in ("A", "Z", "z") and following:
            self.place += 2
            return "^" if following == "A" else "$"
        if following == "k" or (following.isdigit() and following != "0"):
            reference = re.compile(r"\\(?:k<[\w$]+>|\d+|k)").match(self.text, self.place)
            assert reference is not None
            self.place = reference.end()
            self.exact = False
            return f"(?:{_ANY}*)"
        if following in _NARROW and following:
            self.place += 2
            return f"[{_NARROW[following]}]"
        if following in ("p", "P") and following:
            return self._property(_ANY)
        return _literal(self._character())

    def _property(self, members: str) -> str:
        """`members`: what stands for a property that the grammar library does not know."""
        name = _PROPERTY.match(self.text, self.place + 2)
        if name is None:  # annex B: a plain p
            self.place += 2
            return _literal(ord(self.text[self.place - 1]))
        escape = f"\\{self.text[self.place + 1]}{name[0]}"
        self.place = name.end()
        if _is_known_property(escape):
            return escape
        self.exact = False
        return members

    def _class(self) -> str:
        self.place += 1
        negated = self._peek() == "^"
        self.place += negated
        members: list[str] = []
        while True:
            if self.place >= len(self.text):
                raise self.error("a '[' that is not closed")
            if self._peek() == "]":
                self.place += 1
                break
            low = self._member(negated)
            if (
                isinstance(low, int)
                and self._peek() == "-"
                and self.text[self.place + 1 : self.place + 2] not in ("]", "")
            ):
                hyphen = self.place
                self.place += 1
                high = self._member(negated)
                if isinstance(high, int):
                    if low > high:
                        raise self.error("a range whose ends are the wrong way round")
                    members += _range(low, high)
                    continue
                self.place = hyphen
            members += _range(low, low) if isinstance(low, int) else [low]
        members = [member for member in members if member]
        if not members:  # `[^]` is anything, `[]` nothing
            return _ANY if negated else _NOTHING
        return f"[{'^' if negated else ''}{''.join(members)}]"

    def _member(self, negated: bool) -> int | str:
        """One character of a class, or the members that a class escape stands for."""
        if self._peek() != "\\":
            self.place += 1
            return ord(self.text[self.place - 1])
        following = self.text[self.place + 1 : self.place + 2]
        table = _WIDE if negated else _NARROW
        if following and following in table:
            self.place += 2
            return table[following]
        if following in ("p", "P") and following:
            return self._property("" if negated else r"\x{0}-\x{10ffff}")
        if following == "b":
            self.place += 2
            return 8
        return self._character()

    def _character(self) -> int:
        """An escape that stands for one character."""
        self.place += 1
        char = self._peek()
        if not char:
            raise self.error("a '\\' that escapes nothing")
        self.place += 1
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char == "0":
            return 0
        if char == "c" and self._peek().isascii() and self._peek().isalpha():
            self.place += 1
            return ord(self.text[self.place - 1]) % 32
        if char == "x" and (digits := self._hex(r"[0-9a-fA-F]{2}")) is not None:
            return digits
        if char == "u":
            if (digits := self._hex(r"\{([0-9a-fA-F]{1,6})\}")) is not None:
                if digits > 0x10FFFF:
                    raise self.error("a character beyond Unicode")
                return digits
            if (digits := self._hex(r"[0-9a-fA-F]{4}")) is not None:
                return self._pair(digits)
        return ord(char)

    def _pair(self, high: int) -> int:
        """Two escaped halves of a character are one."""
        if 0xD800 <= high < 0xDC00 and self._at("\\u"):
            before = self.place
            self.place += 2
            low = self._hex(r"[0-9a-fA-F]{4}")
            if low is not None and 0xDC00 <= low < 0xE000:
                return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
            self.place = before
        return high

    def _hex(self, form: str) -> int | None:
        found = re.compile(form).match(self.text, self.place)
        if found is None:
            return None
        self.place = found.end()
        return int(found[found.lastindex or 0], 16)

    # --- reading ---

    def _peek(self) -> str:
        return self.text[self.place : self.place + 1]

    def _at(self, text: str) -> bool:
        return self.text.startswith(text, self.place)

    def _expect(self, char: str) -> None:
        if self._peek() != char:
            raise self.error(f"no {char!r} where one is due")
        self.place += 1


def _literal(code: int) -> str:
    char = chr(code)
    if char.isascii() and char.isalnum():
        return char
    if 0xD800 <= code < 0xE000:  # half a character is in no text
        return _NOTHING
    return f"\\x{{{code:x}}}"


def _range(low: int, high: int) -> list[str]:
    """Members of a class, without the halves of characters."""
    parts = ((low, min(high, 0xD7FF)), (max(low, 0xE000), high))
    return [
        _literal(first) if first == last else f"{_literal(first)}-{_literal(last)}"
        for first, last in parts
        if first <= last
    ]


@functools.lru_cache(maxsize=1024)
def _is_known_property(escape: str) -> bool:
    return not llguidance.LLMatcher.validate_grammar(
        llguidance.LLMatcher.grammar_from_regex(escape)
    )


def _has_alternatives(text: str) -> bool:
    """Whether there is a `|` outside of all groups."""
    depth, in_class, escaped = 0, False, False
    for char in text:
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
        elif char == "|" and depth == 0:
            return True
    return False
