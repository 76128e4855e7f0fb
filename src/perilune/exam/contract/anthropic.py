"""Anthropic's Messages: the answer in one piece, tools, thinking, refusals, token counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from jsonschema import Draft202012Validator

from perilune.exam.contract.check import Level, Skip, check, expect, expect_int, expect_text
from perilune.exam.contract.refusals import LEAKS
from perilune.exam.contract.scenarios import TOOL_QUESTION, WEATHER
from perilune.exam.contract.target import ABSENT, ANTHROPIC, Exchange, Target

PATH = "/v1/messages"
STOP_REASONS = {
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal",
    "model_context_window_exceeded",
}  # fmt: skip
ERROR_TYPES = {
    "invalid_request_error", "authentication_error", "permission_error", "not_found_error",
    "request_too_large", "rate_limit_error", "api_error", "overloaded_error", "billing_error",
    "timeout_error",
}  # fmt: skip
TOOL = {
    "name": "get_weather",
    "description": "The weather of a city today.",
    "input_schema": WEATHER["function"]["parameters"],
}
TOOL_FIELDS: dict[str, Any] = {
    "tools": [TOOL],
    "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
}
THINKING_FIELDS: dict[str, Any] = {
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "max_tokens": 2048,
    "temperature": 1,
}


def _check(
    name: str, rule: str, *, why: str, level: Level = Level.REQUIRED
) -> Callable[[Callable[..., None]], Callable[[Target], None]]:
    return check(f"anthropic.{name}", rule, why=why, level=level, api="anthropic")


def plain(target: Target, name: str = "text") -> Exchange:
    """The answer to one of the usual requests."""
    if name == "tools":
        fields = TOOL_FIELDS | {"max_tokens": target.settings.call_tokens}
        return target.once("anthropic/tools", lambda: target.messages(TOOL_QUESTION, **fields))
    return target.once("anthropic/text", target.messages)


def refused(exchange: Exchange, statuses: tuple[int, ...] = (400,)) -> dict[str, Any]:
    """The error object of a refusal in Anthropic's shape."""
    wanted = " or ".join(map(str, statuses))
    expect(exchange.status in statuses, f"status {exchange.status}, {wanted} was due", exchange)
    body = exchange.json
    expect(body.get("type") == "error", f"type is {body.get('type')!r}, not error", exchange)
    error = body.get("error") or {}
    expect(error.get("type") in ERROR_TYPES, f"error.type is {error.get('type')!r}", exchange)
    expect_text(error.get("message"), "error.message")
    text = exchange.body.decode("utf-8", "replace")
    expect(not any(leak in text for leak in LEAKS), "the error shows the server's code", exchange)
    assert isinstance(error, dict)
    return error


def blocks_of(exchange: Exchange, kind: str) -> list[dict[str, Any]]:
    return [b for b in exchange.ok().json["content"] if b.get("type") == kind]


def text_of(exchange: Exchange) -> str:
    return "".join(block["text"] for block in blocks_of(exchange, "text"))


@_check(
    "message",
    "The answer is {id, type message, role assistant, model, content, stop_reason, "
    "stop_sequence, usage}.",
    why="Anthropic's SDK fails on an answer that lacks one.",
)
def message(target: Target) -> None:
    answer = plain(target).ok().json
    expect_text(answer.get("id"), "id")
    expect(answer.get("type") == "message", f"type is {answer.get('type')!r}")
    expect(answer.get("role") == "assistant", f"role is {answer.get('role')!r}")
    expect_text(answer.get("model"), "model")
    expect(answer.get("stop_reason") in STOP_REASONS, f"stop_reason {answer.get('stop_reason')!r}")
    expect("stop_sequence" in answer, "stop_sequence is missing")
    expect(isinstance(answer.get("content"), list), "content is not a list")
    for block in answer["content"]:
        expect(block.get("type") in ("text", "thinking"), f"a block of type {block.get('type')!r}")
    check_usage(answer.get("usage"))


def check_usage(usage: Any) -> None:
    expect(isinstance(usage, dict), f"usage is {usage!r}")
    expect_int(usage.get("input_tokens"), "usage.input_tokens")
    expect_int(usage.get("output_tokens"), "usage.output_tokens")


@_check(
    "max-tokens",
    "max_tokens cuts the answer, with stop_reason max_tokens.",
    why="A cut answer looks whole.",
)
def max_tokens(target: Target) -> None:
    exchange = target.messages("Count upwards in words.", max_tokens=4)
    answer = exchange.ok().json
    count = answer["usage"]["output_tokens"]
    expect(count <= 4, f"{count} tokens came, 4 were asked for")
    expect(
        answer["stop_reason"] == "max_tokens" or count < 4,
        f"stop_reason is {answer['stop_reason']!r}",
    )


