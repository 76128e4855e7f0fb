"""What is asked of the model, in no API's words: each API translates its requests into these."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from perilune.engine.request import ToolChoice
from perilune.engine.sampling_params import Grammar


@dataclass(frozen=True, slots=True)
class Constraint:
    """`field` named the grammar. left_out: places of its schema that no grammar can hold."""

    grammar: Grammar | None = None
    field: str = "response_format"
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `cache_salt` parts the prefix cache between keys; `name` is for logs and quotas."""

    name: str = "local"
    cache_salt: str = ""


@dataclass(frozen=True, slots=True)
class Thinking:
    """How the model may think. `budget` is in tokens, None: free; `preserve` keeps all history."""

    enabled: bool = True
    preserve: bool = False
    budget: int | None = None


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What the model may do with its tools. `allowed` narrows them by name; None: all of them."""

    choice: ToolChoice = ToolChoice.AUTO
    name: str | None = None  # for NAMED
    allowed: frozenset[str] | None = None
    parallel: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A conversation to be answered.

    messages, tools: OpenAI-shaped (what `ChatFormat.render` reads). sampling: fields of
    `SamplingParams` that the client gave; the rest is as the model card says. constraint: what the
    answer must match. left_out: places of schemas, of tools too, that no grammar can hold.
    request_id: the id that the client sees (`new_id`), also used in errors and logs.
    """

    request_id: str
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    tool_use: ToolUse = field(default_factory=ToolUse)
    thinking: Thinking = field(default_factory=Thinking)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    constraint: Constraint = field(default_factory=Constraint)
    left_out: tuple[str, ...] = ()
    add_generation_prompt: bool = True
    caller: Caller = field(default_factory=Caller)
    cache_salt: str = ""  # the client's own, on top of the key's
    priority: int = 0

    @property
    def grammar(self) -> Grammar | None:
        return self.constraint.grammar


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """A text, or token ids, to be continued as it stands."""

    request_id: str
    prompt: str | Sequence[int]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    constraint: Constraint = field(default_factory=Constraint)
    caller: Caller = field(default_factory=Caller)
    cache_salt: str = ""
    priority: int = 0


def new_id(prefix: str) -> str:
    """`prefix` and 24 random hexadecimal digits."""
    return f"{prefix}{secrets.token_hex(12)}"


def left_out_headers(places: Sequence[str]) -> dict[str, str]:
    """The reply's sign for what of its schemas was not held: `x-perilune-not-enforced`.

    Names in it are the client's own text, so it is ASCII, and short.
    """
    if not places:
        return {}
    shown = [ascii(place)[1:-1].replace(",", "\\x2c")[:200] for place in places[:8]]
    if len(places) > len(shown):
        shown.append(f"and {len(places) - len(shown)} more")
    return {"x-perilune-not-enforced": ", ".join(shown)}
