"""Bodies for the fuzzer: good requests of every API with parts replaced, lost or mangled."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from perilune.serve.routes import all_routes

# A picture of one pixel: parts of it are replaced and lost as everything else is.
PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGOo"
    "F1AAAAHBALBoQBQKAAAAAElFTkSuQmCC"
)
PATHS = sorted(route.path for route in all_routes() if route.method == "POST")
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "d",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "string", "maxLength": 4}, "b": {"enum": [1, "x", None]}},
            "required": ["a"],
        },
    },
}
CALL = {"id": "functions.f:0", "type": "function",
        "function": {"name": "f", "arguments": '{"a": "x"}'}}  # fmt: skip
TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "u"},
    {"role": "user", "content": [{"type": "text", "text": "t"}]},
    {"role": "assistant", "content": "a", "reasoning_content": "r"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "functions.f:0", "content": "x"},
    {"role": "assistant", "content": "p", "partial": True},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
    {"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}}]},
    {"role": "user", "content": [{"type": "image_url", "image_url": PNG},
                                 {"type": "text", "text": "t"}]},
    {"role": "user", "content": [{"type": "image", "source": {
        "type": "base64", "media_type": "image/png", "data": PNG.partition(",")[2]}}]},
    {"role": "user", "content": [{"type": "input_image", "image_url": PNG}]},
    {"role": "user", "content": [{"type": "video_url", "video_url": {"url": PNG}}]},
    {"role": "user", "content": [{"type": "input_image", "file_id": "f"}]},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/"}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "x"}]},
    {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "t", "signature": ""},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": "x"}}]},
]  # fmt: skip
# Values that have hurt servers, by the shape that a field may expect.
SPECIMENS: list[Any] = [
    None, True, False, 0, -1, 1, 2, 7, 2**31, 2**63, -(2**63), 2**70, 0.5, 1.5, -0.0, 1e308, "",
    "x", "auto", "none", "required", "any", "enabled", "disabled", "text", "json_object",
    "json_schema", "object", "\x00", "\ud800", "\u202e", "<|im_end|>", "{{ 1 }}", "../..",
    "x" * 600, PNG, PNG[:60], "data:image/png;base64,", "ms://x", "file:///etc/passwd",
    [], {}, [[]], [{}], ["x"], [1], {"type": "x"}, {"type": "function"}, {"x": 1}, [None],
]  # fmt: skip
FIELDS: list[str] = [
    "messages", "model", "prompt", "input", "max_tokens", "max_completion_tokens",
    "max_output_tokens", "temperature", "top_p", "top_k", "min_p", "n", "stop", "stop_sequences",
    "seed", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias",
    "logprobs", "top_logprobs", "stream", "stream_options", "tools", "tool_choice",
    "parallel_tool_calls", "response_format", "reasoning_effort", "thinking", "reasoning", "text",
    "chat_template_kwargs", "user", "metadata", "cache_salt", "priority", "request_id", "echo",
    "suffix", "best_of", "system", "output_config", "instructions", "previous_response_id",
    "store", "include", "truncation", "min_tokens", "ignore_eos", "stop_token_ids", "tokens",
    "thinking_token_budget", "continue_final_message", "add_generation_prompt", "id", "action",
    "return_token_ids", "prompt_embeds", "audio", "prediction", "include_reasoning",
]  # fmt: skip
GOOD_VALUES: dict[str, list[Any]] = {
    "tools": [[TOOL], [TOOL, TOOL], [{"name": "f", "input_schema": {"type": "object"}}]],
    "tool_choice": ["auto", "required", {"type": "any"}, {"type": "tool", "name": "f"},
                    {"type": "function", "function": {"name": "f"}}],
    "stream": [True],
    "stream_options": [{"include_usage": True}],
    "response_format": [{"type": "json_object"}, {"type": "json_schema", "json_schema": {
        "name": "x", "schema": TOOL["function"]["parameters"]}}],  # type: ignore[index]
    "thinking": [{"type": "disabled"}, {"type": "enabled", "budget_tokens": 1024}],
    "chat_template_kwargs": [{"thinking": False}],
    "reasoning": [{"effort": "low"}],
    "text": [{"format": {"type": "json_object"}}],
}  # fmt: skip

leaves = st.sampled_from(SPECIMENS) | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def mangled(draw: Any, value: Any, depth: int = 0) -> Any:
    """The value with one of its parts replaced, lost or doubled."""
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(value, key=str)))
        match draw(st.integers(0, 5)):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return value | {draw(st.text(max_size=6)): draw(values)}
            case _:
                return value | {key: draw(mangled(value[key], depth + 1))}
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        place = draw(st.integers(0, len(value) - 1))
        match draw(st.integers(0, 4)):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return value + value[place:]
            case _:
                new = draw(mangled(value[place], depth + 1))
                return [*value[:place], new, *value[place + 1 :]]
    return draw(values)


@st.composite
def requests(draw: Any) -> tuple[str, bytes]:
    """(path, body)."""
    path = draw(st.sampled_from(PATHS))
    turns = draw(st.lists(st.sampled_from(TURNS), max_size=4))
    body: dict[str, Any] = {"model": "tiny", "messages": turns}
    if "messages" not in path and "chat" not in path:
        said = turns if "responses" in path and draw(st.booleans()) else "x"
        body |= {"prompt": "x", "input": said, "tokens": [5, 6]}
    if "messages" in path:
        body["max_tokens"] = 4
    for name in draw(st.lists(st.sampled_from(FIELDS), max_size=4)):
        good = GOOD_VALUES.get(name)
        body[name] = draw(st.sampled_from(good) if good and draw(st.booleans()) else values)
    if draw(st.booleans()):
        body = draw(mangled(body))
    data = json.dumps(body).encode()
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, max(0, len(data) - 1)))
        data = data[:place] + draw(st.binary(max_size=4)) + data[place + draw(st.integers(0, 3)) :]
    return path, data
