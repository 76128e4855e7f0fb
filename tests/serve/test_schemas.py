"""Schemas of others at the gate: taken, held as far as a grammar can, and said where it cannot."""

from __future__ import annotations

import json
from typing import Any

import httpx
import jsonschema
import pytest

from perilune.serve.api_error import ApiError
from perilune.serve.request import left_out_headers
from perilune.serve.schema_dialect import check_schema
from perilune.serve.settings import Settings

from ..engine.foreign_schemas import ForeignSchemas
from .contract import ask
from .scripted import Turn

noise = pytest.mark.asyncio(loop_scope="module")
STREAM = pytest.mark.parametrize("stream", [False, True])
SIGN = "x-perilune-not-enforced"
CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
USER = [{"role": "user", "content": "x"}]
LOOK_AHEAD = {"type": "string", "pattern": "^(?!a)[b-d]{1,3}$"}


def wrap(schema: Any, **more: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": {"a": schema}, "required": ["a"],
        "additionalProperties": False, **more,
    }  # fmt: skip


def tool(name: str, schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": schema, **more}}


def form(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **more}}


@noise
@STREAM
async def test_a_look_ahead_costs_only_itself(
    random_client: httpx.AsyncClient, stream: bool
) -> None:
    """In one of many tools: the request is taken, the others are held, and the reply says it."""
    plain = wrap({"enum": ["x", "y"]})
    body = {
        "tools": [tool("good", plain), tool("ahead", wrap(LOOK_AHEAD))],
        "parallel_tool_calls": False, "thinking_token_budget": 1, "max_tokens": 500, "seed": 1,
    }  # fmt: skip
    for name in ("good", "ahead"):
        choice = {"type": "function", "function": {"name": name}}
        said = await ask(random_client, {**body, "tool_choice": choice}, stream=stream)
        assert said.status == 200, said
        (call,) = said.message["tool_calls"]
        value = json.loads(call["function"]["arguments"])
        jsonschema.validate(value, plain if name == "good" else wrap({"pattern": "^[a-d]{1,3}$"}))
    reply = await random_client.post(CHAT, json={**body, "messages": USER, "stream": stream})
    assert reply.headers[SIGN] == "tools[1].function.parameters.properties.a.pattern"


async def test_every_api_says_what_is_not_held(scripted: Any) -> None:
    schema = wrap(LOOK_AHEAD)
    requests: list[tuple[str, dict[str, Any], str]] = [
        (CHAT, {"messages": USER, "response_format": form(schema)}, "response_format"),
        (CHAT, {"messages": USER, "guided_json": schema}, "guided_json"),
        ("/v1/completions", {"prompt": "x", "json_schema": schema}, "json_schema"),
        (MESSAGES, {"model": "tiny", "messages": USER, "max_tokens": 9, "output_config": {
            "format": {"type": "json_schema", "schema": schema}}}, "output_config.format.schema"),
        (MESSAGES, {"model": "tiny", "messages": USER, "max_tokens": 9, "tools": [
            {"name": "f", "input_schema": schema}]}, "tools.0.input_schema"),
        (RESPONSES, {"input": "x", "text": {"format": {
            "type": "json_schema", "name": "x", "schema": schema}}}, "text.format"),
        (RESPONSES, {"input": "x", "tools": [
            {"type": "function", "name": "f", "parameters": schema}]}, "tools[0].parameters"),
    ]  # fmt: skip
    async with scripted(Turn("Hi")) as client:
        for path, body, place in requests:
            limit = "max_output_tokens" if path == RESPONSES else "max_tokens"
            for stream in (False, True):
                reply = await client.post(path, json={limit: 9, **body, "stream": stream})
                assert reply.status_code == 200, reply.text
                assert reply.headers[SIGN] == f"{place}.properties.a.pattern"
        plain = {"messages": USER, "max_tokens": 9, "response_format": form(wrap({"const": 1}))}
        assert SIGN not in (await client.post(CHAT, json=plain)).headers


def test_the_sign_is_short_and_ascii() -> None:
    places = [f"tools[{n}].größe, \r\n{'x' * 999}" for n in range(30)]
    (value,) = left_out_headers(places).values()
    assert len(value) < 2000 and value.isascii() and value.isprintable()
    assert value.endswith("and 22 more") and not left_out_headers([])


