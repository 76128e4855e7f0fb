"""The vocabulary that the recipe trains, in the published layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.chat.tokenizer import Tokenizer
from perilune.errors import UsageError
from perilune.train.tokenizer import train_bpe, write_tokenizer

TEXTS = [
    'Look up the population of Gonuzen: {"query": "Gonuzen population"} = 4120 people.',
    "Look up the population of Tavor, and the area of Tavor; look up 4120 and 41.",
    "The population of Tavoris is not that of Tavor. Look, the people of Gonuzen look up.",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, train_bpe(TEXTS * 3, 256 + 50))
    return Tokenizer.from_pretrained(folder)


def test_it_is_read_like_the_published_one(tokenizer: Tokenizer):
    assert tokenizer.vocab_size == 256 + 50 + 256
    assert tokenizer.special_ids.think is not None
    assert tokenizer.special_ids.im_end is not None


@settings(max_examples=200)
@given(st.text(max_size=60))
def test_every_text_comes_back(tokenizer: Tokenizer, text: str):
    text = text.encode("utf-8", "replace").decode()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_and_marks_stay_alone(tokenizer: Tokenizer):
    for token_id in range(256, 256 + 50):
        token = tokenizer.token_bytes(token_id).decode()
        assert token.strip().isalpha(), token
        assert " " not in token[1:]
    assert [tokenizer.decode([i]) for i in tokenizer.encode('{"41": 5}')] == [
        "{", '"', "4", "1", '"', ":", " ", "5", "}",
    ]  # fmt: skip


def test_a_name_is_cut_alike_with_and_without_a_space(tokenizer: Tokenizer):
    for name in ("Gonuzentavo", "Populooki", "Zotavopa"):
        bare = [tokenizer.decode([i]) for i in tokenizer.encode(name)]
        spaced = [tokenizer.decode([i]) for i in tokenizer.encode(f" {name}")]
        assert len(bare) > 2
        assert spaced[-len(bare) + 1 :] == bare[1:]
        assert "".join(spaced[: -len(bare) + 1]) == f" {bare[0]}"


def test_equal_texts_give_an_equal_vocabulary():
    assert train_bpe(TEXTS, 300) == train_bpe(iter(TEXTS), 300)


def test_too_small_and_too_large_vocabularies_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="256 bytes"):
        train_bpe(TEXTS, 200)
    with pytest.raises(UsageError, match="have words for"):
        train_bpe(["ab ab"], 400)
