"""The body of `/v1/responses` -> a `ChatRequest`. Errors name places as `input[3].content[0]`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from perilune.serve.api_error import ApiError, invalid, unsupported
from perilune.serve.chat_request import (
    read_tool_choice,
    read_tools,
)
from perilune.serve.constraints import read_constraint, read_form
from perilune.serve.fields import extensions_of
from perilune.serve.request import Caller, ChatRequest, Constraint, Thinking
from perilune.serve.responses.items import joined, read_input
from perilune.serve.responses.schema import ResponsesBody
from perilune.serve.thinking_switches import resolve


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request means. `carry_reasoning`: reasoning items also hold their text encoded.

    namespaces: the name that the model calls a tool by -> (namespace, name there).
    """

    chat: ChatRequest
    carry_reasoning: bool = False
    logprobs: bool = False
    namespaces: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def read_responses(body: ResponsesBody, caller: Caller, request_id: str) -> Asked:
    """Raises ApiError (400) that names the field."""
    _refuse_state(body)
    include = frozenset(body.include or ())
    logprobs = "message.output_text.logprobs" in include or bool(body.top_logprobs)
    sampling: dict[str, Any] = {
        "max_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "logprobs": (body.top_logprobs or 0) if logprobs else None,
    }
    more, salt = extensions_of(body)
    sampling |= more
    namespaces: dict[str, tuple[str, str]] = {}
    left_out: list[str] = []
    tools = _tools(body.tools or (), namespaces, left_out)
    constraint = read_constraint(body.model_extra or {}, own=_format(body))
    messages = read_input(body.input)
    if body.instructions:
        messages.insert(0, {"role": "system", "content": body.instructions})
    if not messages:
        raise invalid("input: is empty", "input")
    chat = ChatRequest(
        request_id=request_id,
        messages=messages,
        tools=tools,
        tool_use=read_tool_choice(body.tool_choice, tools, parallel=body.parallel_tool_calls),
        thinking=_thinking(body),
        sampling={name: value for name, value in sampling.items() if value is not None},
        constraint=constraint,
        left_out=(*constraint.left_out, *left_out),
        caller=caller,
        cache_salt=salt,
    )
    return Asked(chat, "reasoning.encrypted_content" in include, logprobs, namespaces)


def _refuse_state(body: ResponsesBody) -> None:
    """What needs a memory between requests, which this server does not have."""
    remedy = "this server stores nothing; send the whole conversation in input"
    for name in ("previous_response_id", "conversation", "background", "store"):
        if getattr(body, name):
            raise unsupported(name, remedy)
    if body.prompt is not None:
        raise unsupported("prompt", "no prompt templates are kept here")
    if body.truncation not in (None, "disabled"):
        raise unsupported("truncation", "leave out yourself what does not fit")


def _tools(
    tools: Sequence[Mapping[str, Any]],
    namespaces: dict[str, tuple[str, str]],
    left_out: list[str],
) -> list[dict[str, Any]]:
    """Function tools, flat in this API, in the nested form of the others.

    Those of a namespace (Codex groups tools so) get its name before theirs; `namespaces` is filled.
    """
    nested = []
    for index, tool in enumerate(tools):
        if tool.get("type") != "namespace":
            nested.append(_function(tool, f"tools[{index}]"))
            continue
        space, inner = tool.get("name"), tool.get("tools")
        if not isinstance(space, str) or not isinstance(inner, list):
            raise invalid(f"tools[{index}]: a namespace needs a name and tools", "tools")
        for n, member in enumerate(inner):
            where = f"tools[{index}].tools[{n}]"
            if not isinstance(member, Mapping):
                raise invalid(f"{where}: must be an object", "tools")
            declared = _function(member, where)
            name = declared["function"].get("name")
            if not isinstance(name, str):
                raise invalid(f"{where}.name: must be text", "tools")
            declared["function"]["name"] = joined(space, name)
            namespaces[joined(space, name)] = (space, name)
            nested.append(declared)
    try:
        found = read_tools(nested, left_out)
    except ApiError as error:
        raise ApiError(error.status, _place(error.message), error.param, error.code) from None
    left_out[:] = map(_place, left_out)
    return found


def _place(text: str) -> str:
    return re.sub(r"tools\[(\d+)\]\.function", r"tools[\1]", text)


def _function(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise unsupported(
            f"{where}.type",
            f"{tool.get('type')!r:.60} is not function; no tools run on this server",
        )
    function = {
        name: tool[name]
        for name in ("name", "description", "parameters", "strict")
        if tool.get(name) is not None
    }
    return {"type": "function", "function": function}


def _thinking(body: ResponsesBody) -> Thinking:
    return resolve({}, {"reasoning.effort": getattr(body.reasoning, "effort", None)}, {})


def _format(body: ResponsesBody) -> Constraint | None:
    form = body.text.format if body.text is not None else None
    if form is None:
        return None
    if form.get("type") == "json_schema":  # flat in this API
        inner = {key: value for key, value in form.items() if key != "type"}
        form = {"type": "json_schema", "json_schema": inner}
    try:
        return read_form(form, "text.format")
    except ApiError as error:
        message = error.message.replace("text.format: json_schema.", "text.format.")
        raise ApiError(error.status, message, "text.format", error.code) from None