@STREAM
async def test_what_is_valid_is_taken(scripted: Any, stream: bool) -> None:
    schemas = [
        wrap({"type": "string"}, **{"$id": "https://example.org/a.json"}),
        wrap({"type": "string", "maxLength": 2**31 - 1}),
        wrap({"type": "string"}, properties={"a": {"type": "string"},
                                             "b": {"$ref": "#/properties/a"}}),
        wrap({"$ref": "#/$defs/a~1b"}, **{"$defs": {"a/b": {"type": "integer"}}}),
        wrap({"type": "integer", "exclusiveMinimum": 0}),
        wrap({"type": "integer", "minimum": 0, "exclusiveMinimum": True}),
        wrap({"const": "a", "title": "T", "default": "a", "examples": ["a"], "x-order": 3}),
        wrap({"type": "string", "format": "date-time"}),
        wrap({"type": "array", "items": [{"type": "string"}]}),
        wrap({"anyOf": [{"type": "string"}, {"type": "null"}]}),
    ]  # fmt: skip
    async with scripted(Turn("Hi")) as client:
        for schema in schemas:
            for strict in (True, False):
                for body in (
                    {"response_format": form(schema, strict=strict)},
                    {"tools": [tool("x" * 256, schema, strict=strict)]},
                ):
                    said = await ask(client, {**body, "max_tokens": 9}, stream=stream)
                    assert said.status == 200, (schema, said)


@pytest.mark.parametrize(
    "keyword",
    [{"not": {"type": "null"}}, {"if": {}, "then": {}}, {"dependentRequired": {"a": ["b"]}},
     {"contains": {}}, {"type": "object", "patternProperties": {"^a": {}, "b$": {}}}],
)  # fmt: skip
async def test_strict_refuses_what_openai_refuses_and_nothing_can_hold(
    scripted: Any, keyword: dict[str, Any]
) -> None:
    name = next(key for key in keyword if key != "type")
    async with scripted(Turn("Hi")) as client:
        for body in (
            {"response_format": form(wrap(keyword), strict=True)},
            {"tools": [tool("f", wrap(keyword), strict=True)]},
        ):
            reply = await client.post(CHAT, json={"messages": USER, **body})
            assert reply.status_code == 400, reply.text
            assert f"properties.a.{name}" in reply.json()["error"]["message"]
        loose = {"messages": USER, "max_tokens": 9, "response_format": form(wrap(keyword))}
        reply = await client.post(CHAT, json=loose)
        assert reply.status_code == 200 and name in reply.headers[SIGN]


async def test_kimi_strict_holds_schemas_to_moonshots_dialect(scripted: Any) -> None:
    schema = wrap({"const": "a"})
    async with scripted(Turn("Hi"), settings=Settings(kimi_strict=True)) as client:
        for more, status in (({"strict": True}, 400), ({}, 400), ({"strict": False}, 200)):
            body = {"messages": USER, "max_tokens": 9, "response_format": form(schema, **more)}
            reply = await client.post(CHAT, json=body)
            assert reply.status_code == status, (more, reply.text)


def test_what_was_good_is_remembered_by_its_text() -> None:
    schema = wrap(LOOK_AHEAD)
    first = check_schema(schema, "here")
    assert first == ("here.properties.a.pattern",)
    assert check_schema(json.loads(json.dumps(schema)), "there") == ("there.properties.a.pattern",)
    constant = wrap({"const": 1})
    assert check_schema(constant, "here") == ()
    with pytest.raises(ApiError):  # what was good there may be none here
        check_schema(constant, "here", dialect=True)


@noise
async def test_random_schemas_at_the_gate(random_client: httpx.AsyncClient) -> None:
    """What is valid is taken; what is broken somewhere is never a 5xx."""
    for seed in range(40):
        schema = ForeignSchemas(7000 + seed).root()
        body = {"messages": USER, "max_tokens": 3, "reasoning_effort": "none"}
        for fields in (
            {"response_format": form(schema)},
            {"tools": [tool("f", schema)], "tool_choice": "required"},
        ):
            reply = await random_client.post(CHAT, json={**body, **fields})
            assert reply.status_code == 200, (seed, reply.text)
        broken = json.loads(json.dumps(schema).replace("integer", "intteger").replace("#/", "#!/"))
        reply = await random_client.post(CHAT, json={**body, "guided_json": broken})
        assert reply.status_code in (200, 400), (seed, reply.text)
