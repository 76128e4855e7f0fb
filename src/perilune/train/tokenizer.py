"""Trains a byte-level BPE vocabulary and writes it as Kimi K2 publishes its own.

Merges stay within letters: every digit is a token of its own, and so is every mark, so that
numbers are copied digit by digit and a grammar finds token borders at the quotes and braces of
JSON. The 256 reserved ids follow the ordinary ones, as in the published vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from itertools import pairwise
from pathlib import Path

import regex

from perilune.chat.tokenizer_files import vocabulary_files
from perilune.errors import UsageError

Pair = tuple[bytes, bytes]

# Words with at most one mark or space before them, as the published pattern cuts them; all else
# alone. A merge learnt on these pieces never crosses a border of the published pattern.
_PIECES = regex.compile(r" ?\p{L}+|\s|.", regex.S)
_LETTERS = regex.compile(r" ?\p{Lu}*\p{Ll}+|.", regex.S)


def train_bpe(texts: Iterable[str], ordinary: int) -> list[bytes]:
    """Token bytes by rank, `ordinary` in number: the 256 bytes, then the merges.

    The most frequent pair first; ties go to the smaller bytes, so that equal texts give an equal
    vocabulary. Raises UsageError where the texts have too few pairs, or there is no room.
    """
    if ordinary < 256:
        raise UsageError(f"{ordinary} tokens have no room for the 256 bytes")
    counts: Counter[str] = Counter()
    for text in texts:
        for piece in _PIECES.findall(text):
            counts.update(_LETTERS.findall(piece))
    words = [
        ([bytes([byte]) for byte in word.encode()], count)
        for word, count in sorted(counts.items())
        if len(word.encode()) > 1
    ]
    pairs: Counter[Pair] = Counter()
    where: dict[Pair, set[int]] = {}
    for index, (parts, count) in enumerate(words):
        for pair in _mergeable(parts):
            pairs[pair] += count
            where.setdefault(pair, set()).add(index)
    queue = [(-count, pair) for pair, count in pairs.items()]
    heapify(queue)
    tokens = [bytes([byte]) for byte in range(256)]
    known = set(tokens)
    while len(tokens) < ordinary:
        if not queue:
            raise UsageError(f"the texts have words for {len(tokens)} tokens, not for {ordinary}")
        count, pair = heappop(queue)
        if -count != pairs[pair] or not count:
            continue  # counted again since; the new entry is in the queue
        changed: set[Pair] = set()
        for index in where.pop(pair):
            parts, times = words[index]
            merged_parts = _merge(parts, *pair)
            for each in _mergeable(parts):
                pairs[each] -= times
                changed.add(each)
            for each in _mergeable(merged_parts):
                pairs[each] += times
                where.setdefault(each, set()).add(index)
                changed.add(each)
            words[index] = (merged_parts, times)
        for each in changed:
            heappush(queue, (-pairs[each], each))
        merged = pair[0] + pair[1]
        if merged not in known:
            known.add(merged)
            tokens.append(merged)
    return tokens


def read_texts(files: Iterable[Path]) -> Iterator[str]:
    """The lines of text files. Raises UsageError for one that is not UTF-8 text."""
    for file in files:
        try:
            with file.open(encoding="utf-8") as stream:
                yield from stream
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{file} cannot be read as text: {error}") from None


def write_tokenizer(folder: Path, tokens: list[bytes]) -> None:
    """`tiktoken.model` and `tokenizer_config.json` into an existing folder."""
    for name, content in vocabulary_files(tokens).items():
        (folder / name).write_bytes(content)


def _mergeable(parts: list[bytes]) -> list[Pair]:
    """Neighbours that may become a token. A capital joins what follows only as a whole word.

    So a name is cut alike with a space before it and without, but for its first letter, and to
    copy it is to copy its tokens.
    """
    pairs = list(pairwise(parts))
    if len(pairs) > 1 and parts[0].strip()[:1].decode("latin-1").isupper():
        del pairs[0]
    return pairs


def _merge(parts: list[bytes], left: bytes, right: bytes) -> list[bytes]:
    out: list[bytes] = []
    for part in parts:
        if out and out[-1] == left and part == right:
            out[-1] = left + right
        else:
            out.append(part)
    return out
