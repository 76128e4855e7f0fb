"""Valid Unicode: every text, every cut, every nesting."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perilune.text import TextJoiner, valid_json, valid_text

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("plain", "plain"),
        ("日本 😀", "日本 😀"),
        ("\ud83d", "\ufffd"),
        ("a\ud83db", "a\ufffdb"),
        ("\ud83d\ude00", "😀"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("caf\udce9.txt", "caf\ufffd.txt"),
        ("\x00\ufeff\ufffe", "\x00\ufeff\ufffe"),
    ],
)
def test_halves_are_joined_or_replaced(given_text: str, expected: str) -> None:
    assert valid_text(given_text) == expected


@given(ANY_TEXT)
def test_every_text_becomes_valid_and_a_valid_one_stays(text: str) -> None:
    mended = valid_text(text)
    mended.encode()
    assert valid_text(mended) is mended
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert mended is text


@given(ANY_TEXT, st.lists(st.integers(0, 40)))
def test_pieces_add_up_to_the_whole(text: str, cuts: list[int]) -> None:
    joiner = TextJoiner()
    places = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [text[a:b] for a, b in itertools.pairwise(places)]
    given_out = [joiner.feed(piece) for piece in pieces] + [joiner.finish()]
    assert "".join(given_out) == valid_text(text)
    for piece in given_out:
        piece.encode()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | ANY_TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
        max_leaves=12,
    )
)
def test_every_json_value_becomes_valid(value: Any) -> None:
    json.dumps(valid_json(value), ensure_ascii=False).encode()


def test_a_value_that_needs_nothing_is_not_touched_however_deep() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    assert valid_json(deep) is deep
    bad: Any = "\ud83d"
    for _ in range(5000):
        bad = [bad]
    valid_json(bad)  # no recursion error
