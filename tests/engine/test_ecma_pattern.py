"""ECMAScript's patterns as the grammars hold them."""

from __future__ import annotations

import json
import re
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perilune.engine.ecma_pattern import translate
from perilune.engine.sampling_params import Grammar
from perilune.errors import RequestError

from .byte_grammar import draw, takes


def held(pattern: str) -> Grammar:
    """A string of which the pattern is found somewhere, as the JSON grammars have it."""
    return Grammar.json_schema({"type": "string", "pattern": pattern})


def fits(pattern: str, text: str) -> bool:
    return takes(held(pattern), json.dumps(text, ensure_ascii=False))


@pytest.mark.parametrize(
    ("pattern", "exact", "good", "bad"),
    [
        (r"^a\/b\-c$", True, ["a/b-c"], ["ab"]),
        (r"^\u{1F600}\ud83d\ude00\x41\cA$", True, ["😀😀A\x01"], ["A"]),
        (r"^[^]$", True, ["x", "é"], ["xx"]),
        (r"^[[a&&b]$", True, ["[", "&", "a", "b"], ["c"]),
        (r"^a{,2}{$", True, ["a{,2}{"], ["aa"]),
        (r"^(?<year>\d{4})-(?P<m>\d\d)$", True, ["2026-11"], ["2026-1"]),
        (r"\Aab\Z", True, ["ab"], ["xab"]),
        (r"(?i)^ab$", True, ["aB"], ["ac"]),
        (r"^a$|^b$", True, ["a", "b"], ["ab"]),
        (r"^[\ud800-\udfffa]$", True, ["a"], ["b"]),
        (r"^(?=.*\d)(?=.*[a-z])[a-z\d]{2,5}$", True, ["a1", "1ab"], ["ab", "12"]),
        (r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$", True, ["1", "+.5", "-0.5", "1."], ["", "+", "."]),
        # From here on, more is let through than the pattern says, never less.
        (r"^(?!a)[a-z]+$", False, ["b", "a"], ["1"]),
        (r"^(?=.*\d)(?!.*--)[a-z0-9-]+$", False, ["a1", "a--1"], ["a"]),
        (r"^a(?<=a)b$", False, ["ab"], ["b"]),
        (r"^(a|b)\1$", False, ["aa", "ab"], ["ca"]),
        (r"^(?<x>a)\k<x>$", False, ["aa"], ["b"]),
        (r"\bfoo\b", False, ["foo", "xfoo"], ["fo"]),
        (r"^(?>a+)b$", False, ["aab"], ["a"]),
        (r"^\p{Emoji_That_Is_None}$", False, ["x"], ["xx"]),
        (r"^[^\p{Nope}]$", False, ["x"], ["xx"]),
    ],
)
def test_patterns(pattern: str, exact: bool, good: list[str], bad: list[str]) -> None:
    assert translate(pattern).exact is exact
    assert [text for text in good if not fits(pattern, text)] == []
    assert [text for text in bad if fits(pattern, text)] == []


@pytest.mark.parametrize(
    "pattern",
    ["((((", "a)", "[z-a]", "*a", "a**", "^*", "a{3,2}", "(?", "(?#x)a", "[a", "\\", "a++",
     "a{100001}", "(" * 200 + ")" * 200, "\\u{110000}"],
)  # fmt: skip
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(RequestError) as caught:
        translate(pattern)
    assert caught.value.param == "grammar"


def test_classes_are_those_that_python_and_ecmascript_share() -> None:
    for escape in "dwsDWS":
        for form in (f"^\\{escape}$", f"^[\\{escape}]$", f"^[^\\{escape}]$"):
            for seed in range(6):
                text = draw(Grammar.regex(translate(form).patterns[0]), seed)
                assert text is not None and re.search(form, text), (form, text)


PIECES = st.sampled_from(
    ["a", "b", "[a-c]", "[^a]", "\\d", "\\w", "\\s", ".", "\\.", "é", "\\u0061", "(?:a|b)", "(a)",
     "(?<n>b)", "x?", "a*", "b+?", "c{1,3}", "\\b", "(?=a)", "(?!b)", "\\1", "^", "$", "|", "(",
     ")", "[", "]", "{", "}", "*", "-", "\\", "\\p{L}", "(?i)", "\\/"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=7).map("".join))
def test_whatever_the_pattern_is_it_becomes_one_or_is_refused(pattern: str) -> None:
    """And an exact one lets nothing through that Python's reader of the pattern refuses."""
    try:
        found = translate(pattern)
    except RequestError:
        return
    if not found.exact or len(found.patterns) > 1:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            as_python = pattern.replace("(?<n>", "(?P<n>").replace("\\p{L}", r"[^\W\d_]")
            compiled: Any = re.compile(as_python)
    except re.error:
        return  # Python's dialect is another
    try:
        text = draw(Grammar.regex(f"(?:{found.patterns[0]})"), 1, most=200)
    except AssertionError:
        return  # nothing matches it, such as `a^`
    if text is not None and len(text) < 40:
        assert compiled.search(text), (found, text)
