"""Tokenizer files for random checkpoints: byte-level, valid, and made up on the spot.

`tiktoken.model` has all 256 bytes, then merges learnt from a few lines below, then, where the
vocabulary is of full size, every pair and enough triples of printable ASCII characters.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

from perilune.chat.special_tokens import RESERVED
from perilune.chat.tokenizer_files import vocabulary_files

_SAMPLE = (
    "The moon goes round the earth in about twenty-seven days, and the point of its orbit that is "
    "nearest is called the perilune. What is the weather in Berlin? Let me look that up for you. "
    "The answer to the question is that there are three of them and that one is not like the "
    "other. def main(arguments):\n    return [number for number in arguments if number > 10]\n"
    "Der Mond umkreist die Erde, und die Erde umkreist die Sonne. 你好，世界。月亮绕着地球转。"
)


def tokenizer_files(vocab_size: int) -> dict[str, bytes]:
    """`tiktoken.model` and `tokenizer_config.json` of a vocabulary with its 256 reserved ids."""
    ordinary = vocab_size - RESERVED
    if ordinary < 256:
        raise ValueError(f"a vocabulary of {vocab_size} has no room for bytes and reserved ids")
    return vocabulary_files(list(itertools.islice(_tokens(), ordinary)))


def _tokens() -> Iterator[bytes]:
    """Distinct tokens, each a single byte or two earlier ones; more than any vocabulary needs."""
    seen = [bytes([b]) for b in range(256)]
    seen += _merges()
    yield from seen
    printable = [bytes([b]) for b in range(32, 127)]
    known = set(seen)
    for length in (2, 3):
        for letters in itertools.product(printable, repeat=length):
            token = b"".join(letters)
            if token not in known:
                yield token


def _merges() -> list[bytes]:
    """Byte-pair encoding, learnt from the words of _SAMPLE: every pair that comes more than once,
    the most frequent first, ties to the one that comes first in the text.
    """
    words = [[bytes([b]) for b in f" {word}".encode()] for word in _SAMPLE.split()]
    merged: dict[bytes, None] = {}
    while True:
        pairs = Counter(pair for word in words for pair in itertools.pairwise(word))
        left, right = max(pairs, key=lambda pair: pairs[pair])
        if pairs[left, right] < 2:
            return list(merged)
        merged[left + right] = None
        words = [_merge(word, left, right) for word in words]


def _merge(word: list[bytes], left: bytes, right: bytes) -> list[bytes]:
    out: list[bytes] = []
    for part in word:
        if out and out[-1] == left and part == right:
            out[-1] = left + right
        else:
            out.append(part)
    return out
