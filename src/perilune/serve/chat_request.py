"""The body of `/v1/chat/completions` -> a `ChatRequest`: the rules on tools, formats, thinking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perilune.engine.request import ToolChoice
from perilune.serve.api_error import ApiError, invalid
from perilune.serve.chat_schema import ChatCompletionBody
from perilune.serve.constraints import read_constraint
from perilune.serve.fields import check_extra, sampling_of
from perilune.serve.history import History
from perilune.serve.kimi_strict import check_kimi_strict
from perilune.serve.request import Caller, ChatRequest, ToolUse
from perilune.serve.schema_dialect import check_schema
from perilune.serve.service import Service
from perilune.serve.thinking_switches import read_thinking

MAX_NAME = 256  # of a tool: MCP's are as long, with the name of their server before them


def read_chat(
    body: ChatCompletionBody, service: Service, caller: Caller, request_id: str
) -> ChatRequest:
    """Raises ApiError (400) that names the field."""
    check_extra(body, service)
    dialect = service.settings.kimi_strict
    thinking = read_thinking(body)
    if service.settings.kimi_strict:
        check_kimi_strict(body, thinking, service.format.family)
    messages, more_tools = read_messages(body)
    left_out: list[str] = []
    tools = read_tools([*(body.tools or ()), *more_tools], left_out, dialect=dialect)
    form = {"response_format": body.response_format, **(body.model_extra or {})}
    constraint = read_constraint(form, dialect=dialect)
    tool_use = read_tool_choice(body.tool_choice, tools, parallel=body.parallel_tool_calls)
    sampling = sampling_of(body)
    if body.max_completion_tokens is not None:
        sampling["max_tokens"] = body.max_completion_tokens
    if body.stream_options is not None and not body.stream:
        raise invalid("stream_options needs stream: true", "stream_options")
    if body.top_logprobs and not body.logprobs:
        raise invalid("top_logprobs needs logprobs: true", "top_logprobs")
    if body.logprobs:
        sampling["logprobs"] = body.top_logprobs or 0
    return ChatRequest(
        request_id=request_id,
        messages=messages,
        tools=tools,
        tool_use=tool_use,
        thinking=thinking,
        sampling=sampling,
        constraint=constraint,
        left_out=(*constraint.left_out, *left_out),
        add_generation_prompt=body.add_generation_prompt is not False,
        caller=caller,
        cache_salt=body.cache_salt or "",
        priority=body.priority or 0,
    )


# --- messages ------------------------------------------------------------------------------------


def read_messages(
    body: ChatCompletionBody,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(messages, tools declared in system messages). Raises ApiError."""
    messages: list[dict[str, Any]] = []
    tools: list[dict[str, Any]] = []
    history = History()
    for index, message in enumerate(body.messages):
        declared = message.get("tools")
        if declared is not None:
            if message.get("role") not in ("system", "developer"):
                raise invalid(
                    f"messages[{index}].tools: only a system message declares tools", "messages"
                )
            if not isinstance(declared, list) or not all(isinstance(t, dict) for t in declared):
                raise invalid(f"messages[{index}].tools: must be a list of tools", "messages")
            tools += declared
            if not message.get("content"):
                continue
            message = {key: value for key, value in message.items() if key != "tools"}
        messages += history.read(message, f"messages[{index}]")
    if not messages:
        raise invalid("messages: there is none with content", "messages")
    if body.continue_final_message:
        last = messages[-1]
        if last.get("role") != "assistant":
            raise invalid(
                "continue_final_message: the last message is not the assistant's",
                "continue_final_message",
            )
        messages[-1] = {**last, "partial": True}
    return messages, tools


# --- tools ---------------------------------------------------------------------------------------


def read_tools(
    tools: list[dict[str, Any]], left_out: list[str], *, dialect: bool = False
) -> list[dict[str, Any]]:
    """Checked function tools, each name once. Raises ApiError.

    left_out: gets the places of what no grammar can hold. dialect: schemas that ask for `strict`
    are held to Moonshot's dialect.
    """
    names: dict[str, int] = {}
    result = []
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if tool.get("type", "function") != "function":
            raise invalid(f"{where}.type: {tool['type']!r:.60} is not function", "tools")
        function = tool.get("function")
        if not isinstance(function, Mapping):
            raise invalid(f"{where}.function: must be an object with a name", "tools")
        name = function.get("name")
        if not isinstance(name, str) or not name or len(name) > MAX_NAME or not _is_name(name):
            raise invalid(
                f"{where}.function.name: must be 1 to {MAX_NAME} letters, digits,"
                " '_', '-', '.', ':'",
                "tools",
            )
        if not isinstance(function.get("description", ""), str | None):
            raise invalid(f"{where}.function.description: must be text", "tools")
        strict = function.get("strict")
        if strict is not None and not isinstance(strict, bool):
            raise invalid(f"{where}.function.strict: must be true or false", "tools")
        parameters = function.get("parameters")
        if parameters is not None:
            left_out += check_schema(
                parameters,
                f"{where}.function.parameters",
                strict=bool(strict),
                dialect=dialect and bool(strict),
            )
        if name in names:
            if tools[names[name]] == tool:
                continue  # declared again, in a system message
            raise invalid(f"{where}.function.name: {name!r} is declared twice", "tools")
        names[name] = index
        result.append({**tool, "type": "function"})
    return result


def _is_name(name: str) -> bool:
    return all(c.isalnum() or c in "_-.:/" for c in name) and name.isascii()


def read_tool_choice(
    value: str | Mapping[str, Any] | None,
    tools: list[dict[str, Any]],
    *,
    parallel: bool | None,
) -> ToolUse:
    """OpenAI's `tool_choice`, the form with allowed tools too. Raises ApiError."""
    together = parallel is not False
    names = {tool["function"]["name"] for tool in tools}
    if value is None:
        return ToolUse(parallel=together)
    if isinstance(value, str):
        if value not in ("none", "auto", "required"):
            raise _bad_choice(f"{value!r:.60} is not none, auto or required")
        choice = ToolChoice(value)
        if choice is ToolChoice.REQUIRED and not names:
            raise _bad_choice("'required' needs tools, and there are none")
        return ToolUse(choice, parallel=together)
    kind = value.get("type")
    if kind == "function":
        return ToolUse(ToolChoice.NAMED, _chosen_name(value, names), parallel=together)
    if kind == "allowed_tools":
        inner = value.get("allowed_tools")
        inner = inner if isinstance(inner, Mapping) else value
        mode, listed = inner.get("mode", "auto"), inner.get("tools")
        if mode not in ("auto", "required"):
            raise _bad_choice(f"mode {mode!r:.60} is not auto or required")
        if not isinstance(listed, list) or not listed:
            raise _bad_choice("allowed_tools needs a list of tools")
        allowed = frozenset(
            _chosen_name(entry if isinstance(entry, Mapping) else {}, names) for entry in listed
        )
        return ToolUse(ToolChoice(mode), allowed=allowed, parallel=together)
    raise _bad_choice(f"its type {kind!r:.60} is not function or allowed_tools")


def _chosen_name(choice: Mapping[str, Any], names: set[str]) -> str:
    function = choice.get("function")
    name = function.get("name") if isinstance(function, Mapping) else choice.get("name")
    if not isinstance(name, str):
        raise _bad_choice("a function choice needs function.name")
    if name not in names:
        raise _bad_choice(f"no tool is named {name!r:.100}")
    return name


def _bad_choice(what: str) -> ApiError:
    return invalid(f"tool_choice: {what}", "tool_choice")
