"""The trained weights in our own engine: hundreds of attempts sampled as one batch.

The engine computes with a copy of the network as it stands (rounded experts in INT4 training) in
float32, so its log-probabilities are the trainer's to rounding. A token depends on prompt, weights
and seed alone, whatever is sampled beside it: a step that is done again brings the same attempts.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from itertools import count
from types import TracebackType
from typing import Self

from perilune.chat.deltas import FinishReason
from perilune.chat.format import ChatFormat
from perilune.engine.async_engine import AsyncEngine
from perilune.engine.core_messages import Add
from perilune.engine.request import OutputFormat
from perilune.engine.sampling_params import SamplingParams
from perilune.model.model import KimiK2Model
from perilune.train.rl.rollout import Sample

CACHE_TOKENS = 65_536
"""Of the latent cache: 64 attempts of 1,024 tokens. Where it is short, attempts wait."""


class EnginePolicy:
    """`AsyncPolicy` over a model in memory; `async with` runs its engine.

    `chat` keeps ids that the tokenizer does not have from being sampled. On a GPU, the copy is
    sampled by the processor all the same.
    """

    def __init__(self, model: KimiK2Model, chat: ChatFormat | None = None) -> None:
        frozen = copy.deepcopy(model).cpu().requires_grad_(requires_grad=False)
        self._engine = AsyncEngine(
            frozen, chat=chat, exact=True, cache_tokens=CACHE_TOKENS, max_batch_tokens=1024
        )
        self._numbers = count()
        self.tokens = 0

    async def __aenter__(self) -> Self:
        await self._engine.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._engine.close()

    async def warm(self, header: Sequence[int]) -> None:
        """Compute what all prompts begin with, so that each of them finds it in the cache."""
        if header:
            await self.sample(header, max_tokens=1, temperature=0.0, stop_ids=(), seed=0)

    async def sample(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        stop_ids: Collection[int],
        seed: int,
    ) -> Sample:
        params = SamplingParams(
            max_tokens=max_tokens, temperature=temperature, stop_token_ids=tuple(stop_ids),
            seed=seed, logprobs=0, speculate=False,
        )  # fmt: skip
        name = f"sample-{next(self._numbers)}"
        stream = await self._engine.submit(
            Add(name, list(prompt), params, output=OutputFormat.TOKENS)
        )
        ids: list[int] = []
        logprobs: list[float] = []
        finished = False
        try:
            async for output in stream:
                ids += output.tokens
                logprobs += [each.logprob for each in output.logprobs]
                finished = finished or output.finish_reason is FinishReason.STOP
        finally:
            await stream.aclose()
        self.tokens += len(ids)
        return Sample(ids, logprobs, finished)
