"""What is asked of the model, in no API's words: each API translates its requests into these."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from perilune.engine.request import ToolChoice
from perilune.engine.sampling_params import Grammar


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `salt` parts the prefix cache between keys; `name` is for logs and quotas."""

    name: str = "local"
    salt: str = ""


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
    `SamplingParams` that the client gave; the rest is as the model card says. grammar: of the
    answer. request_id: the id that the client sees (`new_id`), also used in errors and logs.
    """

    request_id: str
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    tool_use: ToolUse = field(default_factory=ToolUse)
    thinking: Thinking = field(default_factory=Thinking)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    grammar: Grammar | None = None
    add_generation_prompt: bool = True
    caller: Caller = field(default_factory=Caller)
    cache_salt: str = ""  # the client's own, on top of the key's
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """A text, or token ids, to be continued as it stands."""

    request_id: str
    prompt: str | Sequence[int]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    grammar: Grammar | None = None
    caller: Caller = field(default_factory=Caller)
    cache_salt: str = ""
    priority: int = 0


def new_id(prefix: str) -> str:
    """`prefix` and 24 random hexadecimal digits."""
    return f"{prefix}{secrets.token_hex(12)}"
