"""Messages of a history in the forms that other APIs and clients write -> OpenAI-shaped ones.

Assistant messages come back with what some API once put into them: refusals, the parts of the
Responses API, thinking in four forms, Anthropic's tool blocks, the calls of the old functions.
What has a clear meaning is taken; what has none is left for the chat package, which names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from perilune.serve.api_error import ApiError, invalid, unsupported
from perilune.serve.media.parts import read_media

_TEXTS = ("text", "output_text", "input_text", "summary_text")
_THOUGHTS = ("thinking", "reasoning", "reasoning_text", "reasoning_content")
_REASONING = ("reasoning_content", "reasoning", "thinking")
# Keys of a message that are read here and that the chat package does not know.
_READ_HERE = frozenset(
    {"reasoning", "thinking", "reasoning_details", "refusal", "function_call", "prefix", "audio"}
)


class History:
    """Reads messages in their order: a result of an old function needs the call before it."""

    def __init__(self) -> None:
        self._functions: dict[str, list[str]] = {}  # name -> ids of calls without a result

    def read(self, message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
        """One message, or several where results of tools stand inside of it. Raises ApiError."""
        role = message.get("role")
        result = {key: value for key, value in message.items() if key not in _READ_HERE}
        content = message.get("content")
        parts = content if isinstance(content, list) else None
        if role == "assistant":
            return [self._assistant(message, result, parts, where)]
        if role == "function":
            return [self._function(message, where)]
        if parts is None:
            return [result]
        if role == "user" and any(_kind(part) == "tool_result" for part in parts):
            return _tool_results(result, parts, where)
        result["content"] = [_text_part(part, f"{where}.content[{n}]") for n, part in _each(parts)]
        return [result]

    def _assistant(
        self,
        message: Mapping[str, Any],
        result: dict[str, Any],
        parts: Sequence[Any] | None,
        where: str,
    ) -> dict[str, Any]:
        if message.get("audio") is not None:
            raise unsupported(f"{where}.audio", "nothing is stored; send what was said as text")
        texts: list[Any] = []
        thoughts: list[str] = []
        calls: list[dict[str, Any]] = []
        for n, part in _each(parts or ()):
            place = f"{where}.content[{n}]"
            kind = _kind(part)
            if kind in _THOUGHTS:
                thoughts.append(_thought(part, place))
            elif kind == "redacted_thinking":
                pass  # nobody but its provider can read it
            elif kind == "tool_use":
                calls.append(_tool_use(part, place))
            else:
                texts.append(_text_part(part, place))
        if parts is not None:
            result["content"] = texts
        refusal = message.get("refusal")
        if refusal is not None and not isinstance(refusal, str):
            raise invalid(f"{where}.refusal: must be text", f"{where}.refusal")
        if refusal and not result.get("content"):
            result["content"] = refusal
        thinking = _thinking(message, thoughts, where)
        if thinking:
            result["reasoning_content"] = thinking
        calls += self._old_call(message, where)
        if calls:
            before = result.get("tool_calls") or []
            if not isinstance(before, list):
                raise invalid(f"{where}.tool_calls: must be a list", f"{where}.tool_calls")
            result["tool_calls"] = [*before, *calls]
        if message.get("prefix") is not None:  # DeepSeek's and Mistral's word for it
            result.setdefault("partial", message["prefix"])
        return result

    def _old_call(self, message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
        call = message.get("function_call")
        if call is None:
            return []
        place = f"{where}.function_call"
        if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
            raise invalid(f"{place}: must be an object with a name and arguments", place)
        number = sum(map(len, self._functions.values()))
        call_id = f"function_{where}_{number}"
        self._functions.setdefault(call["name"], []).append(call_id)
        function = {"name": call["name"], "arguments": call.get("arguments")}
        return [{"id": call_id, "type": "function", "function": function}]

    def _function(self, message: Mapping[str, Any], where: str) -> dict[str, Any]:
        name = message.get("name")
        waiting = self._functions.get(name) if isinstance(name, str) else None
        if not waiting:
            raise invalid(f"{where}.name: no function_call before it has that name", where)
        content = message.get("content")
        if isinstance(content, list):
            content = [_text_part(part, f"{where}.content[{n}]") for n, part in _each(content)]
        return {"role": "tool", "tool_call_id": waiting.pop(0), "content": content}


def _each(parts: Sequence[Any]) -> list[tuple[int, Any]]:
    return list(enumerate(parts))


def _kind(part: Any) -> Any:
    return part.get("type") if isinstance(part, Mapping) else None


def _text_part(part: Any, where: str) -> Any:
    """Text under any of its names, pictures and clips in one form; other parts as they are."""
    kind = _kind(part)
    if kind == "refusal":
        return {"type": "text", "text": _text(part, "refusal", where)}
    if kind in _TEXTS:
        return {"type": "text", "text": _text(part, "text", where)}
    media = read_media(part, where) if isinstance(part, Mapping) else None
    return part if media is None else media


def _thinking(message: Mapping[str, Any], thoughts: Sequence[str], where: str) -> str:
    """What the message says of its thinking, in the first of the forms that says anything."""
    for key in _REASONING:
        value = message.get(key)
        if value is not None and not isinstance(value, str):
            raise invalid(f"{where}.{key}: must be text", f"{where}.{key}")
        if value:
            return value
    details = message.get("reasoning_details")
    if details is not None and not isinstance(details, list):
        raise invalid(f"{where}.reasoning_details: must be a list", f"{where}.reasoning_details")
    told = [_detail(detail) for detail in details or ()]
    return "".join(told) or "".join(thoughts)


def _detail(detail: Any) -> str:
    """OpenRouter's; an encrypted one is its provider's own."""
    if isinstance(detail, Mapping):
        for key in ("text", "summary"):
            if isinstance(detail.get(key), str):
                return str(detail[key])
    return ""


def _thought(part: Mapping[str, Any], where: str) -> str:
    kind = part["type"]
    value = next((part[k] for k in (kind, "text", "content") if part.get(k) is not None), "")
    if isinstance(value, list):  # Mistral's: parts of text
        return "".join(_text(inner, "text", where) for inner in value)
    if not isinstance(value, str):
        raise invalid(f"{where}.{kind}: must be text", where)
    return value


def _tool_use(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    arguments = part.get("input")
    if not isinstance(arguments, Mapping):
        raise invalid(f"{where}.input: must be an object", where)
    function = {
        "name": _text(part, "name", where),
        "arguments": json.dumps(arguments, ensure_ascii=False),
    }
    return {"id": _text(part, "id", where), "type": "function", "function": function}


def _tool_results(
    message: dict[str, Any], parts: Sequence[Any], where: str
) -> list[dict[str, Any]]:
    """Anthropic's results inside of a user's message are messages of their own here."""
    found: list[dict[str, Any]] = []
    said: list[Any] = []
    for n, part in _each(parts):
        place = f"{where}.content[{n}]"
        if _kind(part) != "tool_result":
            said.append(_text_part(part, place))
            continue
        if said:
            found.append({**message, "content": said})
            said = []
        content = part.get("content")
        if isinstance(content, list):
            content = [_text_part(inner, f"{place}.content[{m}]") for m, inner in _each(content)]
        call_id = _text(part, "tool_use_id", place)
        found.append({"role": "tool", "tool_call_id": call_id, "content": content})
    if said:
        found.append({**message, "content": said})
    return found


def _text(part: Any, key: str, where: str) -> str:
    value = part.get(key) if isinstance(part, Mapping) else None
    if not isinstance(value, str):
        raise _fail(f"{where}.{key}", "must be text")
    return value


def _fail(where: str, what: str) -> ApiError:
    return invalid(f"{where}: {what}", where)
