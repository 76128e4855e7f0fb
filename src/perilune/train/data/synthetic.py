"""A synthetic task for tests and throughput: repeat a random string of ids."""

from __future__ import annotations

import random
from pathlib import Path

from perilune.train.data.document import Document
from perilune.train.data.hashing import hash64
from perilune.train.data.sources import Source


def copy_source(
    seed: int,
    tokenizer: Path | None,
    *,
    vocabulary: int = 64,
    shortest: int = 4,
    longest: int = 12,
    header: int = 0,
) -> Source:
    """`a b c SEP a b c SEP`, loss on the copy only. Id 0 separates, 1.. are the letters.

    `header` ids of one of two headers come before each document.
    """
    headers = [tuple(1 + (7 * i + k) % (vocabulary - 1) for i in range(header)) for k in (0, 3)]

    def document(index: int) -> Document:
        stream = random.Random(hash64(seed, index))  # noqa: S311
        word = [stream.randrange(1, vocabulary) for _ in range(stream.randint(shortest, longest))]
        ids = [*word, 0, *word, 0]
        trained = [i > len(word) for i in range(len(ids))]
        return Document(ids, trained, stream.choice(headers))

    return document
