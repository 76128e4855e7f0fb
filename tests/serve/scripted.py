"""A network that says what a script tells it to, behind the real engine.

Scheduler, structured output, parsers, usage and cancellation are the real ones; only the logits
are written by hand: one-hot on the next token of the script. The script of a turn is chosen by the
text of its prompt, so that any client can hold any conversation with it.

    model = Scripted([Turn("Hello!", reasoning="They greet.")])
    model = Scripted(lambda prompt: Turn(calls=[("get_weather", {"city": "Oslo"})]))
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from perilune.chat.format import ChatFormat
from perilune.engine.conversation import next_call_index
from perilune.engine.engine import Engine
from perilune.engine.input_processor import EngineConfig
from perilune.engine.scheduler import SchedulerConfig
from perilune.runner.batch import ForwardBatch
from perilune.runner.cache import PagedLatentCache

from .seeing import Eyes

SURE = 100.0  # logit of the scripted token; all others are 0


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the model. `raw` replaces all of it by token ids."""

    content: str = ""
    reasoning: str = ""
    calls: Sequence[tuple[str, Mapping[str, Any] | str]] = ()
    raw: Sequence[int] | None = None
    endless: bool = False  # repeats its content until somebody stops it


Responder = Callable[[str], Turn]


@dataclass(slots=True)
class Scripted:
    """The script: turns in order of the prompts' first sight, or a function of the prompt's text.

    After the last turn of a list, it is said again. `step_seconds`: how long a step takes.
    """

    turns: Sequence[Turn] | Responder
    step_seconds: float = 0.0
    prompts: list[str] = field(default_factory=list)  # as they were seen

    def turn(self, prompt: str) -> Turn:
        self.prompts.append(prompt)
        if callable(self.turns):
            return self.turns(prompt)
        return self.turns[min(len(self.prompts), len(self.turns)) - 1]


class ScriptedForward:
    """`ModelRunner` of a script. The cache keeps (token, position), and gives the context back."""

    def __init__(self, script: Scripted, chat: ChatFormat, vocab_size: int) -> None:
        self.script = script
        self._chat = chat
        self._vocab_size = vocab_size
        self._tokens: dict[tuple[int, ...], list[int]] = {}  # prompt -> the turn's tokens
        self._answers: dict[tuple[int, ...], int] = {}  # prompt -> where its answer begins there

    def execute(self, batch: ForwardBatch, cache: PagedLatentCache) -> Tensor:
        if self.script.step_seconds:
            time.sleep(self.script.step_seconds)
        storage = cache.storage[0]
        starts, wanted = batch.query_starts.tolist(), set(batch.logits_rows.tolist())
        logits = torch.zeros(len(batch.logits_rows), self._vocab_size)
        row_out = 0
        for s, length in enumerate(batch.context_lengths.tolist()):
            pages = batch.page_tables[s, : -(-length // 64)].long()
            rows = torch.arange(starts[s], starts[s + 1])
            positions = batch.positions[rows].long()
            values = torch.stack([batch.input_ids[rows].float(), positions.float()], dim=1)
            storage[pages[positions // 64], positions % 64] = values
            context = storage[pages].reshape(-1, 2)[:length, 0].long().tolist()
            for row in rows.tolist():
                if row in wanted:
                    seen = context[: int(batch.positions[row]) + 1]
                    logits[row_out, self._next(seen)] = SURE
                    row_out += 1
        return logits

    def _next(self, context: list[int]) -> int:
        ids = self._chat.special_ids
        assert ids.im_assistant is not None and ids.im_middle is not None
        try:
            start = len(context) - 1 - context[::-1].index(ids.im_assistant)
            head = context.index(ids.im_middle, start) + 1
        except ValueError:  # a plain text: it goes on with what it ends with
            return context[-1]
        key = tuple(context[:head])
        tokens = self._tokens.get(key)
        if tokens is None:
            tokens = self._tokens[key] = self._encode(key)
        place = len(context) - head - self._opened
        if context[head : head + 2] == [ids.think, ids.end_think]:
            # The prompt or the model has closed the thinking at once: the answer comes next.
            place = len(context) - head - 2 + self._answers.get(key, 0)
        return tokens[place] if place < len(tokens) else tokens[place % max(1, len(tokens))]

    @property
    def _opened(self) -> int:
        """Tokens of the turn that the prompt has written: `<think>`."""
        return 1 if self._chat.template.can_switch_thinking else 0

    def _encode(self, prompt: tuple[int, ...]) -> list[int]:
        turn = self.script.turn(self._chat.decode(prompt))
        if turn.raw is not None:
            return list(turn.raw)
        ids, encode = self._chat.special_ids, self._chat.tokenizer.encode
        tokens: list[int | None] = []
        if turn.endless:
            return encode(turn.content)
        if self._chat.template.has_thinking:
            tokens += [*encode(turn.reasoning), ids.end_think]
            self._answers[prompt] = len(tokens)
        tokens += encode(turn.content)
        first = next_call_index(self._chat, prompt)
        if turn.calls:
            tokens.append(ids.tool_calls_section_begin)
            for n, (name, arguments) in enumerate(turn.calls):
                text = arguments if isinstance(arguments, str) else json.dumps(arguments)
                tokens += [
                    ids.tool_call_begin, *encode(f"functions.{name}:{first + n}"),
                    ids.tool_call_argument_begin, *encode(text), ids.tool_call_end,
                ]  # fmt: skip
            tokens.append(ids.tool_calls_section_end)
        tokens.append(ids.im_end)
        return [token for token in tokens if token is not None]


def scripted_engine(
    script: Scripted,
    chat: ChatFormat,
    *,
    max_context: int = 131_072,
    cache_tokens: int = 262_144,
    max_sequences: int = 16,
    eyes: Eyes | None = None,
) -> Engine:
    """A real engine over a script; give it to `AsyncEngine`. `eyes`: it takes pictures too."""
    vocab_size = chat.tokenizer.vocab_size
    cache = PagedLatentCache(
        num_layers=1, latent_dim=2, num_pages=cache_tokens // 64, dtype=torch.float32
    )
    return Engine(
        ScriptedForward(script, chat, vocab_size),
        cache,
        EngineConfig(
            vocab_size=vocab_size,
            max_context=max_context,
            identity="scripted",
            stop_ids=chat.stop_ids,
            scheduler=SchedulerConfig(4096, max_sequences, 0),
            seed=1,
            encoder=None if eyes is None else eyes.config,
        ),
        chat=chat,
        media_encoder=None if eyes is None else eyes.encoder(),
    )
