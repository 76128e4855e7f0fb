"""Content blocks -> OpenAI-shaped messages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perilune.serve.api_error import ApiError, invalid, unsupported
from perilune.serve.media.parts import from_source
from perilune.serve.thought import carried

Block = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the request something stands, as Anthropic writes it: `messages.0.content.2`."""

    path: str

    def at(self, key: str | int) -> Place:
        return Place(f"{self.path}.{key}")

    def error(self, what: str) -> ApiError:
        return invalid(f"{self.path}: {what}", self.path)

    def text(self, block: Block, key: str) -> str:
        """A field that must be text. Raises ApiError."""
        value = block.get(key)
        if not isinstance(value, str):
            raise self.at(key).error("must be text")
        return value


def user_turn(
    content: str | Sequence[Block], place: Place, calls: set[str]
) -> Iterator[dict[str, Any]]:
    """A user message -> tool messages and user messages, in the order of its blocks.

    `calls`: the ids of the calls before it. Raises ApiError.
    """
    parts: list[dict[str, Any]] = []
    results = False
    for where, block in _blocks(content, place):
        if block.get("type") == "tool_result":
            if parts:
                yield {"role": "user", "content": parts}
                parts = []
            yield _tool_result(block, where, calls)
            results = True
        else:
            parts += _parts(block, where)
    if parts or not results:
        yield {"role": "user", "content": parts}


def assistant_turn(content: str | Sequence[Block], place: Place) -> dict[str, Any]:
    """An assistant message -> one with `content` as parts, `reasoning_content`, `tool_calls`."""
    texts: list[dict[str, Any]] = []
    reasoning: list[str] = []
    calls: list[dict[str, Any]] = []
    for where, block in _blocks(content, place):
        match block.get("type"):
            case "text":
                texts.append({"type": "text", "text": where.text(block, "text")})
            case "thinking":
                reasoning.append(_thinking(block, where))
            case "redacted_thinking":
                pass  # another provider's; nobody else can read it
            case "tool_use":
                calls.append(_tool_use(block, where))
            case kind:
                raise _unknown(kind, where, "an assistant message")
    turn: dict[str, Any] = {"role": "assistant", "content": texts}
    if any(reasoning):
        turn["reasoning_content"] = "".join(reasoning)
    if calls:
        turn["tool_calls"] = calls
    return turn


def text_of(content: str | Sequence[Block], place: Place) -> list[dict[str, Any]]:
    """Blocks that must all be text. Raises ApiError."""
    parts = []
    for where, block in _blocks(content, place):
        if block.get("type") != "text":
            raise where.at("type").error(f"{block.get('type')!r:.60} is not text")
        parts.append({"type": "text", "text": where.text(block, "text")})
    return parts


def _blocks(content: Any, place: Place) -> Iterator[tuple[Place, Block]]:
    if isinstance(content, str):
        yield place, {"type": "text", "text": content}
        return
    if not isinstance(content, Sequence):
        raise place.error("must be text or a list of blocks")
    for index, block in enumerate(content):
        if not isinstance(block, Mapping):
            raise place.at(index).error("must be an object with a type")
        yield place.at(index), block


def _parts(block: Block, place: Place) -> list[dict[str, Any]]:
    """What a user or a tool says, as text and image parts."""
    match block.get("type"):
        case "text":
            return [{"type": "text", "text": place.text(block, "text")}]
        case "image":
            return [from_source("image", block.get("source"), place.at("source").path)]
        case "document":
            return _document(block, place)
        case "search_result":
            inner = text_of(block.get("content") or (), place.at("content"))
            return _tagged("search_result", block, ("source", "title"), inner)
        case "tool_reference":
            return [{"type": "text", "text": f"Tool: {place.text(block, 'tool_name')}"}]
        case kind:
            raise _unknown(kind, place, "a user message or a tool result")


def _document(block: Block, place: Place) -> list[dict[str, Any]]:
    place = place.at("source")
    source = block.get("source")
    if not isinstance(source, Mapping):
        raise place.error("must be an object")
    match source.get("type"):
        case "text":
            inner = [{"type": "text", "text": place.text(source, "data")}]
        case "content":
            inner = []
            for where, child in _blocks(source.get("content"), place.at("content")):
                if child.get("type") not in ("text", "image"):
                    raise where.at("type").error("must be text or image")
                inner += _parts(child, where)
        case kind:
            raise unsupported(place.at("type").path, f"{kind!r:.60} is not read; send text")
    return _tagged("document", block, ("title", "context"), inner)


def _tagged(
    tag: str, block: Block, names: Sequence[str], inner: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Parts between `<tag ...>` lines, so that the model sees where they begin and end."""
    given = {name: block[name] for name in names if isinstance(block.get(name), str)}
    head = "".join(
        f" {name}={json.dumps(value, ensure_ascii=False)}" for name, value in given.items()
    )
    return [
        {"type": "text", "text": f"<{tag}{head}>\n"},
        *inner,
        {"type": "text", "text": f"\n</{tag}>\n"},
    ]


def _tool_result(block: Block, place: Place, calls: set[str]) -> dict[str, Any]:
    call_id = place.text(block, "tool_use_id")
    if call_id not in calls:
        raise place.at("tool_use_id").error(
            f"no tool_use block before it has the id {call_id!r:.100}"
        )
    content = block.get("content")
    parts: list[dict[str, Any]] = []
    if content is not None:
        for where, child in _blocks(content, place.at("content")):
            parts += _parts(child, where)
    is_error = block.get("is_error")
    if is_error is not None and not isinstance(is_error, bool):
        raise place.at("is_error").error("must be true or false")
    if is_error:  # the format of the model has no flag for it
        parts.insert(0, {"type": "text", "text": "Error: "})
    return {"role": "tool", "tool_call_id": call_id, "content": parts}


def _tool_use(block: Block, place: Place) -> dict[str, Any]:
    arguments = block.get("input")
    if not isinstance(arguments, Mapping):
        raise place.at("input").error("must be an object")
    function = {
        "name": place.text(block, "name"),
        "arguments": json.dumps(arguments, ensure_ascii=False),
    }
    return {"id": place.text(block, "id"), "type": "function", "function": function}


def _thinking(block: Block, place: Place) -> str:
    """Its text; where the client was not shown it, that of the signature. No signature is fine."""
    signature = block.get("signature")
    text = place.text(block, "thinking")
    return text or (carried(signature) if isinstance(signature, str) else None) or ""


def _unknown(kind: Any, place: Place, where: str) -> ApiError:
    return place.at("type").error(f"{kind!r:.60} is not known in {where}")
