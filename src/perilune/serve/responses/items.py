"""Input items -> OpenAI-shaped messages.

The reasoning, the message and the calls of one answer are separate items here; they are put
together again as the one turn of the assistant that they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perilune.serve.api_error import ApiError, invalid, unsupported
from perilune.serve.media.parts import read_media
from perilune.serve.thought import carried

Item = Mapping[str, Any]
_ROLES = ("user", "assistant", "system", "developer")


def read_input(value: str | Sequence[Any]) -> list[dict[str, Any]]:
    """Raises ApiError (400) that names the item."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    reader = _Reader()
    for index, item in enumerate(value):
        if not isinstance(item, Mapping):
            raise _fail(f"input[{index}]", "must be an object")
        reader.read(item, f"input[{index}]")
    if reader.messages and reader.messages[-1].get("tool_calls"):
        raise _fail("input", "its last calls have no function_call_output")
    return reader.messages


def joined(namespace: str, name: str) -> str:
    """The one name by which the model knows a tool of a namespace."""
    return f"{namespace}__{name}"


class _Reader:
    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._calls: set[str] = set()

    def read(self, item: Item, where: str) -> None:
        kind = item.get("type", "message" if "role" in item else None)
        match kind:
            case "message":
                self._message(item, where)
            case "reasoning":
                text = _reasoning(item, where)
                if text:
                    turn = self._turn("content", "tool_calls")
                    turn["reasoning_content"] = turn.get("reasoning_content", "") + text
            case "function_call":
                self._turn()
                self._call(item, where)
            case "function_call_output":
                self._output(item, where)
            case "item_reference":
                raise unsupported(f"{where}.type", "nothing is stored that could be referred to")
            case _:
                raise unsupported(f"{where}.type", f"{kind!r:.60} is not an item read here")

    def _message(self, item: Item, where: str) -> None:
        role = item.get("role")
        if role not in _ROLES:
            raise _fail(f"{where}.role", f"{role!r:.60} is not one of {', '.join(_ROLES)}")
        content = _content(item.get("content"), f"{where}.content")
        if role == "assistant":
            turn = self._turn("tool_calls")
            before = turn.get("content")
            turn["content"] = content if before is None else [*_parts(before), *_parts(content)]
        else:
            self.messages.append({"role": role, "content": content})

    def _call(self, item: Item, where: str) -> None:
        call_id = _text(item, "call_id", where)
        name, space = _text(item, "name", where), item.get("namespace")
        function = {
            "name": joined(space, name) if isinstance(space, str) and space else name,
            "arguments": _text(item, "arguments", where),
        }
        call = {"id": call_id, "type": "function", "function": function}
        self.messages[-1].setdefault("tool_calls", []).append(call)
        self._calls.add(call_id)

    def _output(self, item: Item, where: str) -> None:
        call_id = _text(item, "call_id", where)
        if call_id not in self._calls:
            raise _fail(f"{where}.call_id", f"no function_call before it has {call_id!r:.100}")
        content = _content(item.get("output"), f"{where}.output")
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": content})

    def _turn(self, *ends: str) -> dict[str, Any]:
        """The assistant's turn under way; a new one where it has one of `ends` already."""
        last = self.messages[-1] if self.messages else None
        if last is None or last["role"] != "assistant" or any(last.get(key) for key in ends):
            last = {"role": "assistant", "content": None}
            self.messages.append(last)
        return last


def _reasoning(item: Item, where: str) -> str:
    """Its text, of the fields where clients keep it; summaries of others are not its thinking."""
    where = f"{where}.content"
    text = "".join(_text(part, "text", where) for part in _list(item.get("content"), where))
    encoded = item.get("encrypted_content")
    return text or (carried(encoded) if isinstance(encoded, str) else None) or ""


def _content(content: Any, where: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise _fail(where, "must be text or a list of parts")
    parts: list[dict[str, Any]] = []
    for index, part in enumerate(_list(content, where)):
        place = f"{where}[{index}]"
        match part.get("type"):
            case "input_text" | "output_text" | "text":
                parts.append({"type": "text", "text": _text(part, "text", place)})
            case "refusal":
                parts.append({"type": "text", "text": _text(part, "refusal", place)})
            case "input_file":
                raise unsupported(f"{place}.type", "files are not read; send text or pictures")
            case kind:
                media = read_media(part, place)
                if media is None:
                    raise unsupported(f"{place}.type", f"{kind!r:.60} is not text or an image")
                parts.append(media)
    return parts


def _parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _list(value: Any, where: str) -> list[Item]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(part, Mapping) for part in value):
        raise _fail(where, "must be a list of objects")
    return value


def _text(item: Item, key: str, where: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise _fail(f"{where}.{key}", "must be text")
    return value


def _fail(where: str, what: str) -> ApiError:
    return invalid(f"{where}: {what}", where)
