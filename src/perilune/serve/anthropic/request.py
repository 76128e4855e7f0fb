"""The body of `/v1/messages` -> a `ChatRequest`. Errors name the place as `messages.3.content.0`.

Where Anthropic's API refuses and nothing is lost by going on (several user turns in a row, texts
before tool results, thinking without a signature), this one goes on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perilune.engine.sampling_params import Grammar
from perilune.serve.anthropic.blocks import Place, assistant_turn, text_of, user_turn
from perilune.serve.anthropic.schema import CountTokensBody, MessagesBody, ToolChoiceBody
from perilune.serve.api_error import ApiError, invalid, unsupported
from perilune.serve.chat_request import read_tool_choice, read_tools
from perilune.serve.constraints import read_constraint
from perilune.serve.fields import extensions_of
from perilune.serve.request import Caller, ChatRequest, Constraint, Thinking, ToolUse
from perilune.serve.schema_dialect import check_schema
from perilune.serve.thinking_switches import resolve

# Claude Code's own roles, for what its user did not type.
_ROLES: Mapping[str, str] = {
    "user": "user", "assistant": "assistant", "system": "system", "ctx": "user", "msg": "user",
}  # fmt: skip
# Claude Code puts this first into its system prompt, another one in each request: kept, it would
# make every prompt a new one for the prefix cache.
_ATTRIBUTION = "x-anthropic-billing-header:"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request means. `show_thinking`: thinking is sent as text, not only in a signature.

    `only_cache`: max_tokens is 0, so the prompt is computed and nothing is said.
    """

    chat: ChatRequest
    show_thinking: bool = True
    only_cache: bool = False


def read_messages(body: MessagesBody, caller: Caller, request_id: str) -> Asked:
    """Raises ApiError (400) that names the field."""
    sampling: dict[str, Any] = {
        "max_tokens": max(1, body.max_tokens),
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "stop": _stops(body.stop_sequences),
    }
    more, salt = extensions_of(body)
    sampling |= more
    thinking = body.thinking
    budget = thinking.budget_tokens if thinking is not None else None
    if budget is not None and budget >= body.max_tokens > 0:
        raise invalid("thinking.budget_tokens: must be below max_tokens", "thinking")
    if body.max_tokens == 0 and body.stream:
        raise invalid("max_tokens: 0 fills the cache, which has nothing to stream", "max_tokens")
    return Asked(
        _chat(
            body,
            caller,
            request_id,
            {name: value for name, value in sampling.items() if value is not None},
            read_constraint(body.model_extra or {}, own=_format(body)),
            salt,
        ),
        show_thinking=thinking is None or thinking.display != "omitted",
        only_cache=body.max_tokens == 0,
    )


def read_count_tokens(body: CountTokensBody, caller: Caller, request_id: str) -> ChatRequest:
    """Raises ApiError (400) that names the field."""
    return _chat(body, caller, request_id, {}, Constraint())


def _chat(
    body: CountTokensBody,
    caller: Caller,
    request_id: str,
    sampling: Mapping[str, Any],
    constraint: Constraint,
    cache_salt: str = "",
) -> ChatRequest:
    extra = body.model_extra or {}
    for name in ("container", "mcp_servers"):
        if extra.get(name):
            raise unsupported(name)
    if extra.get("thread") is not None:  # with this code the SDK sends the whole history instead
        raise invalid(
            "thread: this server stores nothing; send the whole conversation without it",
            "thread",
            "thread_unsupported_request",
        )
    _refuse_edits(extra.get("context_management"))
    left_out: list[str] = []
    tools = _tools(body.tools or (), left_out)
    messages = _conversation(body)
    return ChatRequest(
        request_id=request_id,
        messages=messages,
        tools=tools,
        tool_use=_tool_use(body.tool_choice, tools),
        thinking=_thinking(body, messages),
        sampling=sampling,
        constraint=constraint,
        left_out=(*constraint.left_out, *left_out),
        caller=caller,
        cache_salt=cache_salt,
    )


def _refuse_edits(management: Any) -> None:
    """Edits of the history that this server would have to make; it keeps all that it is sent.

    Clearing thinking is fine: the format of the model leaves old thinking out by itself.
    """
    if isinstance(management, Mapping) and not management.keys() - {"edits"}:
        management = management.get("edits")
    for edit in management if isinstance(management, list) else [management] if management else []:
        kind = edit.get("type") if isinstance(edit, Mapping) else None
        if not isinstance(kind, str) or not kind.startswith("clear_thinking"):
            raise unsupported("context_management", "leave out yourself what does not fit")


# --- the conversation ----------------------------------------------------------------------------


