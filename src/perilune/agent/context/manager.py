"""Keeps what the model is shown within its window.

A compaction must free its share, or the next strategy of the chain is tried; at most one happens a
step, and one that failed is not tried again until the prompt has grown. So there is no loop of
compactions that free nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from perilune.agent.context.dropped_pictures import MOST_PICTURES, within_limits
from perilune.agent.context.strategies import DropPictures, Situation, Strategy
from perilune.agent.context.view import Renderer
from perilune.agent.endings import ContextOverflow
from perilune.agent.journal.state import RunState, View
from perilune.agent.models.chat_model import Message, ModelError
from perilune.agent.models.tokens import TokenCounter
from perilune.events import Compacted, Usage

TRIGGER = 0.85
"""Share of the window at which a compaction begins; the rest is for the completion."""
TARGET = 0.5
"""Share of the window that a compaction aims at."""
MUST_FREE = 0.25
"""Share of the prompt that a compaction must free to count as one."""
LAST_RESORT = 0.97
"""Share of the window up to which a prompt that nothing can shrink is still sent."""

AskModel = Callable[[list[Message]], Awaitable[tuple[str, Usage]]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one step shows the model; `compacted` is set when it had to be made smaller first."""

    messages: list[Message]
    tokens: int
    compacted: Compacted | None = None


class ContextManager:
    """Fits the history of one run into a window of `window` tokens (None: not known)."""

    def __init__(
        self,
        state: RunState,
        counter: TokenCounter,
        strategies: Sequence[Strategy],
        *,
        window: int | None,
        ask: AskModel,
        model: str = "",
    ) -> None:
        self._state = state
        self._counter = counter
        self._strategies = strategies
        self._ask = ask
        self._renderer = Renderer(state, lambda: model not in state.sightless)
        self._most_pictures = MOST_PICTURES
        self._gave_up_at = 0
        self.window = window

    async def fit(self, tools: Sequence[dict[str, Any]], *, room: int = 0) -> Prompt:
        """The prompt of the next step, made smaller when it would leave less than `room` tokens
        (or 15 % of the window) for the completion.

        Raises `ContextOverflow` when what must survive does not fit.
        """
        messages = self._renderer.render(self._state.view)
        tokens = self._counter.prompt(messages, tools)
        limit = self._limit(room)
        if (fewer := within_limits(self._state, self._most_pictures)) is not None:
            messages = self._renderer.render(fewer)
            after = self._counter.prompt(messages, tools)
            return Prompt(messages, after, _compacted(DropPictures.name, fewer, tokens, after))
        if limit is None or tokens <= limit or tokens <= 1.05 * self._gave_up_at:
            return Prompt(messages, tokens)
        assert self.window is not None
        compacted = await self._compact(tools, tokens, limit, window=self.window)
        if compacted is None:
            self._gave_up_at = tokens
            if tokens > LAST_RESORT * self.window:
                raise ContextOverflow(
                    f"the prompt has {tokens} tokens, but the window {self.window}, and "
                    "nothing more can be left out",
                    remedy="Use a model with a longer window, or --context-strategy discard.",
                )
            return Prompt(messages, tokens)
        self._gave_up_at = 0
        messages = self._renderer.render(msgspec.convert(compacted.state, View))
        return Prompt(messages, compacted.tokens_after, compacted)

    async def compact(self, tools: Sequence[dict[str, Any]]) -> Compacted | None:
        """Make the view smaller although it still fits; None when nothing can be left out."""
        tokens = self._counter.prompt(self._renderer.render(self._state.view), tools)
        return await self._compact(tools, tokens, tokens, window=tokens)

    def overflowed(self, tokens: int, *, window: int | None = None) -> None:
        """The endpoint refused a prompt of `tokens` (by our count) as too long: learn its window.

        `window` is what the refusal says of it. Raises `ContextOverflow` when that teaches nothing
        new.
        """
        if self.window is not None and tokens >= 0.95 * self.window and self._gave_up_at:
            raise ContextOverflow(
                "the model refuses the prompt as too long, and it cannot be made shorter"
            )
        if tokens < 500:
            raise ContextOverflow(f"the model refuses even a prompt of {tokens} tokens as too long")
        if window is not None and window >= tokens:
            # The server counted more than we did; its count is at least its window.
            tokens = self._counter.rescale(tokens, window + 1)
        if window is not None and tokens > TRIGGER * window:
            learnt = window
        else:
            learnt = int(0.9 * tokens)
        self.window = min(self.window or learnt, learnt)
        self._gave_up_at = 0

    def too_many_pictures(self, most: int) -> bool:
        """The model takes no more than `most` pictures; whether that is news."""
        news = most < self._most_pictures
        self._most_pictures = min(self._most_pictures, most)
        return news

    def reported(self, counted: int, usage: Usage) -> None:
        """Learn from the endpoint's own count."""
        self._counter.calibrate(counted, usage.prompt_tokens)

    def _limit(self, room: int) -> int | None:
        if self.window is None:
            return None
        return max(min(int(TRIGGER * self.window), self.window - room), self.window // 2)

    async def _compact(
        self, tools: Sequence[dict[str, Any]], before: int, limit: int, *, window: int
    ) -> Compacted | None:
        usage = Usage()

        async def ask(messages: list[Message]) -> str:
            nonlocal usage
            text, spent = await self._ask(messages)
            usage += spent
            return text

        def size(view: View) -> int:
            return self._counter.prompt(self._renderer.render(view), tools)

        target = min(int(TARGET * window), int(before * (1 - MUST_FREE)))
        situation = Situation(self._state, target, size, ask)
        for strategy in self._strategies:
            try:
                view = await strategy.propose(situation)
            except ModelError as error:
                if error.kind != "context":
                    raise
                continue  # what it asked the model did not fit; the next one asks less
            if view is None:
                continue
            after = size(view)
            if after <= limit and after <= before * (1 - MUST_FREE):
                return _compacted(strategy.name, view, before, after, usage)
        return None


def _compacted(
    name: str, view: View, before: int, after: int, usage: Usage | None = None
) -> Compacted:
    return Compacted(
        strategy=name,
        tokens_before=before,
        tokens_after=after,
        state=msgspec.to_builtins(view),
        usage=usage or Usage(),
    )
