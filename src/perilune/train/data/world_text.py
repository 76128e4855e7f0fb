"""Generated worlds as plain text, every token trained: what pre-training reads."""

from __future__ import annotations

from pathlib import Path

from perilune.chat.tokenizer import Tokenizer
from perilune.errors import UsageError
from perilune.train.data.document import Document
from perilune.train.data.sources import Source
from perilune.world.render import render_document
from perilune.world.seed import Seed, Split


def world_text_source(
    seed: int, tokenizer: Path | None, *, questions: int = 3, distractors: int = 3
) -> Source:
    """One fresh world a document; the end is trained too ([EOS])."""
    if tokenizer is None:
        raise UsageError("world-text needs a tokenizer", remedy="Name its folder: tokenizer = ...")
    vocabulary = Tokenizer.from_pretrained(tokenizer)
    bos, eos = (vocabulary.special_tokens[name] for name in ("[BOS]", "[EOS]"))

    def document(index: int) -> Document:
        # Seeds of one run do not overlap with those of the next.
        text = render_document(Seed(Split.TRAIN, seed * 2**44 + index), questions, distractors)
        ids = [bos, *vocabulary.encode(text), eos]
        return Document(ids, [False, *[True] * (len(ids) - 1)])

    return document
