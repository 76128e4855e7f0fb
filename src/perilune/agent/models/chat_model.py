"""What the agent knows of a model: messages and tools in, a stream of deltas out.

Deltas are those of `chat/deltas.py`. Messages are OpenAI-shaped dicts (`role`, `content` text or
parts, `tool_calls`, `tool_call_id`, `name`, and `reasoning_content` on assistant messages).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from perilune.chat.deltas import Delta
from perilune.errors import AgentError

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample; None leaves the choice to the model's own defaults.

    `thinking_tokens` bounds the reasoning of one completion, `max_tokens` the completion as a
    whole. `extra` goes into the request body as it is (endpoints only).
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    thinking: bool | None = None
    thinking_tokens: int | None = None
    effort: Literal["low", "medium", "high"] | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)


# --- failures ----------------------------------------------------------------------------------


class ModelError(AgentError):
    """A completion failed. `retryable`: the same request may succeed later.

    `retry_after` is the server's own wish in seconds, where it gave one. `kind` is one word for
    the cause: rate_limit, overloaded, quota, connection, cut, garbled (the reply came whole and
    cannot be read), auth, context (the prompt is too long), max_tokens (more output was asked for
    than there is), no_vision (the model takes no pictures), tool_pictures (none in a tool's
    message), pictures (more than `room` of them), request. `status` is the HTTP status, 0 where
    there was none. `window` is the model's in tokens and `room` what is left for output, where the
    server says them. `explained`: a refused request whose cause is known, and is not the length of
    the prompt.
    """

    code = "model"

    def __init__(
        self,
        message: str,
        *,
        kind: str = "request",
        retryable: bool = False,
        retry_after: float | None = None,
        remedy: str = "",
        status: int = 0,
        window: int | None = None,
        room: int | None = None,
        explained: bool = False,
    ) -> None:
        self.kind = kind
        self.retryable = retryable
        self.retry_after = retry_after
        self.status = status
        self.window = window
        self.room = room
        self.explained = explained
        super().__init__(message, remedy=remedy)


@runtime_checkable
class ChatModel(Protocol):
    """A model that an agent can use.

    `endpoint` names what rate limits are shared over; `context_window` is in tokens, None when
    unknown.
    """

    @property
    def name(self) -> str: ...

    @property
    def endpoint(self) -> str: ...

    @property
    def context_window(self) -> int | None: ...

    def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        sampling: Sampling,
    ) -> AsyncGenerator[Delta, None]:
        """One completion as deltas, the last one `Finished`.

        Closing the generator cancels the request. Raises `ModelError`.
        """

    def count_tokens(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]
    ) -> int | None:
        """Tokens of this prompt by the model's own tokenizer, None when it is not known here."""

    async def prepare(self) -> None:
        """Learn what a server says of itself (name, window), once, before the first completion."""

    async def close(self) -> None:
        """Give back connections and memory."""
