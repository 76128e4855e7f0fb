"""What the good server refuses: plain code, so that it differs from how our own server does it."""

from __future__ import annotations

import base64
import io
import json
import re
from typing import Any

from jsonschema import Draft202012Validator, SchemaError
from PIL import Image

ROLES = {"system", "developer", "user", "assistant", "tool", "ctx", "msg"}
PARTS = {"text", "image_url", "video_url"}
EFFORTS = {"none", "minimal", "low", "medium", "high", "xhigh", "max"}
RANGES = {
    "temperature": (0, 2), "top_p": (0, 1), "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}  # fmt: skip
COUNTS = {
    "n": (1, 8), "max_tokens": (1, 2**31), "max_completion_tokens": (1, 2**31), "top_logprobs":
    (0, 20), "seed": (-(2**63), 2**63), "max_output_tokens": (1, 2**31),
}  # fmt: skip
UNSUPPORTED = ("audio", "modalities", "web_search_options", "prediction")


class Bad(Exception):
    def __init__(self, param: str, status: int = 400, code: str | None = None) -> None:
        self.param, self.status, self.code = param, status, code
        super().__init__(f"{param} is not what it should be")


def need(condition: Any, param: str) -> None:
    if not condition:
        raise Bad(param)


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_numbers(body: dict[str, Any]) -> None:
    for name, (low, high) in RANGES.items():
        value = body.get(name)
        need(value is None or (number(value) and low <= value <= high), name)
    for name, (low, high) in COUNTS.items():
        value = body.get(name)
        need(
            value is None
            or (isinstance(value, int) and not isinstance(value, bool) and low <= value <= high),
            name,
        )
    for name in ("stream", "logprobs", "parallel_tool_calls"):
        need(body.get(name) is None or isinstance(body[name], bool), name)
    stop = body.get("stop")
    stops = [stop] if isinstance(stop, str) else stop
    if stops is not None:
        need(isinstance(stops, list) and len(stops) <= 16, "stop")
        need(all(isinstance(s, str) and s for s in stops), "stop")
    bias = body.get("logit_bias")
    if bias is not None:
        need(isinstance(bias, dict), "logit_bias")
        for key, value in bias.items():
            need(key.isdigit() and number(value) and -100 <= value <= 100, "logit_bias")
    need(body.get("user") is None or isinstance(body["user"], str), "user")
    need(not body.get("top_logprobs") or body.get("logprobs"), "top_logprobs")
    need(not body.get("stream_options") or body.get("stream"), "stream_options")
    for name in UNSUPPORTED:
        need(name not in body, name)
    need(not body.get("store"), "store")


def check_messages(messages: Any) -> None:
    need(isinstance(messages, list) and messages, "messages")
    for message in messages:
        need(isinstance(message, dict) and message.get("role") in ROLES, "messages")
        content = message.get("content")
        need(content is None or isinstance(content, str | list), "messages")
        tools = message.get("tools")
        need(tools is None or (message["role"] == "system" and isinstance(tools, list)), "messages")
        for part in content if isinstance(content, list) else ():
            need(isinstance(part, dict) and part.get("type") in PARTS, "messages")
            if part["type"] == "image_url":
                named = part.get("image_url")
                check_picture(named.get("url") if isinstance(named, dict) else named)
        need(message["role"] != "tool" or message.get("tool_call_id"), "messages")
        for call in message.get("tool_calls") or ():
            need(isinstance(call.get("function"), dict), "messages")


def check_picture(url: Any) -> None:
    """Only data URLs of a PNG, JPEG, WebP or GIF of a sane size, decoded to its last pixel."""
    need(isinstance(url, str) and url.startswith("data:image/"), "messages")
    try:
        data = base64.b64decode(url.partition(";base64,")[2], validate=True)
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF")) as image:
            need(0 < image.width * image.height < 10**7, "messages")
            image.load()
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError):
        raise Bad("messages") from None


