"""OpenAI-shaped messages, checked and typed: what the formats render.

As lenient as the published templates where nothing is lost, strict where silence would ruin the
conversation: a role nobody knows, a tool result without its call, a part that would vanish. Every
ChatError names the message and the field: `messages[3].tool_call_id: ...`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn

from perilune.chat.tool_call_ids import ToolCallIds
from perilune.errors import ChatError

ROLES = ("system", "user", "assistant", "tool", "tool_declare")
# `developer` is the newer OpenAI name of the system role; no published model has seen it.
_ROLE_ALIASES = {"developer": "system"}
_MEDIA_KEYS: Mapping[str, Literal["image", "video"]] = {
    "image": "image",
    "image_url": "image",
    "video": "video",
    "video_url": "video",
}


@dataclass(frozen=True, slots=True)
class Media:
    """An image or a video of a message; `part` is the caller's own, untouched.

    `place` says where it stands (`messages[2].content[1]`), for errors.
    """

    kind: Literal["image", "video"]
    part: Mapping[str, Any]
    place: str = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of an assistant message; `id` is what is rendered, `functions.name:index`."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `name` is the role name that is rendered (`name` of the caller, or the role)."""

    role: str
    name: str
    content: tuple[str | Media, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    partial: bool = False


def read_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Check and type a conversation. Raises ChatError; the caller's objects are not changed."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise ChatError("must be a list of messages", param="messages")
    if not messages:
        raise ChatError("is empty", param="messages", remedy="Give at least one message")
    ids = ToolCallIds()
    result = []
    for index, raw in enumerate(messages):
        message = _read_message(index, raw, ids)
        if message.partial and index != len(messages) - 1:
            _fail(index, "partial", "only the last message can be partial")
        result.append(message)
    return result


def _read_message(index: int, raw: Any, ids: ToolCallIds) -> Message:
    if not isinstance(raw, Mapping):
        raise ChatError(f"must be an object, not {type(raw).__name__}", param=f"messages[{index}]")
    role = raw.get("role")
    role = _ROLE_ALIASES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        _fail(index, "role", f"{role!r} is not one of {', '.join(ROLES)}")
    if "content" not in raw and role != "assistant":
        _fail(index, "content", "is missing")
    message = Message(
        role=role,
        name=_string(index, "name", raw.get("name")) or role,
        content=_read_content(index, raw.get("content")),
    )
    if role == "assistant":
        return _read_assistant(index, raw, message, ids)
    for field in ("tool_calls", "partial"):
        if raw.get(field):
            _fail(index, field, f"belongs to an assistant message, and this is a {role} message")
    if role == "tool":
        return replace(message, tool_call_id=_answered_id(index, raw, ids))
    return message


def _read_assistant(
    index: int, raw: Mapping[str, Any], message: Message, ids: ToolCallIds
) -> Message:
    partial = raw.get("partial") or False
    if not isinstance(partial, bool):
        _fail(index, "partial", "must be true or false")
    raw_calls = raw.get("tool_calls") or []
    if isinstance(raw_calls, str | Mapping) or not isinstance(raw_calls, Sequence):
        _fail(index, "tool_calls", "must be a list")
    if partial and raw_calls:
        _fail(index, "partial", "a message with tool calls cannot be continued")
    ids.next_turn()
    calls = []
    for n, call in enumerate(raw_calls):
        field = f"tool_calls[{n}]"
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            _fail(index, f"{field}.function", "must be an object with name and arguments")
        name = function.get("name")
        if not isinstance(name, str) or not name:
            _fail(index, f"{field}.function.name", "must be a non-empty string")
        given = _string(index, f"{field}.id", call.get("id"))
        arguments = _arguments(index, f"{field}.function.arguments", function.get("arguments"))
        calls.append(ToolCall(ids.call(name, given), name, arguments))
    reasoning = _string(index, "reasoning_content", raw.get("reasoning_content"))
    return replace(message, reasoning=reasoning, tool_calls=tuple(calls), partial=partial)


def _answered_id(index: int, raw: Mapping[str, Any], ids: ToolCallIds) -> str:
    given = _string(index, "tool_call_id", raw.get("tool_call_id"))
    answered = ids.result(given)
    if answered is None:
        _fail(
            index,
            "tool_call_id",
            _no_call(given, ids),
            remedy="Send the assistant message with the call too, and its id with the result",
        )
    return answered


def _no_call(given: str, ids: ToolCallIds) -> str:
    if given:
        return f"{given!r} is not the id of a call in an assistant message before it"
    if waiting := len(ids.open_calls):
        return f"is missing, and {waiting} calls wait for a result"
    return "is missing, and no call waits for a result"


def _read_content(index: int, content: Any) -> tuple[str | Media, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (content,) if content else ()
    if isinstance(content, Mapping) or not isinstance(content, Sequence):
        _fail(index, "content", f"must be a string or a list of parts, not {content!r:.80}")
    parts: list[str | Media] = []
    for n, part in enumerate(content):
        field = f"content[{n}]"
        if isinstance(part, str):
            parts.append(part)
            continue
        if not isinstance(part, Mapping):
            _fail(index, field, "must be an object with a type")
        kind = part.get("type", "text" if "text" in part else None)
        if kind == "text":
            if not isinstance(part.get("text"), str):
                _fail(index, f"{field}.text", "must be a string")
            parts.append(part["text"])
        elif isinstance(kind, str) and kind in _MEDIA_KEYS:
            parts.append(Media(_MEDIA_KEYS[kind], part, f"messages[{index}].{field}"))
        else:
            _fail(index, f"{field}.type", f"{kind!r} is not text, image_url or video_url")
    return tuple(parts)


def _arguments(index: int, field: str, arguments: Any) -> str:
    """A string as it is; an object as the published templates write it; none as `{}`."""
    if isinstance(arguments, str):
        return arguments
    if arguments is None:
        return "{}"
    if not isinstance(arguments, Mapping):
        _fail(index, field, "must be an object or its JSON text")
    try:
        return json.dumps(arguments, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        _fail(index, field, f"cannot be written as JSON: {error}")


def _string(index: int, field: str, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        _fail(index, field, f"must be a string, not {type(value).__name__}")
    return value


def _fail(index: int, field: str, what: str, *, remedy: str = "") -> NoReturn:
    raise ChatError(what, param=f"messages[{index}].{field}", remedy=remedy)
