"""How an Anthropic message streams: the order of the events, and what each carries."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from perilune.exam.contract.anthropic import (
    STOP_REASONS,
    THINKING_FIELDS,
    TOOL_FIELDS,
    check_tool_use,
    check_usage,
    plain,
)
from perilune.exam.contract.check import Level, Skip, check, expect, expect_int, expect_text
from perilune.exam.contract.scenarios import TOOL_QUESTION
from perilune.exam.contract.target import Exchange, Target

STREAMS = ("text", "tools", "thinking")
DELTA_KINDS = {
    "text": {"text_delta", "citations_delta"},
    "tool_use": {"input_json_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
}
Events = list[dict[str, Any]]


def streamed(target: Target, name: str) -> Exchange:
    def ask() -> Exchange:
        if name == "tools":
            fields = TOOL_FIELDS | {"max_tokens": target.settings.call_tokens}
            return target.messages(TOOL_QUESTION, stream=True, **fields)
        if name == "thinking":
            return target.messages("What is 17 times 3?", stream=True, **THINKING_FIELDS)
        return target.messages(stream=True)

    return target.once(f"anthropic/{name}/stream", ask)


def events_of(exchange: Exchange) -> Events:
    """Events but pings, as JSON."""
    found = [event.json for event in exchange.ok().events]
    return [e for e in found if isinstance(e, dict) and e.get("type") != "ping"]


def rule(
    name: str,
    text: str,
    *,
    why: str,
    level: Level = Level.REQUIRED,
    of: tuple[str, ...] = STREAMS,
) -> Callable[[Callable[[Events], None]], Callable[[Events], None]]:
    """Register a rule that every stream of `of` must keep."""

    def register(function: Callable[[Events], None]) -> Callable[[Events], None]:
        def run(target: Target) -> None:
            looked = 0
            for stream in of:
                exchange = streamed(target, stream)
                if stream == "thinking" and exchange.status != 200:
                    continue  # told by the check of thinking
                function(events_of(exchange))
                looked += 1
            if not looked:
                raise Skip("no such stream")

        check(f"anthropic.stream.{name}", text, why=why, level=level, api="anthropic")(run)
        return function

    return register


@check(
    "anthropic.stream.lines",
    "The content type is text/event-stream; every event has an event line, its type, and a data "
    "line.",
    why="Anthropic's SDK reads the event line and drops events without.",
    api="anthropic",
)
def lines(target: Target) -> None:
    for name in STREAMS[:2]:
        exchange = streamed(target, name).ok()
        found = exchange.content_type
        expect(found == "text/event-stream", f"content-type is {found!r}")
        expect(exchange.events, "no event")
        for event in exchange.events:
            expect(event.name is not None, f"no event line before {event.data[:60]!r}")
            expect(isinstance(event.json, dict), f"data is not an object: {event.data[:60]!r}")
            kind = event.json.get("type")
            expect(event.name == kind, f"event {event.name!r} with type {kind!r}")


@rule(
    "order",
    "message_start, then blocks (start, deltas, stop), message_delta, message_stop.",
    why="Clients build the message in this order.",
)
def order(events: Events) -> None:
    kinds = [event["type"] for event in events]
    expect(kinds[:1] == ["message_start"], f"the stream begins with {kinds[:1]}")
    expect(kinds[-1] == "message_stop", f"the stream ends with {kinds[-1]!r}")
    expect(kinds[-2] == "message_delta", f"{kinds[-2]!r} comes before message_stop")
    open_block = None
    for event in events[1:-2]:
        match event["type"]:
            case "content_block_start":
                expect(open_block is None, "a block starts within another")
                open_block = event["index"]
            case "content_block_delta":
                expect(event["index"] == open_block, "a delta outside its block")
            case "content_block_stop":
                expect(event["index"] == open_block, "a stop outside its block")
                open_block = None
            case other:
                expect(False, f"{other!r} among the blocks")
    expect(open_block is None, "the last block does not stop")


@rule(
    "start",
    "message_start has the message: id, role, model, content [], stop_reason null, usage.",
    why="The SDK makes the message from it.",
)
def start(events: Events) -> None:
    message = events[0]["message"]
    expect_text(message.get("id"), "id")
    expect(message.get("type") == "message", "type is not message")
    expect(message.get("role") == "assistant", "role is not assistant")
    expect_text(message.get("model"), "model")
    expect(message.get("content") == [], f"content is {message.get('content')!r}")
    expect("stop_reason" in message and message["stop_reason"] is None, "stop_reason is not null")
    check_usage(message.get("usage"))


@rule(
    "index",
    "Blocks are numbered 0, 1, 2 and so on.",
    why="Clients put the blocks into a list by index.",
)
def index(events: Events) -> None:
    found = [e["index"] for e in events if e["type"] == "content_block_start"]
    expect(found == list(range(len(found))), f"the blocks have the indices {found}")


@rule(
    "deltas",
    "A block's deltas are of its kind: text_delta, input_json_delta, thinking_delta.",
    why="The SDK fails on another.",
)
def deltas(events: Events) -> None:
    kind = ""
    for event in events:
        if event["type"] == "content_block_start":
            kind = event["content_block"]["type"]
            expect(kind in DELTA_KINDS, f"a block of type {kind!r}")
        elif event["type"] == "content_block_delta":
            found = event["delta"]["type"]
            expect(found in DELTA_KINDS[kind], f"{found!r} in a block of type {kind!r}")


@rule(
    "end",
    "message_delta has stop_reason, stop_sequence and usage.output_tokens.",
    why="Agents decide by it whether to go on.",
)
def end(events: Events) -> None:
    last = next(e for e in events if e["type"] == "message_delta")
    reason = last["delta"].get("stop_reason")
    expect(reason in STOP_REASONS, f"stop_reason is {reason!r}")
    expect("stop_sequence" in last["delta"], "stop_sequence is missing")
    expect_int(last["usage"].get("output_tokens"), "usage.output_tokens")


@rule(
    "tool-input",
    "A tool_use block starts with input {}, and its pieces join to JSON that fits the schema.",
    why="The tool cannot run.",
    of=("tools",),
)
def tool_input(events: Events) -> None:
    calls: dict[int, dict[str, Any]] = {}
    for event in events:
        if event["type"] == "content_block_start":
            block = event["content_block"]
            if block["type"] == "tool_use":
                expect(block.get("input") == {}, f"input starts as {block.get('input')!r}")
                calls[event["index"]] = {**block, "json": ""}
        elif event["type"] == "content_block_delta" and event["index"] in calls:
            calls[event["index"]]["json"] += event["delta"]["partial_json"]
    expect(calls, "no tool_use block")
    for call in calls.values():
        check_tool_use({**call, "input": json.loads(call["json"])})
    last = next(e for e in events if e["type"] == "message_delta")
    expect(last["delta"]["stop_reason"] == "tool_use", f"{last['delta']['stop_reason']!r}")


@check(
    "anthropic.stream.same-text",
    "At temperature 0 the streamed text is the text of the plain answer.",
    why="Otherwise the stream loses or adds something.",
    level=Level.RECOMMENDED,
    api="anthropic",
)
def same_text(target: Target) -> None:
    whole = [b["text"] for b in plain(target).ok().json["content"] if b["type"] == "text"]
    events = events_of(streamed(target, "text"))
    pieces = [e["delta"].get("text", "") for e in events if e["type"] == "content_block_delta"]
    expect("".join(pieces) == "".join(whole), f"streamed {''.join(pieces)!r}, plain {whole!r}")