@_check(
    "stop-sequences",
    "stop_sequences end the answer: stop_reason stop_sequence, and which one.",
    why="Programs that cut at a marker read past it.",
)
def stop_sequences(target: Target) -> None:
    whole = text_of(plain(target))
    if len(whole) < 3:
        raise Skip("the answer is too short to be stopped")
    stop = whole[len(whole) // 2 :][:2]
    answer = target.messages(stop_sequences=["\N{SNOWMAN}\N{SNOWMAN}", stop]).ok()
    expect(answer.json["stop_reason"] == "stop_sequence", f"{answer.json['stop_reason']!r}")
    expect(answer.json["stop_sequence"] == stop, f"stop_sequence {answer.json['stop_sequence']!r}")
    expect(text_of(answer) == whole[: whole.index(stop)], f"the text is {text_of(answer)!r}")


@_check(
    "system",
    "system is taken as a text and as a list of blocks.",
    why="Claude Code sends blocks with cache_control.",
)
def system(target: Target) -> None:
    target.messages(system="Be brief.", max_tokens=8).ok()
    block = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    target.messages(system=[block], max_tokens=8).ok()


@_check(
    "tool-use",
    "tool_choice any gives a tool_use block that fits the schema, and stop_reason tool_use.",
    why="Agents that must act get prose instead.",
)
def tool_use(target: Target) -> None:
    exchange = plain(target, "tools")
    calls = blocks_of(exchange, "tool_use")
    expect(calls, "no tool_use block")
    expect(exchange.json["stop_reason"] == "tool_use", f"{exchange.json['stop_reason']!r}")
    for call in calls:
        check_tool_use(call)


def check_tool_use(call: dict[str, Any]) -> None:
    expect_text(call.get("id"), "id")
    expect(call.get("name") == TOOL["name"], f"name is {call.get('name')!r}")
    value = call.get("input")
    expect(isinstance(value, dict), f"input is {value!r}, not an object")
    schema: Any = TOOL["input_schema"]
    errors = list(Draft202012Validator(schema).iter_errors(value))
    expect(not errors, f"the schema refuses {value}: {errors and errors[0].message}")


@_check(
    "tool-named",
    "tool_choice tool gives that tool; none gives none.",
    why="Structured extraction calls another tool.",
)
def tool_named(target: Target) -> None:
    other = {**TOOL, "name": "other"}
    limit = target.settings.call_tokens
    exchange = target.messages(
        TOOL_QUESTION, tools=[other, TOOL], max_tokens=limit,
        tool_choice={"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
    )  # fmt: skip
    names = [call["name"] for call in blocks_of(exchange, "tool_use")]
    expect(names == ["get_weather"], f"called {names}")
    exchange = target.messages(TOOL_QUESTION, tools=[TOOL], tool_choice={"type": "none"})
    expect(not blocks_of(exchange, "tool_use"), "a call in spite of none")


@_check(
    "tool-result",
    "A tool_result is taken, as a text and as blocks, also an error.",
    why="An agent takes one step and stops.",
)
def tool_result(target: Target) -> None:
    content = plain(target, "tools").ok().json["content"]
    calls = [block for block in content if block["type"] == "tool_use"]
    expect(calls, "no call to answer")
    for result in ("3 degrees", [{"type": "text", "text": "3 degrees"}]):
        history = [
            {"role": "user", "content": TOOL_QUESTION},
            {"role": "assistant", "content": content},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": call["id"], "content": result,
                     "is_error": isinstance(result, list)}
                    for call in calls
                ],
            },
        ]  # fmt: skip
        target.messages(messages=history, tools=[TOOL], max_tokens=8).ok()


@_check(
    "thinking",
    "thinking enabled gives a thinking block before the text.",
    why="Agents lose what the model thought.",
    level=Level.RECOMMENDED,
)
def thinking(target: Target) -> None:
    exchange = target.messages("What is 17 times 3?", **THINKING_FIELDS)
    kinds = [block["type"] for block in exchange.ok().json["content"]]
    expect(kinds[:1] == ["thinking"], f"the blocks are {kinds}")
    block = exchange.json["content"][0]
    expect(isinstance(block.get("thinking"), str), "the block has no thinking")
    expect(isinstance(block.get("signature"), str), "the block has no signature")


@_check(
    "thinking-history",
    "Thinking blocks with an empty signature are taken in the history.",
    why="Agents send the history back as they got it, from whatever model.",
)
def thinking_history(target: Target) -> None:
    history = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Easy.", "signature": ""},
            {"type": "text", "text": "One."}]},
        {"role": "user", "content": "Two?"},
    ]  # fmt: skip
    target.messages(messages=history, max_tokens=8).ok()


@_check(
    "efforts",
    "thinking adaptive and output_config.effort are taken.",
    why="Claude Code sends them.",
    level=Level.RECOMMENDED,
)
def efforts(target: Target) -> None:
    target.messages(thinking={"type": "adaptive"}, max_tokens=8).ok()
    target.messages(output_config={"effort": "low"}, max_tokens=8).ok()


