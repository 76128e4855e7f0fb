"""The deltas of one turn -> the whole turn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from perilune.chat.deltas import (
    ContentDelta,
    ContentWasReasoning,
    Delta,
    Finished,
    ReasoningDelta,
    TokenLogprob,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)


@dataclass(slots=True)
class AssembledCall:
    """A tool call as far as it has come. One that is not `complete` must not be run."""

    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    complete: bool = False

    @property
    def arguments(self) -> str:
        """The text of the arguments, as the model wrote it."""
        return "".join(self.pieces)


@dataclass(slots=True)
class AssembledTurn:
    """A turn as far as it has come. `finished` is None until its last delta."""

    reasoning_pieces: list[str] = field(default_factory=list)
    content_pieces: list[str] = field(default_factory=list)
    calls: dict[int, AssembledCall] = field(default_factory=dict)
    scores: list[TokenLogprob] = field(default_factory=list)
    finished: Finished | None = None

    def add(self, delta: Delta) -> None:
        match delta:
            case ReasoningDelta(text):
                self.reasoning_pieces.append(text)
            case ContentDelta(text, scores):
                self.content_pieces.append(text)
                self.scores += scores
            case ContentWasReasoning():
                self.reasoning_pieces += self.content_pieces
                self.content_pieces.clear()
            case ToolCallStart(index, call_id, name):
                call = self._call(index)
                call.id, call.name = call.id or call_id, call.name or name
            case ToolCallArguments(index, text):
                self._call(index).pieces.append(text)
            case ToolCallEnd(index):
                self._call(index).complete = True
            case Finished():
                self.finished = delta

    def _call(self, index: int) -> AssembledCall:
        return self.calls.setdefault(index, AssembledCall())

    @property
    def reasoning(self) -> str:
        return "".join(self.reasoning_pieces)

    @property
    def content(self) -> str:
        return "".join(self.content_pieces)

    @property
    def complete_calls(self) -> list[AssembledCall]:
        return [call for call in self.calls.values() if call.complete]

    @property
    def ending(self) -> Finished:
        """The last delta of a turn that is known to be over."""
        assert self.finished is not None
        return self.finished

    def message(self) -> dict[str, Any]:
        """The turn as an OpenAI-shaped assistant message.

        `content` is None when there was none, `reasoning_content` and `tool_calls` appear only
        when there were some. Calls that did not end are left out.
        """
        message: dict[str, Any] = {"role": "assistant", "content": self.content or None}
        if self.reasoning_pieces:
            message["reasoning_content"] = self.reasoning
        if calls := self.complete_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in calls
            ]
        return message


def assemble(deltas: Iterable[Delta]) -> dict[str, Any]:
    """Add the deltas of one turn up to an OpenAI-shaped assistant message."""
    turn = AssembledTurn()
    for delta in deltas:
        turn.add(delta)
    return turn.message()
