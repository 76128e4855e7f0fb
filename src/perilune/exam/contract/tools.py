"""Tool calls: when they come, what they look like, and that their arguments fit the schema."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator

from perilune.exam.contract.chat_plain import CALL_HISTORY, first_choice
from perilune.exam.contract.check import Level, Skip, Violation, check, expect, expect_text
from perilune.exam.contract.scenarios import (
    CLOCK,
    TOOL_QUESTION,
    WEATHER,
    ChatStream,
    plain,
    streamed,
)
from perilune.exam.contract.schemas import HARD, as_tool, draw_schema
from perilune.exam.contract.target import Exchange, Target


@dataclass(frozen=True, slots=True)
class Called:
    """A finished answer, from a stream or in one piece: its calls and why it ended."""

    exchange: Exchange
    calls: list[dict[str, Any]]  # id, name, arguments
    content: str
    finish: Any


def from_plain(exchange: Exchange) -> Called:
    choice = first_choice(exchange)
    found = choice["message"]
    calls = [
        {
            "id": call.get("id"),
            "name": call["function"].get("name"),
            "arguments": call["function"].get("arguments"),
        }
        for call in found.get("tool_calls") or ()
    ]
    return Called(exchange, calls, found.get("content") or "", choice["finish_reason"])


def from_stream(stream: ChatStream) -> Called:
    stream.exchange.ok()
    return Called(stream.exchange, stream.calls(), stream.text(), stream.finish())


def ask(target: Target, question: str = TOOL_QUESTION, /, **fields: Any) -> list[Called]:
    """The same request plain and streamed."""
    fields = {"max_tokens": target.settings.call_tokens, **fields}
    return [
        from_plain(target.chat(question, **fields)),
        from_stream(ChatStream("ask", target.chat(question, stream=True, **fields))),
    ]


def arguments_of(called: Called, call: dict[str, Any]) -> Any:
    """The parsed arguments of a call. Raises Violation."""
    text = call["arguments"]
    expect(isinstance(text, str), f"arguments are {text!r}, not a string", called.exchange)
    try:
        return json.loads(text)
    except ValueError as error:
        raise Violation(f"arguments are not JSON: {error}: {text!r}", called.exchange) from None


def check_calls(called: Called, tools: list[dict[str, Any]]) -> None:
    """Every call is of a declared tool and fits its schema."""
    declared = {tool["function"]["name"]: tool["function"] for tool in tools}
    ids = [expect_text(call["id"], "id of a call") for call in called.calls]
    expect(len(set(ids)) == len(ids), f"two calls have one id: {ids}", called.exchange)
    for call in called.calls:
        name = call["name"]
        expect(name in declared, f"{name!r} was not declared", called.exchange)
        value = arguments_of(called, call)
        validator = Draft202012Validator(declared[name].get("parameters") or {})
        errors = list(validator.iter_errors(value))
        expect(
            not errors,
            f"the schema of {name} refuses {call['arguments']}: {errors and errors[0].message}",
            called.exchange,
        )


def _both(target: Target) -> list[Called]:
    return [from_plain(plain(target, "tools")), from_stream(streamed(target, "tools"))]


@check(
    "tools.required",
    "tool_choice required gives a call and finish_reason tool_calls, streamed and not.",
    why="Agents that must act get prose instead.",
)
def required(target: Target) -> None:
    for called in _both(target):
        expect(called.calls, "no call", called.exchange)
        expect(called.finish == "tool_calls", f"finish_reason {called.finish!r}", called.exchange)


@check(
    "tools.arguments",
    "Calls are of declared tools, with arguments that are a JSON text and fit the schema.",
    why="The tool cannot run.",
)
def arguments(target: Target) -> None:
    for called in _both(target):
        expect(called.calls, "no call", called.exchange)
        check_calls(called, [WEATHER, CLOCK])
    for called in (from_plain(plain(target, "calls")), from_stream(streamed(target, "calls"))):
        if called.finish == "length" and called.calls:
            called.calls.pop()  # the last may be cut
        check_calls(called, [WEATHER, CLOCK])


@check(
    "tools.message",
    "A message with calls has type function in each, and content that is a text or null.",
    why="Typed clients fail on it.",
)
def message(target: Target) -> None:
    found = first_choice(plain(target, "tools"))["message"]
    for call in found["tool_calls"]:
        expect(call.get("type") == "function", f"type is {call.get('type')!r}")
    content = found.get("content")
    expect(content is None or isinstance(content, str), f"content is {content!r}")


@check(
    "tools.absent-when-none",
    "A message without calls has no tool_calls (or null), never an empty list that means a call.",
    why="Clients take the key as a call.",
    level=Level.RECOMMENDED,
)
def absent(target: Target) -> None:
    found = first_choice(plain(target, "text"))["message"]
    expect(not found.get("tool_calls"), "tool_calls where there were no tools")
    expect(found.get("tool_calls") is None, "tool_calls is an empty list")


@check(
    "tools.named",
    "A named tool_choice gives calls of that tool only, streamed and not.",
    why="Structured extraction calls another tool.",
)
def named(target: Target) -> None:
    choice = {"type": "function", "function": {"name": "get_time"}}
    fields = {"tools": [WEATHER, CLOCK], "parallel_tool_calls": False}
    for called in ask(target, tool_choice=choice, **fields):
        expect(called.calls, "no call", called.exchange)
        names = {call["name"] for call in called.calls}
        expect(names == {"get_time"}, f"called {sorted(names)}", called.exchange)
        check_calls(called, [CLOCK])


@check(
    "tools.none",
    "tool_choice none gives no call, streamed and not.",
    why="The caller wants an answer and gets another step.",
)
def none(target: Target) -> None:
    for called in ask(target, tools=[WEATHER], tool_choice="none", max_tokens=48):
        expect(not called.calls, "a call in spite of none", called.exchange)
        expect(called.finish != "tool_calls", "finish_reason tool_calls", called.exchange)


@check(
    "tools.auto",
    "tool_choice auto: finish_reason is tool_calls exactly when there is a finished call.",
    why="Agents decide by it whether to go on.",
)
def auto(target: Target) -> None:
    for called in ask(target, tools=[WEATHER, CLOCK]):
        if called.finish == "length":
            continue
        expect(
            (called.finish == "tool_calls") == bool(called.calls),
            f"{len(called.calls)} calls, finish_reason {called.finish!r}",
            called.exchange,
        )
        check_calls(called, [WEATHER, CLOCK])


@check(
    "tools.allowed",
    "tool_choice allowed_tools gives calls of the allowed tools only.",
    why="Agents narrow their tools without changing the prompt, which would lose the cache.",
    level=Level.RECOMMENDED,
)
def allowed(target: Target) -> None:
    choice = {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "required",
            "tools": [{"type": "function", "function": {"name": "get_time"}}],
        },
    }
    fields = {"tools": [WEATHER, CLOCK], "parallel_tool_calls": False}
    for called in ask(target, tool_choice=choice, **fields):
        names = {call["name"] for call in called.calls}
        expect(names == {"get_time"}, f"called {sorted(names)}", called.exchange)


@check(
    "tools.one-at-a-time",
    "parallel_tool_calls false gives at most one call.",
    why="Callers that run one call drop the others.",
)
def one_at_a_time(target: Target) -> None:
    fields = {"tools": [WEATHER, CLOCK], "tool_choice": "required", "parallel_tool_calls": False}
    for called in ask(target, "Weather and time in Oslo, and in Lima?", **fields):
        expect(len(called.calls) == 1, f"{len(called.calls)} calls", called.exchange)


def _accepted_without_tools(value: str) -> None:
    @check(
        f"tools.{value}-without-tools",
        f"tool_choice {value} without tools is taken.",
        why="Frameworks send it always.",
    )
    def accepted(target: Target) -> None:
        first_choice(target.chat(tool_choice=value, max_tokens=8))


_accepted_without_tools("none")
_accepted_without_tools("auto")


@check(
    "tools.cut-off",
    "A call that max_tokens cuts is not a success: finish_reason length, never a half call.",
    why="Half a call is run, with whatever its JSON was repaired to.",
)
def cut_off(target: Target) -> None:
    for limit in (1, 4, 8):
        for called in ask(target, tools=[WEATHER], tool_choice="required", max_tokens=limit):
            expect(
                called.finish in ("length", "tool_calls"),
                f"finish_reason {called.finish!r} of a cut call",
                called.exchange,
            )
            if called.finish == "tool_calls":
                check_calls(called, [WEATHER])
    whole = from_plain(
        target.chat(TOOL_QUESTION, tools=[WEATHER], tool_choice="required", max_tokens=4)
    )
    for call in whole.calls:
        arguments_of(whole, call)


@check(
    "tools.result",
    "A tool's result is taken, and the conversation goes on.",
    why="An agent takes one step and stops.",
)
def result(target: Target) -> None:
    called = from_plain(plain(target, "tools"))
    expect(called.calls, "no call to answer", called.exchange)
    history = [
        {"role": "user", "content": TOOL_QUESTION},
        first_choice(called.exchange)["message"],
        *(
            {"role": "tool", "tool_call_id": call["id"], "content": "3 degrees"}
            for call in called.calls
        ),
    ]
    for messages in (history, CALL_HISTORY):
        for fields in ({}, {"stream": True}):
            exchange = target.chat(
                messages=messages, tools=[WEATHER, CLOCK], max_tokens=16, **fields
            )
            exchange.ok()


@check(
    "tools.numbered-over-history",
    "A new call's id differs from those in the history.",
    why="The result is given to another call.",
)
def numbered(target: Target) -> None:
    earlier = from_plain(plain(target, "tools"))
    expect(earlier.calls, "no call", earlier.exchange)
    history = [
        {"role": "user", "content": TOOL_QUESTION},
        first_choice(earlier.exchange)["message"],
        *(
            {"role": "tool", "tool_call_id": call["id"], "content": "3 degrees"}
            for call in earlier.calls
        ),
    ]
    old = {call["id"] for call in earlier.calls}
    for called in ask(target, messages=history, tools=[WEATHER, CLOCK], tool_choice="required"):
        new = {call["id"] for call in called.calls}
        expect(new and not new & old, f"ids {sorted(new)} after {sorted(old)}", called.exchange)


@check(
    "tools.in-system-message",
    "Tools that a system message declares can be called.",
    why="Kimi's agents add tools in the middle of a conversation.",
    level=Level.KIMI,
)
def in_system_message(target: Target) -> None:
    messages = [
        {"role": "system", "content": "", "tools": [CLOCK]},
        {"role": "user", "content": "What time is it in Oslo?"},
    ]
    for called in ask(target, messages=messages, tool_choice="required", parallel_tool_calls=False):
        expect(called.calls, "no call", called.exchange)
        check_calls(called, [CLOCK])


# --- schema accuracy -------------------------------------------------------------------------


def _one_schema(target: Target, schema: dict[str, Any], *, stream: bool) -> bool:
    """Ask for one call. False when max_tokens cut it. Raises Violation."""
    tool = as_tool(schema)
    fields = {
        "tools": [tool],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": target.settings.call_tokens,
        "temperature": 1,
        "seed": target.settings.seed,
    }
    question = "Submit a value that fits."
    if stream:
        called = from_stream(ChatStream("schema", target.chat(question, stream=True, **fields)))
    else:
        called = from_plain(target.chat(question, **fields))
    if called.finish == "length":
        return False
    expect(len(called.calls) == 1, f"{len(called.calls)} calls", called.exchange)
    check_calls(called, [tool])
    return True


def _hard(name: str, schema: dict[str, Any]) -> None:
    @check(
        f"tools.schema-{name}",
        f"Arguments fit the schema: {name.replace('-', ' ')}, streamed and not.",
        why="The tool cannot run.",
    )
    def hard(target: Target) -> None:
        finished = [_one_schema(target, schema, stream=stream) for stream in (False, True)]
        if not any(finished):
            raise Skip("both calls were cut off by max_tokens")


for _name, _schema in HARD.items():
    _hard(_name, _schema)


@check(
    "tools.schema-accuracy",
    "Arguments of tools with random schemas fit them, every one (Moonshot's own API: 100 %).",
    why="Each percent that is missing is a step of an agent that fails.",
)
def accuracy(target: Target) -> None:
    count = target.settings.schemas
    rng = random.Random(target.settings.seed)  # noqa: S311
    finished, failures = 0, []
    for number in range(count):
        try:
            finished += _one_schema(target, draw_schema(rng), stream=bool(number % 2))
        except Violation as violation:
            finished += 1
            failures.append(violation)
    if failures:
        share = 1 - len(failures) / finished
        raise Violation(f"{share:.1%} of {finished} fit; {failures[0]}", failures[0].exchange)
    if not finished:
        raise Skip(f"none of {count} calls came to an end within max_tokens")
