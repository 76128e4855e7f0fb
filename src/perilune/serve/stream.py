"""What comes back for a request: typed events, in no API's words.

For each of the n answers (`index`): `Reasoning`* `ReasoningEnd`, `Content`*, then calls
(`CallStart` `CallArguments`* `CallEnd`)*, then `Finished`. `Completed` is the last of all. Text
never holds half a character. A call without a `CallEnd` was cut and must not be run.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from dataclasses import dataclass, field

from perilune.engine.request import FinishReason, RequestMetrics


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens. `cached` is the part of the prompt that the prefix cache had."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.completion


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token of the answer, its log probability, and the likeliest tokens in its place."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Reasoning:
    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ReasoningEnd:
    """The thinking is over; the answer or the calls come next. Only where there was some."""

    index: int


@dataclass(frozen=True, slots=True)
class Content:
    """More of the answer. `scores` (when asked for) are of the tokens that brought the text."""

    index: int
    text: str
    scores: tuple[TokenScore, ...] = ()


@dataclass(frozen=True, slots=True)
class CallStart:
    """Call number `call` of this answer, from 0. `id` is K2's own, `functions.NAME:INDEX`."""

    index: int
    call: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the JSON text of the arguments."""

    index: int
    call: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    index: int
    call: int


@dataclass(frozen=True, slots=True)
class Finished:
    """One answer is over. `stop`: the stop id or stop string that ended it.

    LENGTH also where the output was cut inside a call. `usage.cached` is known to the answer that
    ends last only.
    """

    index: int
    reason: FinishReason
    usage: Usage
    stop: int | str | None = None
    tokens: tuple[int, ...] = ()  # all of the answer, markers and stop id included


@dataclass(frozen=True, slots=True)
class Completed:
    """All answers are over: the sums, and where the time went."""

    usage: Usage
    metrics: RequestMetrics


Event = (
    Reasoning | ReasoningEnd | Content | CallStart | CallArguments | CallEnd | Finished | Completed
)


@dataclass(slots=True)
class Call:
    id: str
    name: str
    arguments: str = ""
    complete: bool = False


@dataclass(slots=True)
class Answer:
    """One whole answer. `calls` holds complete calls only."""

    reasoning: str = ""
    content: str = ""
    calls: list[Call] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)
    tokens: tuple[int, ...] = ()
    finish_reason: FinishReason = FinishReason.STOP
    stop: int | str | None = None
    usage: Usage = field(default_factory=Usage)


@dataclass(slots=True)
class Collected:
    """Everything that a request brought."""

    answers: list[Answer]
    usage: Usage = field(default_factory=Usage)
    metrics: RequestMetrics = field(default_factory=RequestMetrics)


async def collect(events: AsyncIterable[Event], n: int = 1) -> Collected:
    """Add a stream up to its answers."""
    collected = Collected([Answer() for _ in range(n)])
    started: list[list[Call]] = [[] for _ in range(n)]
    async for event in events:
        if isinstance(event, Completed):
            collected.usage, collected.metrics = event.usage, event.metrics
            continue
        answer = collected.answers[event.index]
        match event:
            case Reasoning():
                answer.reasoning += event.text
            case Content():
                answer.content += event.text
                answer.scores += event.scores
            case CallStart():
                started[event.index].append(Call(event.id, event.name))
            case CallArguments():
                started[event.index][event.call].arguments += event.text
            case CallEnd():
                started[event.index][event.call].complete = True
            case Finished():
                answer.finish_reason, answer.stop = event.reason, event.stop
                answer.usage, answer.tokens = event.usage, event.tokens
                answer.calls = [call for call in started[event.index] if call.complete]
            case ReasoningEnd():
                pass
    return collected
