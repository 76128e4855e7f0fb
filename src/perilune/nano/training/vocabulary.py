"""The vocabulary of nano, learnt from what its training episodes write."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from perilune.chat.tokenizer import Tokenizer
from perilune.nano.training.form_tasks import local_name
from perilune.nano.training.mixture import episode
from perilune.nano.training.question_forms import training_forms
from perilune.nano.training.question_source import question_episode
from perilune.nano.training.render import Message, Renderer
from perilune.search.almanac.language import LANGUAGES, language
from perilune.search.almanac.questions import pool
from perilune.train.tokenizer import train_bpe, write_tokenizer


def train_vocabulary(
    folder: Path, vocab_size: int, episodes: int, *, questions: bool = False
) -> None:
    """Learn a vocabulary from the first `episodes` of the mixture; writes the tokenizer's files.

    questions: of the mixture one half, then question forms in five languages, and the names of the
    almanac: the vocabulary of the second nano.
    """
    reserved = 256
    texts = _question_texts(episodes) if questions else _texts(episodes)
    write_tokenizer(folder, train_bpe(texts, vocab_size - reserved))


def _question_texts(episodes: int) -> Iterator[str]:
    """Episodes of both sorts, every training form, and names in all languages: a name that no
    episode drew is to be cut into few tokens, too."""
    yield from _texts(episodes // 2, lambda index: question_episode(index).messages)
    yield from _texts(episodes // 2)
    for form in training_forms():
        yield re.sub(r"\{\w+\}", " ", form.text)
    for kind in ("country", "city", "element", "airport"):
        for address in pool(kind, "train"):
            for code in LANGUAGES:
                yield local_name(address, code)
    for code in LANGUAGES[1:]:
        yield from language(code).local.values()


def _texts(episodes: int, messages: Callable[[int], list[Message]] | None = None) -> Iterator[str]:
    """What the template writes between special tokens, header and all."""
    made = messages or (lambda index: episode(index).messages)
    with tempfile.TemporaryDirectory() as bare:
        write_tokenizer(Path(bare), [bytes([byte]) for byte in range(256)])
        tokenizer = Tokenizer.from_pretrained(bare)
    renderer = Renderer(tokenizer)
    yield from _between(tokenizer, renderer.header)
    for index in range(episodes):
        yield from _between(tokenizer, renderer.render(made(index))[0])


def _between(tokenizer: Tokenizer, ids: list[int]) -> Iterator[str]:
    piece: list[int] = []
    for id_ in ids:
        if tokenizer.is_special(id_):
            yield tokenizer.decode(piece)
            piece = []
        else:
            piece.append(id_)
