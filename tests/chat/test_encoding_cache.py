"""Kept encodings: the same ids, no call twice, and no more than fits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from perilune.chat.encoding_cache import LONGEST, EncodingCache


class Encoder:
    """Code points as ids, and what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, text: str) -> list[int]:
        self.asked.append(text)
        return [ord(character) for character in text]


@given(st.lists(st.text(max_size=6), max_size=60))
def test_ids_are_those_of_the_encoder(texts: list[str]) -> None:
    cache = EncodingCache(Encoder(), most_characters=20)
    for text in texts:
        assert cache(text) == [ord(character) for character in text]


def test_what_comes_again_is_not_encoded_again() -> None:
    encoder = Encoder()
    cache = EncodingCache(encoder)
    first = cache("a text")
    first.append(0)  # the caller's own
    assert cache("a text") == Encoder()("a text")
    assert encoder.asked == ["a text"]


def test_the_oldest_goes_and_what_is_too_long_is_not_kept() -> None:
    encoder = Encoder()
    cache = EncodingCache(encoder, most_characters=10)
    for text in ("aaaa", "bbbb", "aaaa", "cccc", "aaaa", "bbbb", "d" * 11, "d" * 11):
        cache(text)
    assert encoder.asked == ["aaaa", "bbbb", "cccc", "bbbb", "d" * 11, "d" * 11]
    endless = EncodingCache(encoder := Encoder(), most_characters=100 * LONGEST)
    for _ in range(2):
        endless("e" * (LONGEST + 1))
    assert len(encoder.asked) == 2


def test_many_threads_get_their_own_answers() -> None:
    cache = EncodingCache(Encoder(), most_characters=500)
    texts = [str(index % 90) * (index % 7) for index in range(4000)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(cache, texts))
    assert answers == [Encoder()(text) for text in texts]
