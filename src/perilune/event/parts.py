"""What events are made of: their base, and the values in them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

Content = str | list[dict[str, Any]]
"""Text, or parts: `text`, and `picture` by hash (`perilune.agent.pictures.part`)."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of all events; `durable` says whether it belongs in the journal."""

    durable: ClassVar[bool] = True


class Unknown(Event, frozen=True, kw_only=True, tag="unknown"):
    """An event of a newer version, kept as it was read."""

    fields: dict[str, Any] = {}


class ToolCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call that the model asked for; `arguments` is the text exactly as the model wrote it."""

    id: str
    name: str
    arguments: str


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens (and money, where prices are known) of one completion, or of many added up."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    cost: float = 0.0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            cost=self.cost + other.cost,
        )


PlanStatus = Literal["open", "active", "done", "dropped"]


class PlanItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the living plan; a dropped item says why in `note`."""

    text: str
    status: PlanStatus = "open"
    note: str = ""


class CheckMade(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One check of an answer. `noted`: it saw something that it cannot decide, said in `notes`.

    `evidence` is what the outcome rests on: evidence ids, equations, commands and how they ended.
    """

    name: str
    outcome: Literal["passed", "failed", "noted"]
    problems: list[str] = []
    notes: list[str] = []
    evidence: list[str] = []


ArgumentKind = Literal["question", "hypothesis", "claim", "source", "check", "conclusion"]


class ArgumentNode(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node of an argument. `supports` and `against` are ids of other nodes that it speaks for or
    against. `result` is what a check gave, as it stands in a tool's output; `evidence` the id of a
    source."""

    id: str
    kind: ArgumentKind
    text: str
    state: Literal["open", "holds", "fails"] = "open"
    supports: list[str] = []
    against: list[str] = []
    result: str = ""
    evidence: str = ""
