"""What comes back for a request: the deltas of its n answers, and the sums at its end.

The vocabulary is that of `chat/deltas.py`. For each answer: `ReasoningDelta`* `ReasoningEnd`,
`ContentDelta`*, then calls (`ToolCallStart` `ToolCallArguments`* `ToolCallEnd`)*, then `Finished`.
`Completed` is the last of all. Text never holds half a character. A call without a `ToolCallEnd`
was cut and must not be run.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from dataclasses import dataclass, field

from perilune.chat.deltas import Delta
from perilune.chat.turn import AssembledTurn
from perilune.engine.request import RequestMetrics
from perilune.events import Usage


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    """A delta of answer number `index`, from 0.

    A `Finished` here has its `usage` and `tokens`; its reason is LENGTH also where the output was
    cut inside a call. `usage.cached_tokens` is known to the answer that ends last only.
    """

    index: int
    delta: Delta


@dataclass(frozen=True, slots=True)
class Completed:
    """All answers are over: the sums, and where the time went."""

    usage: Usage
    metrics: RequestMetrics


Event = AnswerDelta | Completed


def of_one_answer(event: Event) -> Delta | Completed:
    """The event without the number of its answer, for APIs that have one."""
    return event if isinstance(event, Completed) else event.delta


@dataclass(slots=True)
class Collected:
    """Everything that a request brought."""

    answers: list[AssembledTurn]
    usage: Usage = field(default_factory=Usage)
    metrics: RequestMetrics = field(default_factory=RequestMetrics)


async def collect(events: AsyncIterable[Event], n: int = 1) -> Collected:
    """Add a stream up to its answers."""
    collected = Collected([AssembledTurn() for _ in range(n)])
    async for event in events:
        if isinstance(event, Completed):
            collected.usage, collected.metrics = event.usage, event.metrics
        else:
            collected.answers[event.index].add(event.delta)
    return collected
