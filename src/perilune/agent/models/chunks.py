"""One chunk of a completion, as strangers send it -> what it says.

The one place that knows the shapes: OpenAI's, and what vLLM, SGLang, llama.cpp, Moonshot,
OpenRouter, Ollama, DeepSeek, Mistral and gateways make of them. Any part can be missing, null or of
another type; what cannot be read is passed over, and nothing raises but a server's own error.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from perilune.agent.models.refusals import stream_error
from perilune.agent.models.server_events import ServerEvent
from perilune.agent.models.tool_call_index import ToolCallIndex
from perilune.events import Usage
from perilune.text import valid_text

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
LARGEST_COUNT = 10**12
MAX_NAME = 200
_ERROR_FIELDS = ("message", "detail", "msg")


@dataclass(frozen=True, slots=True)
class Piece:
    """What one chunk adds to the turn, raw: halves of surrogate pairs may be in it."""

    reasoning: str = ""
    content: str = ""


@dataclass(slots=True)
class ChunkReader:
    """Reads the chunks of one completion and keeps what is not text."""

    function_names: Collection[str] = ()
    finish_reason: str = ""
    response_id: str = ""
    model: str = ""
    usage: Usage | None = None
    calls: ToolCallIndex = field(init=False)
    _choice: Any = None

    def __post_init__(self) -> None:
        self.calls = ToolCallIndex(self.function_names)

    def read(self, event: ServerEvent) -> Piece:
        """Raises `ModelError` when the chunk is the server's error."""
        chunk = event.value
        if not isinstance(chunk, dict):
            return Piece()
        self._raise_error(chunk, event.name)
        self.response_id = _name(chunk.get("id")) or self.response_id
        self.model = _name(chunk.get("model")) or self.model
        choices = chunk.get("choices")
        if isinstance(choices, dict):
            choices = [choices]
        if not isinstance(choices, list):
            choices = []
        found = [chunk.get("usage"), *(c.get("usage") for c in choices if isinstance(c, dict))]
        if isinstance(groq := chunk.get("x_groq"), dict):
            found.append(groq.get("usage"))
        self.usage = next(filter(None, map(read_usage, found)), self.usage)
        choice = self._followed(choices)
        return Piece() if choice is None else self._read_choice(choice)

    def _followed(self, choices: list[Any]) -> dict[str, Any] | None:
        """The part of the first choice that was ever seen; others are not asked for."""
        for choice in choices:
            if not isinstance(choice, dict):
                continue
            index = choice.get("index")
            if not isinstance(index, int):
                return choice
            if self._choice is None:
                self._choice = index
            if index == self._choice:
                return choice
        return None

    def _read_choice(self, choice: dict[str, Any]) -> Piece:
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self.finish_reason = reason
        said = next(
            (choice[key] for key in ("delta", "message") if isinstance(choice.get(key), dict)), None
        )
        if said is None:
            return Piece(content=_text(choice.get("text")))
        for call in _list(said.get("tool_calls")):
            self.calls.add(call)
        if isinstance(legacy := said.get("function_call"), dict):
            self.calls.add({"index": 0, "function": legacy})
        content = said.get("content")
        reasoning = next(filter(None, (_text(said.get(key)) for key in REASONING_FIELDS)), "")
        if isinstance(content, list) and not reasoning:  # Mistral's thinking is a part of it
            reasoning = "".join(_thinking(part) for part in content)
        return Piece(reasoning, _text(content) or _text(said.get("refusal")))

    def _raise_error(self, chunk: dict[str, Any], name: str) -> None:
        error = chunk.get("error")
        if error:
            # The cause of OpenRouter's stands beside it; FastAPI's stands alone.
            raise stream_error(error, chunk)
        if "choices" in chunk and name != "error":
            return
        said = any(isinstance(chunk.get(key), str) and chunk[key] for key in _ERROR_FIELDS)
        if name == "error" or chunk.get("object") == "error" or chunk.get("type") == "error":
            raise stream_error(chunk, chunk)
        if said and not chunk.get("usage"):
            raise stream_error(chunk, chunk)


def read_usage(fields: Any) -> Usage | None:
    """The counts of a `usage` object that make sense; None when there are none."""
    if not isinstance(fields, dict):
        return None
    prompt = _count(fields.get("prompt_tokens")) or _count(fields.get("input_tokens"))
    completion = _count(fields.get("completion_tokens")) or _count(fields.get("output_tokens"))
    cached = _count(fields.get("cached_tokens")) or _count(
        _part(fields, "prompt_tokens_details", "cached_tokens")
    )
    cached = cached or _count(fields.get("prompt_cache_hit_tokens"))  # DeepSeek
    reasoning = _count(_part(fields, "completion_tokens_details", "reasoning_tokens"))
    if not (prompt or completion):
        return None
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        reasoning_tokens=min(reasoning, completion),
        cached_tokens=min(cached, prompt),
    )


def _part(fields: dict[str, Any], *path: str) -> Any:
    value: Any = fields
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _count(value: Any) -> int:
    """A number of tokens; 0 for what is none."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return 0
    return int(value) if 0 < value <= LARGEST_COUNT else 0


def _text(value: Any) -> str:
    """Text, a list of parts with text, or an object with it; "" for everything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_part_text(part) for part in value)
    if isinstance(value, dict):
        return _part_text(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return ""


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or part.get("type") == "thinking":
        return ""
    for key in ("text", "summary", "content"):
        if isinstance(part.get(key), str):
            return str(part[key])
    return ""


def _thinking(part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") != "thinking":
        return ""
    return _text(part.get("thinking"))


def _list(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [value]
    return value if isinstance(value, list) else []


def _name(value: Any) -> str:
    return valid_text(value)[:MAX_NAME] if isinstance(value, str) else ""
