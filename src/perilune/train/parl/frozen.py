"""The frozen sub-agents: weights that no step changes, and a model that is asked everything once.

A greedy model with fixed weights is a function of its prompt. Attempts at one task give out the
same pieces of work again and again, so what was said to a prompt is remembered for the step.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from perilune.agent.models.chat_model import ChatModel, Message, Sampling
from perilune.chat.deltas import Delta
from perilune.errors import UsageError
from perilune.formats.bf16 import BF16
from perilune.formats.int4 import INT4
from perilune.kernels.native import GROUP
from perilune.model.model import KimiK2Model
from perilune.train.config import ParlConfig
from perilune.train.export import export_model

WORKER = "worker"
"""The folder of the sub-agents' weights, within the stage's."""


class RememberedModel:
    """A `ChatModel` that asks `inner` each prompt once; also while the answer is on its way."""

    def __init__(self, inner: ChatModel) -> None:
        self._inner = inner
        self._known: dict[bytes, asyncio.Task[list[Delta]]] = {}
        self.asked = self.computed = 0

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def endpoint(self) -> str:
        return self._inner.endpoint

    @property
    def context_window(self) -> int | None:
        return self._inner.context_window

    async def prepare(self) -> None:
        await self._inner.prepare()

    async def close(self) -> None:
        self.forget()
        await self._inner.close()

    def count_tokens(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]
    ) -> int | None:
        return None  # the loop's estimate will do: contexts are short, and kept whole

    def forget(self) -> None:
        """Drop what was remembered."""
        self._known.clear()

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], sampling: Sampling
    ) -> AsyncGenerator[Delta, None]:
        if sampling.temperature != 0:
            raise UsageError("only what a greedy model says can be remembered")
        self.asked += 1
        key = msgspec.json.encode((messages, tools, sampling.max_tokens, sampling.thinking))
        task = self._known.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            self.computed += 1
            task = asyncio.ensure_future(self._whole(messages, tools, sampling))
            self._known[key] = task
        # Who asked first may be cut off; the others still wait for the same answer.
        for delta in await asyncio.shield(task):
            yield delta

    async def _whole(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], sampling: Sampling
    ) -> list[Delta]:
        return [delta async for delta in self._inner.complete(messages, tools, sampling)]


def frozen_worker(
    config: ParlConfig,
    folder: Path,
    starting_model: Callable[[], KimiK2Model],
    tokenizer: str | Path | None,
) -> Path:
    """The checkpoint folder of the sub-agents: the one that is named, or a copy in `folder` of the
    weights that the stage starts from, written once and used by every resume.

    Raises UsageError where the named one is none.
    """
    if config.worker is not None:
        named = Path(config.worker)
        if not (named / "config.json").is_file():
            raise UsageError(
                f"the sub-agents' worker {named} is not a checkpoint folder",
                remedy="Name a folder that `perilune train export` made, or leave `worker` out",
            )
        return named
    place = folder / WORKER
    if place.is_dir():
        return place
    model = starting_model()
    shape = model.config
    packs = shape.hidden_size % GROUP == 0 and shape.moe_intermediate_size % GROUP == 0
    partial = folder / f"{WORKER}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    storage = INT4 if packs else BF16
    export_model(model, partial, storage=storage, tokenizer=tokenizer)
    partial.rename(place)
    return place
