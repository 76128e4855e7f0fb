"""The same pictures in the words of every API."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

Body = dict[str, Any]
CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
# The place of the first part of `asking`, in the words of each API.
PLACES = {
    CHAT: "messages[0].content[0]",
    MESSAGES: "messages.0.content.0.source",
    RESPONSES: "input[0].content[0]",
}
COUNTERS = {
    CHAT: "/v1/chat/completions/input_tokens",
    MESSAGES: "/v1/messages/count_tokens",
    RESPONSES: "/v1/responses/input_tokens",
}


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{encoded(data)}"


def chat_part(url: str) -> Body:
    return {"type": "image_url", "image_url": {"url": url}}


def message_part(url: str) -> Body:
    """Anthropic's block: base64 where it can be, else the address."""
    head, comma, data = url.partition(";base64,")
    if comma and head.startswith("data:"):
        media_type = head.removeprefix("data:")
        return {"type": "image", "source": {
            "type": "base64", "media_type": media_type, "data": data}}  # fmt: skip
    return {"type": "image", "source": {"type": "url", "url": url}}


def responses_part(url: str) -> Body:
    return {"type": "input_image", "image_url": url, "detail": "auto"}


PARTS: dict[str, Callable[[str], Body]] = {
    CHAT: chat_part, MESSAGES: message_part, RESPONSES: responses_part,
}  # fmt: skip
ALL = list(PARTS)


def asking(path: str, *urls: str, words: str = "What is it?", **more: Any) -> Body:
    """A request with pictures, then words."""
    text = {"type": "input_text" if path == RESPONSES else "text", "text": words}
    turn = {"role": "user", "content": [*map(PARTS[path], urls), text]}
    if path == RESPONSES:
        return {"model": "tiny", "input": [turn], **more}
    most = {"max_tokens": 50} if path == MESSAGES else {}
    return {"model": "tiny", "messages": [turn], **most, **more}


def prompt_tokens(path: str, reply: Body) -> int:
    """What a whole reply says of its prompt."""
    usage = reply["usage"]
    if path == MESSAGES:
        return int(usage["input_tokens"] + usage["cache_read_input_tokens"])
    return int(usage["prompt_tokens" if path == CHAT else "input_tokens"])
