"""The run's messages as OpenAI-compatible servers accept them.

Pictures that a tool gave stand in its own message (Moonshot, vLLM and our engine take them there),
or in a user's message behind it, or not at all, as the server takes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from enum import Enum
from typing import Any

from perilune.agent.models.chat_model import Message
from perilune.events import Content
from perilune.text import valid_json

_SURROGATE_ESCAPE = re.compile(r"\\ud[89a-f]", re.IGNORECASE)


class ToolPictures(Enum):
    """Where the pictures of tools stand."""

    IN_PLACE = "in the tool's message"
    BEHIND = "in a user's message behind it"
    NOWHERE = "nowhere"


def has_pictures(messages: Sequence[Message], *roles: str) -> bool:
    """Whether a message (of these roles, where there are any) holds a picture."""
    return any(
        part.get("type") != "text"
        for message in messages
        if isinstance(message.get("content"), list) and (not roles or message["role"] in roles)
        for part in message["content"]
    )


def to_wire(
    messages: Sequence[Message], pictures: ToolPictures = ToolPictures.IN_PLACE
) -> list[Message]:
    """Messages for a request body.

    Reasoning goes back with its message, for K2 Thinking answers 400 without it. Servers that
    render a template parse the arguments of past calls, so text that is not a JSON object is
    wrapped.
    """
    wire: list[Message] = []
    images: list[dict[str, Any]] = []
    for message in messages:
        if images and message["role"] != "tool":
            wire.append(_image_message(images))
            images = []
        if message["role"] == "assistant" and message.get("tool_calls"):
            calls = [_with_json_arguments(call) for call in message["tool_calls"]]
            wire.append({**message, "content": message["content"] or None, "tool_calls": calls})
        elif message["role"] == "tool" and isinstance(message["content"], list):
            content, behind = _tool_content(message["content"], pictures)
            images += behind
            wire.append({**message, "content": content})
        else:
            wire.append(message)
    if images:
        wire.append(_image_message(images))
    return wire


def _tool_content(
    parts: list[dict[str, Any]], pictures: ToolPictures
) -> tuple[Content, list[dict[str, Any]]]:
    """A tool's content, and what goes behind it. Without pictures it is one text."""
    texts = [part["text"] for part in parts if part.get("type") == "text"]
    found = [part for part in parts if part.get("type") != "text"]
    if found and pictures is ToolPictures.IN_PLACE:
        return parts, []
    note = ""
    if found:
        behind = pictures is ToolPictures.BEHIND
        note = f"[{len(found)} image(s) {'follow' if behind else 'cannot be shown here'}]"
    text = "\n".join([*texts, note]).strip()
    return text, found if pictures is ToolPictures.BEHIND else []


def _image_message(images: list[dict[str, Any]]) -> Message:
    return {"role": "user", "content": [{"type": "text", "text": "The tool's images:"}, *images]}


def _with_json_arguments(call: dict[str, Any]) -> dict[str, Any]:
    text = call["function"]["arguments"]
    try:
        arguments = json.loads(text)
        if isinstance(arguments, dict):
            if _SURROGATE_ESCAPE.search(text) and (mended := valid_json(arguments)) != arguments:
                text = json.dumps(mended, ensure_ascii=False)
                return {**call, "function": {**call["function"], "arguments": text}}
            return call
    except (ValueError, RecursionError):
        pass
    arguments = json.dumps({"malformed_arguments": text}) if text.strip() else "{}"
    return {**call, "function": {**call["function"], "arguments": arguments}}