def picture_tokens(url: str) -> int:
    """A token for each 28 x 28 pixels begun."""
    data = base64.b64decode(url.partition(";base64,")[2])
    with Image.open(io.BytesIO(data)) as image:
        return -(-image.width // 28) * -(-image.height // 28)


def check_tools(body: dict[str, Any], tools: Any) -> None:
    choice = body.get("tool_choice", "auto")
    if tools is not None:
        need(isinstance(tools, list), "tools")
    names = []
    for tool in tools or ():
        need(tool.get("type") == "function", "tools")
        function = tool["function"]
        need(re.fullmatch(r"[\w.-]+", function.get("name") or ""), "tools")
        names.append(function["name"])
        check_schema(function.get("parameters", {}), "tools")
    need(len(set(names)) == len(names), "tools")
    if isinstance(choice, str):
        need(choice in ("none", "auto", "required"), "tool_choice")
        need(choice != "required" or names, "tool_choice")
    else:
        need(isinstance(choice, dict), "tool_choice")
        if choice.get("type") == "allowed_tools":
            return
        need((choice.get("function") or {}).get("name") in names, "tool_choice")


def check_schema(schema: Any, param: str) -> None:
    need(isinstance(schema, dict), param)
    need(len(json.dumps(schema)) <= 120_000, param)
    need(_depth(schema) <= 62, param)  # two levels of JSON for one of the schema
    keys = 0
    for node in _nodes(schema):
        keys += len(node["properties"]) if isinstance(node.get("properties"), dict) else 0
        need(len(node.get("enum") or ()) <= 1000, param)
        need(len(node.get("anyOf") or ()) <= 500, param)
        reference = node.get("$ref")
        if isinstance(reference, str):
            known = reference == "#" or reference.removeprefix("#/$defs/") in schema.get(
                "$defs", {}
            )
            need(known, param)
        if isinstance(node.get("pattern"), str):
            try:
                re.compile(node["pattern"])
            except re.error:
                raise Bad(param) from None
    need(keys <= 3000, param)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError:
        raise Bad(param) from None


def _nodes(value: Any) -> Any:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _nodes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _nodes(inner)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 0


def check_format(form: Any) -> None:
    if form is None:
        return
    need(isinstance(form, dict), "response_format")
    need(form.get("type") in ("text", "json_object", "json_schema"), "response_format")
    if form["type"] == "json_schema":
        inner = form.get("json_schema")
        need(isinstance(inner, dict), "response_format")
        need(isinstance(inner.get("name"), str), "response_format")
        need(isinstance(inner.get("schema"), dict), "response_format")
        need(isinstance(inner.get("strict", True), bool), "response_format")
        check_schema(inner["schema"], "response_format")


def check_thinking(body: dict[str, Any]) -> None:
    thinking = body.get("thinking")
    if thinking is not None:
        need(isinstance(thinking, dict), "thinking")
        need(thinking.get("type") in ("enabled", "disabled"), "thinking")
        need(thinking.get("effort", "low") in ("low", "high", "max"), "thinking")
        need(thinking.get("keep", "all") in ("all", None), "thinking")
    need(body.get("reasoning_effort", "low") in EFFORTS, "reasoning_effort")
    kwargs = body.get("chat_template_kwargs") or {}
    allowed = {"thinking", "preserve_thinking", "thinking_effort"}
    need(set(kwargs) <= allowed, "chat_template_kwargs")


def check_strict(body: dict[str, Any], thinking: bool) -> None:
    """Moonshot's vendor rules."""
    fixed = {"temperature": (0, 0.6, 1), "top_p": (0.95,), "n": (1,), "presence_penalty": (0,),
             "frequency_penalty": (0,)}  # fmt: skip
    for name, values in fixed.items():
        need(body.get(name, values[0]) in values, name)
    need(not (thinking and isinstance(body.get("tool_choice"), dict)), "tool_choice")
    inside = body.get("thinking") or {}
    need(set(inside) <= {"type", "keep", "effort"}, "thinking")
    stop = body.get("stop") or []
    stops = [stop] if isinstance(stop, str) else stop
    need(len(stops) <= 5 and all(len(s.encode()) <= 32 for s in stops), "stop")
    need(len(body.get("tools") or ()) <= 128, "tools")
