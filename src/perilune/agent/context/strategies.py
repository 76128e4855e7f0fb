"""Ways to make the model's view smaller, each a small class that proposes the next `View`.

A strategy is given a target in tokens and returns a view that it believes to be smaller, or None
when it has nothing left to give. Whether it freed enough is judged by `ContextManager`, which fails
over to the next strategy of the chain.
"""

from __future__ import annotations

import bisect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from perilune.agent.context.dropped_pictures import droppable
from perilune.agent.context.view import carry_text, content_text, rounds
from perilune.agent.journal.state import RunState, View
from perilune.agent.models.chat_model import Message
from perilune.errors import UsageError

Ask = Callable[[list[Message]], Awaitable[str]]
"""Asks the model something outside of the run's conversation."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What a strategy may look at. `size(view)` renders and counts, in tokens."""

    state: RunState
    target: int
    size: Callable[[View], int]
    ask: Ask


class Strategy(Protocol):
    @property
    def name(self) -> str: ...

    async def propose(self, situation: Situation) -> View | None: ...


class KeepEverything:
    """Shows everything, and lets the run end honestly when the window is full."""

    name = "keep"

    async def propose(self, situation: Situation) -> View | None:
        return None


class DropPictures:
    """Puts a line in place of old pictures: first those of tools, then those of persons.

    No more than the target asks for, and never those of the latest message that has any.
    """

    name = "pictures"

    async def propose(self, situation: Situation) -> View | None:
        views = droppable(situation.state)
        if not views:
            return None
        smallest = len(views) - 1
        fits = bisect.bisect_left(
            range(smallest), True, key=lambda i: situation.size(views[i]) <= situation.target
        )
        return views[fits]


class HideToolOutputs:
    """Hides old tool outputs, and keeps the calls, the reasoning and the latest rounds.

    The K2 way: in Moonshot's agentic evaluations all earlier tool outputs are hidden once the input
    exceeds the window. As many of the latest rounds are kept as fit the target, at least one.
    """

    name = "hide"
    KEEP_ROUNDS = (16, 8, 4, 2, 1)

    async def propose(self, situation: Situation) -> View | None:
        state = situation.state
        starts = [i for i in rounds(state.messages) if state.messages[i].get("tool_calls")]
        smallest = None
        for keep in self.KEEP_ROUNDS:
            if len(starts) <= keep or starts[-keep] <= state.view.hidden_before:
                continue
            smallest = msgspec.structs.replace(state.view, hidden_before=starts[-keep])
            if situation.size(smallest) <= situation.target:
                return smallest
        return smallest


class Summarise:
    """Replaces the older steps by the model's own summary; the latest ones stay verbatim."""

    name = "summarise"

    async def propose(self, situation: Situation) -> View | None:
        state = situation.state
        cut = _cut(situation, share=0.4)
        if cut is None:
            return None
        prompt = (Path(__file__).parent / "summarise.md").read_text("utf-8")
        text = transcript(state, state.view.dropped_before, cut, limit=6 * situation.target)
        earlier = f"{state.view.carry}\n\n" if state.view.carry else ""
        summary = await situation.ask([{"role": "user", "content": f"{prompt}\n{earlier}{text}"}])
        if not summary.strip():
            return None
        return _dropped(situation, cut, summary.strip())


class DiscardAllButLedger:
    """Drops the older steps; the executed-calls ledger, the plan and the notes stand for them."""

    name = "discard"

    async def propose(self, situation: Situation) -> View | None:
        cut = _cut(situation, share=0.5)
        if cut is None:
            return None
        return _dropped(situation, cut, situation.state.view.summary)


def chain(name: str) -> list[Strategy]:
    """The strategies that `--context-strategy NAME` tries, in order."""
    chains: dict[str, list[Strategy]] = {
        "keep": [KeepEverything()],
        "hide": [DropPictures(), HideToolOutputs(), DiscardAllButLedger()],
        "summarise": [DropPictures(), Summarise(), DiscardAllButLedger()],
        "discard": [DropPictures(), DiscardAllButLedger()],
    }
    if name not in chains:
        raise UsageError(
            f"there is no context strategy {name!r}", remedy=f"Choose one of {', '.join(chains)}."
        )
    return chains[name]


def transcript(state: RunState, start: int, stop: int, *, limit: int) -> str:
    """Messages `start` to `stop` as plain text of at most about `limit` characters.

    Each message gets an even share, head and tail, so that none is lost whole.
    """
    share = max(200, limit // max(1, stop - start))
    lines = []
    for message, origin in zip(state.messages[start:stop], state.origins[start:stop], strict=True):
        text = content_text(message.get("content") or "")
        for call in message.get("tool_calls") or ():
            text += f"\ncall {call['function']['name']}({call['function']['arguments']})"
        if len(text) > share:
            text = f"{text[: share * 2 // 3]}\n[...]\n{text[-share // 3 :]}"
        lines.append(f"### {origin}\n{text.strip()}")
    return "\n\n".join(lines)


def _dropped(situation: Situation, cut: int, summary: str) -> View:
    state = situation.state
    return msgspec.structs.replace(
        state.view,
        hidden_before=max(cut, state.view.hidden_before),
        dropped_before=cut,
        carry=carry_text(state, cut, summary, situation.target // 3),
        summary=summary,
    )


def _cut(situation: Situation, *, share: float) -> int | None:
    """Where to cut so that the verbatim rest takes at most `share` of the target.

    The latest round stays when it fits; a cut is always at the beginning of a turn of the model.
    """
    state = situation.state
    starts = [i for i in rounds(state.messages) if i > state.view.dropped_before]
    if not starts:
        return None
    shown = msgspec.structs.replace(state.view, carry="", summary="")

    def dropped_before(start: int) -> View:
        return msgspec.structs.replace(shown, dropped_before=start)

    empty = situation.size(dropped_before(len(state.messages)))

    def fits(start: int) -> bool:
        return situation.size(dropped_before(start)) - empty <= share * situation.target

    # The later the start, the smaller the rest: the first one that fits is found by halving.
    found = bisect.bisect_left(starts, True, key=fits)
    return starts[min(found, len(starts) - 1)]
