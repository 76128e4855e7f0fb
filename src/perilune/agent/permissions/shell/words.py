"""Words of bash as the command sees them: quotes taken off, `WILD` for what only a run can tell."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node

WILD = "\x00"
"""Stands for any text, the empty one included. No shell line can hold a zero byte itself."""

_GLOB = re.compile(r"[*?]|\[[^]]+\]|[@!+]\([^)]*\)|\{[^{}]*(?:,|\.\.)[^{}]*\}")
_BARE = frozenset({"word", "number", "brace_expression", "extglob_pattern"})
_ANSI = re.compile(
    r"\\(?:x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{1,4})|U([0-9a-fA-F]{1,8})|([0-7]{1,3})|c(.)|(.))",
    re.DOTALL,
)
_NAMED = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "e": "\x1b", "E": "\x1b",
          "f": "\f", "v": "\v"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Word:
    """One word. `text` may hold `WILD`; `fixed`: it holds none and nothing was expanded.

    `simple`: what is wild in it are file globs and plain variables, which run no command.
    """

    text: str
    simple: bool = True

    @property
    def fixed(self) -> bool:
        return WILD not in self.text


def read_words(nodes: list[Node]) -> list[Word]:
    """The words that nodes of the grammar stand for.

    The grammar parts a word such as `'r'\\m`; nodes without a gap between them are one.
    """
    words: list[Word] = []
    end = -1
    for node in nodes:
        text, simple = _read(node)
        if node.start_byte == end and words:
            text, simple = words[-1].text + text, words[-1].simple and simple
            words.pop()
        words.append(Word(re.sub(f"{WILD}+", WILD, text), simple))
        end = node.end_byte
    return words


def _read(node: Node) -> tuple[str, bool]:
    kind = node.type
    if kind in ("word", "number", "variable_name", "extglob_pattern", "regex", "test_operator"):
        return _unquoted(_source(node)), True
    if kind == "raw_string":
        return _source(node)[1:-1], True
    if kind == "ansi_c_string":
        return _ansi(_source(node)[2:-1]), True
    if kind in ("string", "translated_string"):
        return _double_quoted(node)
    if kind == "simple_expansion":
        return WILD, True
    if kind in ("concatenation", "command_name"):
        parts = _children(node)
        text, simple = "", True
        for part in parts:
            more, its_simple = _read(part)
            text, simple = text + more, simple and its_simple
        # Globs and braces come apart in the grammar: `r[m]` is four words, `r{m,x}` six.
        bare = "".join(_source(part) for part in parts if part.type in _BARE or not part.is_named)
        if kind == "concatenation" and (_GLOB.search(bare) or ("{" in bare and "," in bare)):
            return WILD, simple
        return text, simple
    if kind == "brace_expression":
        return WILD, True
    if not node.children and kind not in ("expansion", "command_substitution"):
        return _unquoted(_source(node)), True
    return WILD, False


def _children(node: Node) -> list[Node]:
    """The parts of a word, with what the grammar leaves between them as text."""
    return list(node.children) or [node]


def _double_quoted(node: Node) -> tuple[str, bool]:
    """What stands in double quotes; the parts between expansions keep their white space."""
    start = node.start_byte
    source = node.text or b""
    text, simple = "", True
    place = source.find(b'"') + 1
    for part in node.children:
        if part.type in ('"', '$"', "$") or not part.is_named or part.type == "string_content":
            continue
        text += _in_double_quotes(source[place : part.start_byte - start])
        text += WILD
        simple = simple and part.type == "simple_expansion"
        place = part.end_byte - start
    return text + _in_double_quotes(source[place : len(source) - 1]), simple


def _in_double_quotes(source: bytes) -> str:
    return re.sub(r'\\([$`"\\\n])', lambda m: m[1].strip("\n"), source.decode("utf-8", "replace"))


def _unquoted(source: str) -> str:
    """A bare word: backslashes taken off, file globs and braces wild."""
    text = ""
    place = 0
    for match in re.finditer(r"\\(.)|" + _GLOB.pattern, source, re.DOTALL):
        text += source[place : match.start()]
        text += match[1].strip("\n") if match[1] is not None else WILD
        place = match.end()
    return text + source[place:]


def _ansi(source: str) -> str:
    """The text of `$'...'`."""

    def one(match: re.Match[str]) -> str:
        for group, base in ((1, 16), (2, 16), (3, 16), (4, 8)):
            if match[group] is not None:
                code = int(match[group], base)
                code = code % 256 if group == 4 else code
                return chr(code) if 0 < code < 0x110000 else WILD
        if match[5] is not None:
            return chr(ord(match[5]) % 32) or WILD
        return _NAMED.get(match[6], match[6])

    return _ANSI.sub(one, source)


def _source(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "replace")