@_check(
    "format",
    "output_config.format json_schema gives JSON that fits.",
    why="Programs parse the answer and rely on its fields.",
    level=Level.RECOMMENDED,
)
def output_format(target: Target) -> None:
    schema: dict[str, Any] = WEATHER["function"]["parameters"]
    exchange = target.messages(
        "Describe the weather in Oslo as JSON.",
        output_config={"format": {"type": "json_schema", "schema": schema}},
        max_tokens=target.settings.call_tokens,
    )
    value = json.loads(text_of(exchange))
    errors = list(Draft202012Validator(schema).iter_errors(value))
    expect(not errors, f"the schema refuses {value}: {errors and errors[0].message}")


@_check(
    "headers",
    "anthropic-beta, an unknown version and ?beta=true change nothing.",
    why="Claude Code sends them.",
)
def headers(target: Target) -> None:
    body = target.message_body(max_tokens=4)
    sent = {"anthropic-version": "2099-01-01", "anthropic-beta": "future-thing-2099-01-01"}
    target.post(f"{PATH}?beta=true", body, headers=sent).ok()
    target.post(PATH, body).ok()


@_check(
    "odd-roles",
    "Messages of the roles system, ctx and msg are taken.",
    why="Newer Claude Code sends them in the middle of a conversation.",
    level=Level.RECOMMENDED,
)
def odd_roles(target: Target) -> None:
    for role in ("system", "ctx", "msg"):
        history = [{"role": "user", "content": "Hello."}, {"role": role, "content": "Be brief."},
                   {"role": "user", "content": "Well?"}]  # fmt: skip
        target.messages(messages=history, max_tokens=4).ok()


@_check(
    "count-tokens",
    "/v1/messages/count_tokens tells the input_tokens of the same request.",
    why="Agents compact their history by it.",
)
def count_tokens(target: Target) -> None:
    body = target.message_body()
    counted = {k: v for k, v in body.items() if k not in ("max_tokens", "temperature")}
    answer = target.post(f"{PATH}/count_tokens", counted, headers=ANTHROPIC).ok().json
    found = expect_int(answer.get("input_tokens"), "input_tokens", at_least=1)
    usage = plain(target).ok().json["usage"]
    used = usage["input_tokens"] + (usage.get("cache_read_input_tokens") or 0)
    used += usage.get("cache_creation_input_tokens") or 0
    expect(found == used, f"counted {found}, used {used}")


for _id, _what, _fields in (
    ("no-max-tokens", "no max_tokens", {"max_tokens": ABSENT}),
    ("bad-max-tokens", "max_tokens -1", {"max_tokens": -1}),
    ("no-messages", "no messages", {"messages": ABSENT}),
    ("empty-messages", "an empty list of messages", {"messages": []}),
    ("bad-content", "content that is a number", {"messages": [{"role": "user", "content": 7}]}),
    ("bad-block", "a block of an unknown type",
     {"messages": [{"role": "user", "content": [{"type": "smell"}]}]}),
    ("temperature", "temperature -1", {"temperature": -1}),
    ("bad-tool", "a tool without a name", {"tools": [{"input_schema": {"type": "object"}}]}),
    ("bad-choice", "an unknown tool_choice", {"tools": [TOOL], "tool_choice": {"type": "x"}}),
    ("choice-without-tools", "tool_choice any without tools", {"tool_choice": {"type": "any"}}),
    ("bad-thinking", "an unknown thinking.type", {"thinking": {"type": "perhaps"}}),
    ("bad-stop", "stop_sequences that are a number", {"stop_sequences": 7}),
):  # fmt: skip

    @_check(
        f"refuses-{_id}",
        f"Refused with 400: {_what}.",
        why="The model answers something that nobody asked.",
    )
    def _refuses(target: Target, fields: dict[str, Any] = _fields) -> None:
        refused(target.messages(**fields))
        refused(target.messages(stream=True, **fields))


@_check(
    "errors",
    "Errors have Anthropic's shape: malformed JSON 400, an unknown model 404.",
    why="The SDK cannot tell one from another.",
)
def errors(target: Target) -> None:
    for body in (b"{", b"[]", b"7"):
        refused(target.post(PATH, body, headers=ANTHROPIC))
    refused(target.messages(model="no/such-model"), (404,))
    refused(target.messages(model="no/such-model", stream=True), (404,))


@_check(
    "keys",
    "Without a key 401 in Anthropic's shape; x-api-key and Authorization both work.",
    why="Anybody uses the machine, or nobody can.",
)
def keys(target: Target) -> None:
    if target.api_key is None:
        raise Skip("no key was given")
    body = target.message_body(max_tokens=1)
    error = refused(target.post(PATH, body, headers=ANTHROPIC, keyed=False), (401,))
    expect(error["type"] == "authentication_error", f"error.type is {error['type']!r}")
    for header in ({"x-api-key": target.api_key}, {"authorization": f"Bearer {target.api_key}"}):
        target.post(PATH, body, headers={**ANTHROPIC, **header}, keyed=False).ok()
