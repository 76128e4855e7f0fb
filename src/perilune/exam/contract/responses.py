"""OpenAI's Responses: one answer, its stream of events, its tools. Stateless: nothing is stored."""

from __future__ import annotations

import json
from typing import Any

from jsonschema import Draft202012Validator

from perilune.exam.contract.check import Level, Skip, check, expect, expect_int, expect_text
from perilune.exam.contract.refusals import refused
from perilune.exam.contract.scenarios import TOOL_QUESTION, WEATHER
from perilune.exam.contract.target import Exchange, Target

PATH = "/v1/responses"
TOOL = {"type": "function", **WEATHER["function"], "strict": True}
REC = Level.RECOMMENDED


def _ask(target: Target, given: Any = "Say hello.", /, **fields: Any) -> Exchange:
    body = {
        "model": target.model, "input": given, "temperature": 0, "store": False,
        "max_output_tokens": target.settings.max_tokens, "reasoning": {"effort": "none"},
    } | fields  # fmt: skip
    exchange = target.post(PATH, body)
    if exchange.status in (404, 405, 501) and "previous_response_id" not in fields:
        raise Skip("this server has no /v1/responses")
    return exchange


def _text(response: dict[str, Any]) -> str:
    return "".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
        if part["type"] == "output_text"
    )


def _calls(response: dict[str, Any]) -> list[dict[str, Any]]:
    return [item for item in response["output"] if item["type"] == "function_call"]


@check(
    "responses.fields",
    "The answer is {id, object response, created_at, status, model, output, usage}.",
    why="OpenAI's SDK fails on an answer that lacks one.",
    level=REC,
)
def fields(target: Target) -> None:
    answer = target.once("responses/plain", lambda: _ask(target)).ok().json
    expect_text(answer.get("id"), "id")
    expect(answer.get("object") == "response", f"object is {answer.get('object')!r}")
    expect(isinstance(answer.get("created_at"), int | float), "created_at is not a number")
    expect(answer.get("status") in ("completed", "incomplete"), f"status {answer.get('status')!r}")
    if answer["status"] == "incomplete":
        reason = (answer.get("incomplete_details") or {}).get("reason")
        expect(reason == "max_output_tokens", f"incomplete for {reason!r}")
    usage = answer["usage"]
    total = usage["input_tokens"] + usage["output_tokens"]
    expect(usage["total_tokens"] == total, "total_tokens is not the sum")
    for item in answer["output"]:
        expect(item["type"] in ("message", "reasoning"), f"an item of type {item['type']!r}")
        expect_text(item.get("id"), "id of an item")


@check(
    "responses.stream",
    "Events have event and data lines, run from response.created to response.completed or "
    ".incomplete, with sequence_number 0, 1, 2, and add up to the plain answer.",
    why="Agents show and store what the events say.",
    level=REC,
)
def stream(target: Target) -> None:
    whole = target.once("responses/plain", lambda: _ask(target)).ok().json
    exchange = _ask(target, stream=True).ok()
    expect(exchange.content_type == "text/event-stream", f"type {exchange.content_type!r}")
    events = exchange.events
    for event in events:
        kind = (event.json or {}).get("type")
        expect(event.name == kind, f"event {event.name!r} with type {kind!r}")
    bodies = [event.json for event in events]
    expect(bodies[0]["type"] == "response.created", f"begins with {bodies[0]['type']!r}")
    last = bodies[-1]
    ends = ("response.completed", "response.incomplete")
    expect(last["type"] in ends, f"ends with {last['type']!r}")
    numbers = [body.get("sequence_number") for body in bodies]
    expect(numbers == list(range(len(numbers))), f"sequence numbers {numbers[:5]}")
    deltas = [b["delta"] for b in bodies if b["type"] == "response.output_text.delta"]
    expect("".join(deltas) == _text(last["response"]), "the deltas are not the final text")
    expect("".join(deltas) == _text(whole), "the stream differs from the plain answer")
    added = [b["output_index"] for b in bodies if b["type"] == "response.output_item.added"]
    done = [b["output_index"] for b in bodies if b["type"] == "response.output_item.done"]
    expect(added == done, f"items added {added}, done {done}")


@check(
    "responses.tools",
    "tool_choice required gives a function_call that fits the schema; its output is taken.",
    why="Agents that must act get prose instead.",
    level=REC,
)
def tools(target: Target) -> None:
    limit = target.settings.call_tokens
    answer = _ask(
        target,
        TOOL_QUESTION,
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        max_output_tokens=limit,
    )
    calls = _calls(answer.ok().json)
    expect(calls, "no function_call")
    schema: dict[str, Any] = WEATHER["function"]["parameters"]
    history: list[Any] = [{"role": "user", "content": TOOL_QUESTION}]
    for call in calls:
        expect(call.get("name") == "get_weather", f"name is {call.get('name')!r}")
        expect_text(call.get("call_id"), "call_id")
        value = json.loads(call["arguments"])
        errors = list(Draft202012Validator(schema).iter_errors(value))
        expect(not errors, f"the schema refuses {value}: {errors and errors[0].message}")
        history += [
            call,
            {"type": "function_call_output", "call_id": call["call_id"], "output": "3 degrees"},
        ]
    _ask(target, history, tools=[TOOL]).ok()


@check(
    "responses.format",
    "text.format json_schema gives JSON that fits.",
    why="Programs parse the answer and rely on its fields.",
    level=REC,
)
def text_format(target: Target) -> None:
    schema: dict[str, Any] = WEATHER["function"]["parameters"]
    form = {"format": {"type": "json_schema", "name": "w", "schema": schema, "strict": True}}
    limit = target.settings.call_tokens
    answer = _ask(target, TOOL_QUESTION, text=form, max_output_tokens=limit)
    value = json.loads(_text(answer.ok().json))
    errors = list(Draft202012Validator(schema).iter_errors(value))
    expect(not errors, f"the schema refuses {value}: {errors and errors[0].message}")


@check(
    "responses.refuses",
    "Bad input, an unknown previous_response_id and bad numbers are refused in OpenAI's shape.",
    why="The model answers something that nobody asked.",
    level=REC,
)
def refuses(target: Target) -> None:
    if _ask(target).status != 200:
        raise Skip("no plain answer to compare with")
    refused(_ask(target, 7))
    refused(_ask(target, temperature=-1))
    refused(_ask(target, max_output_tokens=-1))
    refused(_ask(target, tool_choice="maybe", tools=[TOOL]))
    refused(_ask(target, previous_response_id="resp_unknown"), (400, 404))


@check(
    "responses.input-tokens",
    "/v1/responses/input_tokens tells the input_tokens of the same request.",
    why="Agents compact their history by it.",
    level=REC,
)
def input_tokens(target: Target) -> None:
    body = {"model": target.model, "input": "Say hello.", "reasoning": {"effort": "none"}}
    exchange = target.post(f"{PATH}/input_tokens", body)
    if exchange.status in (404, 405):
        raise Skip("this server does not count")
    found = expect_int(exchange.ok().json.get("input_tokens"), "input_tokens", at_least=1)
    used = _ask(target).ok().json["usage"]["input_tokens"]
    expect(found == used, f"counted {found}, used {used}")
