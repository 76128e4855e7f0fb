"""The run's messages as OpenAI-compatible servers accept them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from perilune.agent.models.chat_model import Message
from perilune.text import valid_json

_SURROGATE_ESCAPE = re.compile(r"\\ud[89a-f]", re.IGNORECASE)


def to_wire(messages: Sequence[Message]) -> list[Message]:
    """Messages for a request body.

    Reasoning goes back with its message, for K2 Thinking answers 400 without it. Servers that
    render a template parse the arguments of past calls, so text that is not a JSON object is
    wrapped. Images that a tool returned follow in a user message: few servers take them in a tool
    message.
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
            texts = [part["text"] for part in message["content"] if part.get("type") == "text"]
            found = [part for part in message["content"] if part.get("type") != "text"]
            images += found
            note = f"[{len(found)} image(s) follow]" if found else ""
            text = "\n".join([*texts, note]).strip()
            wire.append({**message, "content": text})
        else:
            wire.append(message)
    if images:
        wire.append(_image_message(images))
    return wire


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
