"""Episodes as token ids by the real template, and the vocabulary that they are written in."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from perilune.agent.models.scripted import ScriptedModel
from perilune.agent.tool_registry import ToolRegistry
from perilune.chat.format import ChatFormat
from perilune.chat.tokenizer import Tokenizer
from perilune.config import Family
from perilune.nano.agent import SYSTEM_PROMPT
from perilune.nano.swarm import ORCHESTRATOR_PROMPT, nano_swarm
from perilune.nano.tools import compact_tools
from perilune.nano.training.mixture import episode
from perilune.train.tokenizer import train_bpe, write_tokenizer

Message = dict[str, Any]


class Renderer:
    """Messages -> ids, with what is to be learnt marked.

    `header` holds the ids of tool declarations and system prompt, the beginning of every prompt;
    both are those of nano by itself where they are left out.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        system_prompt: str = SYSTEM_PROMPT,
        declarations: list[dict[str, Any]] | None = None,
    ) -> None:
        self._chat = ChatFormat(tokenizer, Family.K25)
        self._tools = declarations or ToolRegistry(compact_tools()).declarations()
        self._system: list[Message] = [{"role": "system", "content": system_prompt}]
        self.header = self._chat.encode(self._system, self._tools, add_generation_prompt=False)

    def render(self, messages: list[Message]) -> tuple[list[int], list[bool]]:
        """-> ids behind the header, and for each whether the model is to produce it.

        What the model produces begins behind the generation prompt (`<think>` is part of it) and
        ends with `<|im_end|>`. The reasoning of every turn stays, as it does in a running chain of
        tool calls. A text of the user or of a tool cannot hold special ids, so ids tell it all.
        """
        conversation = [*self._system, *messages]
        ids = self._chat.encode(
            conversation, self._tools, add_generation_prompt=False, preserve_thinking=True
        )[len(self.header) :]
        special = self._chat.special_ids
        trained: list[bool] = []
        inside = assistant = False
        for id_ in ids:
            trained.append(inside)
            if id_ == special.im_assistant:
                assistant = True
            elif id_ == special.think and assistant:
                inside, assistant = True, False
            elif id_ == special.im_end:
                inside = False
        return ids, trained


def orchestrator_renderer(tokenizer: Tokenizer) -> Renderer:
    """Renders behind the header of nano as the orchestrator of a swarm."""
    swarm = nano_swarm(ScriptedModel([]))
    return Renderer(tokenizer, ORCHESTRATOR_PROMPT, swarm.declarations())


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
    from perilune.nano.training.form_tasks import local_name
    from perilune.nano.training.question_forms import training_forms
    from perilune.nano.training.question_source import question_episode
    from perilune.search.almanac.language import LANGUAGES, language
    from perilune.search.almanac.questions import pool

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
