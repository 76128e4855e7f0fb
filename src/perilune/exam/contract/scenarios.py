"""The requests whose answers most rules look at, each asked once per run, streamed and not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from perilune.exam.contract.check import Skip, Violation
from perilune.exam.contract.sse import DONE, Event
from perilune.exam.contract.target import Exchange, Target

# Bounded everywhere, so that a model that writes at random comes to an end.
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city today.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Lima", "Oslo", "Pune"]},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
CLOCK: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "The time in a city now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Lima", "Oslo", "Pune"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TOOL_QUESTION = "What is the weather in Oslo, in celsius?"
UNICODE_QUESTION = "Repeat exactly: 月の裏側 🌘🌑🌒 naïve Ελλάδα हिन्दी 👩‍🚀"

Fields = Callable[[Target], dict[str, Any]]


def _plain(**fields: Any) -> Fields:
    return lambda target: fields


def _calls(**fields: Any) -> Fields:
    return lambda target: {"max_tokens": target.settings.call_tokens} | fields


THINKING: dict[str, Any] = {
    "thinking": {"type": "enabled"},
    "chat_template_kwargs": {"thinking": True},
    "thinking_token_budget": 16,
    "max_tokens": 256,
}
# name -> (question, fields). Every one is sent with and without `stream`.
CHAT: dict[str, tuple[str, Fields]] = {
    "text": ("Say hello.", _plain()),
    "unicode": (UNICODE_QUESTION, _plain(max_tokens=96)),
    "thinking": (
        "What is 17 times 3?",
        lambda target: THINKING if target.thinking_off else {"max_tokens": 256},
    ),
    "tools": (
        TOOL_QUESTION,
        _calls(tools=[WEATHER, CLOCK], tool_choice="required", parallel_tool_calls=False),
    ),
    # A model that writes at random never stops calling: this answer may be cut.
    "calls": (
        "Weather and time in Oslo, and in Lima?",
        _calls(tools=[WEATHER, CLOCK], tool_choice="required", max_tokens=256),
    ),
    "pair": ("Name a colour.", _plain(n=2, temperature=1)),
    "logprobs": ("Say hello.", _plain(logprobs=True, top_logprobs=2, max_tokens=8)),
}


def plain(target: Target, name: str) -> Exchange:
    """The answer in one piece."""
    question, fields = CHAT[name]
    return target.once(f"{name}/plain", lambda: target.chat(question, **fields(target)))


def streamed(target: Target, name: str) -> ChatStream:
    """The same answer as a stream. With `include_usage` for "usage" only."""
    if name == "usage":
        exchange = target.once(
            "usage/stream",
            lambda: target.chat(stream=True, stream_options={"include_usage": True}),
        )
    else:
        question, fields = CHAT[name]
        exchange = target.once(
            f"{name}/stream", lambda: target.chat(question, stream=True, **fields(target))
        )
    return ChatStream(name, exchange)


STREAMS = (*CHAT, "usage")


@dataclass
class ChatStream:
    """A streamed chat answer. Events that are not a chunk are left out of `chunks`."""

    name: str
    exchange: Exchange

    @cached_property
    def events(self) -> list[Event]:
        return self.exchange.events

    @cached_property
    def chunks(self) -> list[dict[str, Any]]:
        return [e.json for e in self.events if e.data != DONE and isinstance(e.json, dict)]

    @property
    def choices(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """(chunk, choice) of every choice sent."""
        return [(chunk, choice) for chunk in self.chunks for choice in chunk.get("choices") or ()]

    @property
    def indices(self) -> list[Any]:
        found: list[Any] = []
        for _, choice in self.choices:
            if choice.get("index") not in found:
                found.append(choice.get("index"))
        return found

    def of(self, index: Any) -> list[dict[str, Any]]:
        """The choices of one answer, in order."""
        return [choice for _, choice in self.choices if choice.get("index") == index]

    def deltas(self, index: Any = 0) -> list[dict[str, Any]]:
        return [choice.get("delta") or {} for choice in self.of(index)]

    def text(self, index: Any = 0, field: str = "content") -> str:
        return "".join(delta.get(field) or "" for delta in self.deltas(index))

    def finish(self, index: Any = 0) -> Any:
        reasons = [c.get("finish_reason") for c in self.of(index) if c.get("finish_reason")]
        return reasons[-1] if reasons else None

    def calls(self, index: Any = 0) -> list[dict[str, Any]]:
        """Tool calls added up as a client does: pieces of one index are joined."""
        joined: dict[Any, dict[str, Any]] = {}
        for delta in self.deltas(index):
            for piece in delta.get("tool_calls") or ():
                call = joined.setdefault(
                    piece.get("index"), {"id": None, "name": None, "arguments": ""}
                )
                call["id"] = call["id"] or piece.get("id")
                function = piece.get("function") or {}
                call["name"] = call["name"] or function.get("name")
                call["arguments"] += function.get("arguments") or ""
        return list(joined.values())


def reasoning(holder: dict[str, Any]) -> str:
    """Thinking of a message or a delta, by either of its names."""
    return holder.get("reasoning_content") or holder.get("reasoning") or ""


def open_streams(target: Target, names: tuple[str, ...] = STREAMS) -> list[ChatStream]:
    """Those of the streams that opened. Raises Skip when none did, Violation when none could."""
    opened: list[ChatStream] = []
    refused: list[ChatStream] = []
    for name in names:
        stream = streamed(target, name)
        (opened if stream.exchange.status == 200 else refused).append(stream)
    if not opened:
        if len(names) == len(STREAMS):
            raise Violation("no stream opened", refused[0].exchange)
        raise Skip(f"the request was refused with status {refused[0].exchange.status}")
    return opened
