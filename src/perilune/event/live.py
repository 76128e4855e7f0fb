"""Volatile events: shown while they happen, and in no journal."""

from __future__ import annotations

from typing import ClassVar

from perilune.event.parts import Event, Usage


class StepStarted(Event, frozen=True, kw_only=True, tag="step.started"):
    """One turn of the model begins; `prompt_tokens` is our own count of what it is shown."""

    durable: ClassVar[bool] = False
    step: int
    prompt_tokens: int = 0


class RequestSent(Event, frozen=True, kw_only=True, tag="request.sent"):
    """The step's request left the queue of its endpoint's limiter: from here on, a model works."""

    durable: ClassVar[bool] = False


class ReasoningShown(Event, frozen=True, kw_only=True, tag="reasoning.delta"):
    """More of the model's thinking came."""

    durable: ClassVar[bool] = False
    text: str


class ContentShown(Event, frozen=True, kw_only=True, tag="content.delta"):
    """More of the answer came."""

    durable: ClassVar[bool] = False
    text: str


class ToolProgress(Event, frozen=True, kw_only=True, tag="tool.progress"):
    """A sign of life from a running tool."""

    durable: ClassVar[bool] = False
    call_id: str
    text: str


class AssignmentProgress(Event, frozen=True, kw_only=True, tag="assignment.progress"):
    """How far a sub-agent is with an assignment."""

    durable: ClassVar[bool] = False
    call_id: str
    sub_agent: str
    steps: int = 0
    tool_calls: int = 0
    usage: Usage = Usage()


class StreamDiscarded(Event, frozen=True, kw_only=True, tag="stream.discarded"):
    """The deltas since the last `step.started` are void: the completion is asked again."""

    durable: ClassVar[bool] = False