def _conversation(body: CountTokensBody) -> list[dict[str, Any]]:
    """OpenAI-shaped messages; a last message of the assistant is left open, to be continued."""
    turns: list[dict[str, Any]] = []
    system = _system(body.system)
    if system:
        turns.append({"role": "system", "content": system})
    calls: set[str] = set()
    for index, message in enumerate(body.messages):
        place = Place(f"messages.{index}")
        role = _ROLES.get(message.role)
        if role is None:
            raise place.at("role").error(f"{message.role!r} is not user or assistant")
        if role == "assistant":
            turn = assistant_turn(message.content, place.at("content"))
            calls |= {call["id"] for call in turn.get("tool_calls", ())}
            if turns and turns[-1]["role"] == "assistant":
                turns[-1] = _one_turn(turns[-1], turn)
            else:
                turns.append(turn)
        elif role == "system":
            turns.append({"role": "system", "content": text_of(message.content, place)})
        else:
            turns += user_turn(message.content, place.at("content"), calls)
    last = turns[-1]
    if last["role"] == "assistant":
        if last.get("tool_calls"):
            ids = ", ".join(call["id"] for call in last["tool_calls"])
            raise Place(f"messages.{len(body.messages) - 1}").error(
                f"its tool_use blocks have no tool_result: {ids[:200]}"
            )
        last["partial"] = True
    return turns


def _one_turn(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Two assistant messages in a row are one turn of the model."""
    turn: dict[str, Any] = {
        "role": "assistant",
        "content": [*first["content"], *second["content"]],
    }
    reasoning = first.get("reasoning_content", "") + second.get("reasoning_content", "")
    calls = [*first.get("tool_calls", ()), *second.get("tool_calls", ())]
    return (
        turn
        | ({"reasoning_content": reasoning} if reasoning else {})
        | ({"tool_calls": calls} if calls else {})
    )


def _system(system: str | list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    if system is None:
        return []
    blocks = [{"type": "text", "text": system}] if isinstance(system, str) else system
    return [
        part
        for part in text_of(blocks, Place("system"))
        if not part["text"].startswith(_ATTRIBUTION) and part["text"]
    ]


# --- tools ---------------------------------------------------------------------------------------


def _tools(tools: Sequence[Mapping[str, Any]], left_out: list[str]) -> list[dict[str, Any]]:
    declared = []
    for index, tool in enumerate(tools):
        place = Place(f"tools.{index}")
        kind = tool.get("type")
        if kind not in (None, "custom"):
            raise unsupported(
                place.at("type").path,
                f"{kind!r:.60} runs at Anthropic or has a schema of theirs; declare it as your own",
            )
        schema = tool.get("input_schema")
        if not isinstance(schema, Mapping):
            raise place.at("input_schema").error("must be a JSON schema")
        function = {"name": tool.get("name"), "parameters": dict(schema)}
        if tool.get("description") is not None:
            function["description"] = tool["description"]
        if tool.get("strict") is not None:
            function["strict"] = tool["strict"]
        declared.append({"type": "function", "function": function})
    try:
        found = read_tools(declared, left_out)
    except ApiError as error:
        raise _in_our_words(error) from None
    left_out[:] = map(_place, left_out)
    return found


def _in_our_words(error: ApiError) -> ApiError:
    """Another API's field names in an error -> this one's."""
    return ApiError(error.status, _place(error.message), error.param, error.code)


def _place(text: str) -> str:
    text = re.sub(r"tools\[(\d+)\]\.function\.parameters", r"tools.\1.input_schema", text)
    return re.sub(r"tools\[(\d+)\]\.function", r"tools.\1", text)


def _tool_use(choice: ToolChoiceBody | None, tools: list[dict[str, Any]]) -> ToolUse:
    if choice is None:
        return ToolUse()
    if choice.type == "tool" and choice.name is None:
        raise invalid("tool_choice.name: is missing", "tool_choice")
    value: str | dict[str, Any] = {
        "auto": "auto",
        "any": "required",
        "none": "none",
        "tool": {"type": "function", "function": {"name": choice.name}},
    }[choice.type]  # type: ignore[assignment]
    return read_tool_choice(value, tools, parallel=not choice.disable_parallel_tool_use)


# --- thinking, the form of the answer, ends ------------------------------------------------------


def _thinking(body: CountTokensBody, messages: Sequence[Mapping[str, Any]]) -> Thinking:
    """Off unless asked for, as Anthropic documents it; a budget, else an effort, bounds it."""
    config = body.thinking
    on = config is not None and config.type != "disabled"
    if config is not None and config.type == "between_tools":
        on = messages[-1]["role"] == "tool"
    return resolve(
        {"thinking.type": on},
        {"output_config.effort": getattr(body.output_config, "effort", None)},
        {"thinking.budget_tokens": getattr(config, "budget_tokens", None)},
    )


def _format(body: MessagesBody) -> Constraint | None:
    form = body.output_config.format if body.output_config is not None else None
    older = body.output_format
    if form is not None and older is not None and form != older:
        raise invalid(
            "output_format: says another thing than output_config.format", "output_format"
        )
    form = form if form is not None else older
    if form is None:
        return None
    if form.get("type") != "json_schema":
        raise invalid(
            f"output_config.format.type: {form.get('type')!r:.60} is not json_schema",
            "output_config",
        )
    left_out = check_schema(form.get("schema"), "output_config.format.schema")
    return Constraint(Grammar.json_schema(form["schema"]), "output_config", left_out)


def _stops(sequences: Sequence[str] | None) -> tuple[str, ...] | None:
    if sequences and not all(sequences):
        raise invalid("stop_sequences: must not hold empty text", "stop_sequences")
    return tuple(sequences) if sequences else None
