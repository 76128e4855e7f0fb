"""What must hold the answer does, under every name that clients have for it, in every API.

The weights are random, so what fits does so by construction; what cannot be held is a 400.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import jsonschema
import pytest

from perilune.serve.constraints import CONSTRAINTS
from perilune.serve.settings import Settings

from .scripted import Turn

pytestmark = pytest.mark.asyncio(loop_scope="module")
CHAT, PLAIN, MESSAGES, RESPONSES = (
    "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
)  # fmt: skip
PATHS = (CHAT, PLAIN, MESSAGES, RESPONSES)
USER = [{"role": "user", "content": "x"}]
BASE: dict[str, dict[str, Any]] = {
    CHAT: {"messages": USER, "max_tokens": 400, "reasoning_effort": "none"},
    PLAIN: {"prompt": "x", "max_tokens": 400},
    MESSAGES: {"model": "tiny", "messages": USER, "max_tokens": 400},
    RESPONSES: {"model": "tiny", "input": "x", "max_output_tokens": 400,
                "reasoning": {"effort": "none"}},
}  # fmt: skip
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"kind": {"const": "a"}, "n": {"type": "integer", "minimum": 0, "maximum": 9},
                   "list": {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 2}},
    "required": ["kind", "n", "list"],
    "additionalProperties": False,
}  # fmt: skip
EBNF = 'root ::= "moon " digits\n    | "sun"\ndigits ::= [0-9]{2}\n'
LARK = 'start: "moon " /[0-9]{2}/ | "sun"'
TAG = {"structures": [{"begin": "<f>", "schema": SCHEMA, "end": "</f>"}], "triggers": ["<f"]}
Check = Callable[[str], bool]


def by_schema(text: str) -> bool:
    value = json.loads(text)
    jsonschema.validate(value, SCHEMA)
    return json.dumps(value, separators=(",", ":")) == text  # compact


def is_object(text: str) -> bool:
    return isinstance(json.loads(text), dict) and "\n" not in text


def by_regex(text: str) -> bool:
    return re.fullmatch(r"[a-c]{2}-\d{2}", text) is not None


def by_grammar(text: str) -> bool:
    return re.fullmatch(r"moon \d{2}|sun", text) is not None


def by_choice(text: str) -> bool:
    return text in ("yes", "no", 'may"be\n')


def by_tag(text: str) -> bool:
    """Random text seldom comes to the trigger; when it does, a structure follows."""
    return all(
        re.match(r'f>\{"kind":"a","n":\d,"list":\[[^]]*\]\}</f>', rest)
        for rest in text.split("<f")[1:]
    )


CHOICES = ["yes", "no", 'may"be\n']
REGEX = "^[a-c]{2}-\\d{2}$"
OPENAI = {"name": "x", "schema": SCHEMA, "strict": True}
CASES: list[tuple[str, Any, Check]] = [
    ("response_format", {"type": "json_schema", "json_schema": OPENAI}, by_schema),
    ("response_format", {"type": "json_schema", "schema": SCHEMA}, by_schema),
    ("response_format", {"type": "json_object", "schema": SCHEMA}, by_schema),
    ("response_format", {"type": "json_object", "json_schema": OPENAI}, by_schema),
    ("response_format", {"type": "json", "value": SCHEMA}, by_schema),
    ("response_format", {"type": "regex", "pattern": REGEX}, by_regex),
    ("response_format", {"type": "regex", "regex": REGEX}, by_regex),
    ("response_format", {"type": "grammar", "grammar": EBNF}, by_grammar),
    ("response_format", {"type": "ebnf", "ebnf": EBNF}, by_grammar),
    ("response_format", {"type": "choice", "choice": CHOICES}, by_choice),
    ("response_format", {"type": "structural_tag", **TAG}, by_tag),
    ("structured_outputs", {"json": SCHEMA}, by_schema),
    ("structured_outputs", {"json": json.dumps(SCHEMA)}, by_schema),
    ("structured_outputs", {"regex": REGEX}, by_regex),
    ("structured_outputs", {"choice": CHOICES}, by_choice),
    ("structured_outputs", {"grammar": LARK}, by_grammar),
    ("structured_outputs", {"json_object": True}, is_object),
    ("structured_outputs", {"structural_tag": json.dumps(TAG)}, by_tag),
    ("structured_outputs", {"json": SCHEMA, "disable_any_whitespace": True}, by_schema),
    ("guided_decoding", {"regex": REGEX, "backend": "auto"}, by_regex),
    ("guided_json", SCHEMA, by_schema),
    ("guided_json", json.dumps(SCHEMA), by_schema),
    ("guided_json_object", True, is_object),
    ("guided_regex", REGEX, by_regex),
    ("guided_choice", CHOICES, by_choice),
    ("guided_grammar", EBNF, by_grammar),
    ("structural_tag", TAG, by_tag),
    ("grammar", EBNF, by_grammar),
    ("grammar", {"type": "json", "value": SCHEMA}, by_schema),
    ("grammar", {"type": "regex", "value": REGEX}, by_regex),
    ("json_schema", SCHEMA, by_schema),
    ("json_schema", json.dumps(SCHEMA), by_schema),
    ("json_schema", OPENAI, by_schema),
    ("json_mode", True, is_object),
    ("regex", REGEX, by_regex),
    ("ebnf", EBNF, by_grammar),
    ("format", "json", is_object),
    ("format", SCHEMA, by_schema),
    ("nvext", {"guided_choice": CHOICES}, by_choice),
]
# What cannot be held, or is none.
REFUSED: list[tuple[str, Any]] = [
    ("response_format", {"type": "json_object", "schema": {"type": "strange"}}),
    ("response_format", {"type": "text", "schema": SCHEMA}),
    ("response_format", {"type": "json_object", "grammar": EBNF}),
    ("response_format", {"type": "structural_tag", "format": {"type": "any_text"}}),
    ("response_format", {"type": "regex"}),
    ("response_format", {"type": "grammar", "grammar": "root ::= nothing"}),
    ("response_format", "json"),
    ("structured_outputs", {"json": SCHEMA, "regex": REGEX}),
    ("structured_outputs", {"jsonn": SCHEMA}),
    ("structured_outputs", {"json": SCHEMA, "disable_additional_properties": True}),
    ("structured_outputs", {"json": SCHEMA, "whitespace_pattern": "x*"}),
    ("structured_outputs", []),
    ("guided_json", {"$ref": "#/$defs/nothing"}),
    ("guided_json", "{"),
    ("guided_json", 7),
    ("guided_regex", "((("),
    ("guided_regex", "(?!a)b"),
    ("guided_regex", ""),
    ("guided_regex", ["a"]),
    ("guided_choice", []),
    ("guided_choice", [1]),
    ("guided_choice", "yes"),
    ("guided_choice", ["x" * 80_000]),
    ("guided_grammar", "what is this"),
    ("guided_grammar", 3),
    ("guided_json_object", "yes"),
    ("guided_whitespace_pattern", "[ ,]*"),
    ("structural_tag", {"structures": [], "triggers": ["<"]}),
    ("structural_tag", {"structures": [{"begin": "<f>", "schema": {}, "end": ""}],
                        "triggers": ["<g"]}),
    ("grammar", {"type": "xml"}),
    ("grammar", ""),
    ("json_schema", "not JSON"),
    ("json_mode", "on"),
    ("regex", "a{2,1}"),
    ("ebnf", "("),
    ("format", "xml"),
    ("nvext", {"guided_other": 1}),
    ("nvext", {"top_k": 5}),
]  # fmt: skip


def said(path: str, body: dict[str, Any]) -> tuple[str, str | None]:
    """(text, reason of its end)."""
    if path == CHAT:
        return body["choices"][0]["message"]["content"], body["choices"][0]["finish_reason"]
    if path == PLAIN:
        return body["choices"][0]["text"], body["choices"][0]["finish_reason"]
    if path == MESSAGES:
        return "".join(b["text"] for b in body["content"] if b["type"] == "text"), {
            "end_turn": "stop"
        }.get(body["stop_reason"], body["stop_reason"])
    texts = [part["text"] for item in body["output"] if item["type"] == "message"
             for part in item["content"]]  # fmt: skip
    return "".join(texts), "stop" if body["status"] == "completed" else "length"


async def test_every_constraint_has_a_case() -> None:
    held = {name for name, _, _ in CASES} | {"guided_whitespace_pattern"}
    assert held == set(CONSTRAINTS)
    assert {name for name, _ in REFUSED} <= set(CONSTRAINTS)


@pytest.mark.parametrize("path", PATHS)
async def test_constraints_hold(random_client: httpx.AsyncClient, path: str) -> None:
    """Answers that `max_tokens` cut are not answers; few may be."""
    bias = await closers(random_client)

    async def one(number: int) -> str | None:
        name, value, check = CASES[number]
        body = {**BASE[path], name: value, "seed": number, "logit_bias": bias}
        reply = await random_client.post(path, json=body)
        if reply.status_code != 200:
            return f"{name} {value!r:.60}: {reply.text[:300]}"
        text, reason = said(path, reply.json())
        if reason == "length":
            return "" if check is by_tag or check is is_object else f"{name}: cut {text[:80]!r}"
        try:
            return None if check(text) else f"{name}: {text!r:.200}"
        except (ValueError, jsonschema.ValidationError) as error:
            return f"{name}: {text!r:.200} {str(error)[:100]}"

    found = await asyncio.gather(*map(one, range(len(CASES))))
    assert not [problem for problem in found if problem], found


async def closers(client: httpx.AsyncClient) -> dict[str, float]:
    reply = await client.post("/tokenize", json={"prompt": '"}]'})
    return {str(token): 9.0 for token in reply.json()["tokens"]}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_held_is_refused_by_name(
    random_client: httpx.AsyncClient, path: str, stream: bool
) -> None:
    for name, value in REFUSED:
        body = {**BASE[path], name: value, "stream": stream}
        reply = await random_client.post(path, json=body)
        assert reply.status_code == 400, (name, value, reply.text[:200])
        error = reply.json()["error"]
        assert name in error["message"] or name == error.get("param"), (name, value, error)


async def test_two_constraints_contradict_and_equal_ones_do_not(
    random_client: httpx.AsyncClient,
) -> None:
    both = {"guided_regex": "a", "guided_choice": ["a"]}
    reply = await random_client.post(CHAT, json={**BASE[CHAT], **both})
    assert reply.status_code == 400 and "guided_regex" in reply.json()["error"]["message"]
    same = {"json_schema": SCHEMA, "guided_json": SCHEMA}
    reply = await random_client.post(CHAT, json={**BASE[CHAT], **same})
    assert reply.status_code == 200 and by_schema(said(CHAT, reply.json())[0])
    messages = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
                "guided_regex": "a"}  # fmt: skip
    assert (await random_client.post(MESSAGES, json={**BASE[MESSAGES], **messages})).is_error
    text = {"text": {"format": {"type": "json_object"}}, "regex": "a"}
    assert (await random_client.post(RESPONSES, json={**BASE[RESPONSES], **text})).is_error


async def test_off_is_off(random_client: httpx.AsyncClient) -> None:
    for name, value in (
        ("response_format", {"type": "text"}), ("structured_outputs", {}), ("format", ""),
        ("guided_json_object", False), ("structured_outputs", {"json": None}), ("regex", None),
    ):  # fmt: skip
        body = {**BASE[CHAT], "max_tokens": 5, name: value}
        reply = await random_client.post(CHAT, json=body)
        assert reply.status_code == 200, reply.text


async def test_responses_text_format_takes_every_form(random_client: httpx.AsyncClient) -> None:
    for form, check in (
        ({"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}, by_schema),
        ({"type": "regex", "pattern": REGEX}, by_regex),
        ({"type": "grammar", "grammar": EBNF}, by_grammar),
    ):
        body = {**BASE[RESPONSES], "text": {"format": form}}
        reply = await random_client.post(RESPONSES, json=body)
        assert reply.status_code == 200, reply.text
        assert check(said(RESPONSES, reply.json())[0])


# --- white space ---------------------------------------------------------------------------------

SPACED = '{\n  "kind": "a",\n  "n": 1,\n  "list": [1]\n}'
FORM = {"response_format": {"type": "json_schema", "json_schema": OPENAI}}


@pytest.mark.parametrize("stream", [False, True])
async def test_json_is_compact_whatever_the_model_would_write(scripted: Any, stream: bool) -> None:
    async with scripted(Turn(SPACED)) as client:
        reply = await client.post(CHAT, json={**BASE[CHAT], **FORM, "temperature": 0})
        assert by_schema(said(CHAT, reply.json())[0])


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_json": SCHEMA, "guided_whitespace_pattern": "[\\n ]*"},
        {"structured_outputs": {"json": SCHEMA, "whitespace_pattern": "\\s*"}},
        {"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": False}},
        {**FORM, "guided_whitespace_pattern": "[\\s]{0,9}"},
    ],
)
async def test_white_space_is_let_in_where_a_client_asks(
    scripted: Any, fields: dict[str, Any]
) -> None:
    async with scripted(Turn(SPACED)) as client:
        reply = await client.post(CHAT, json={**BASE[CHAT], **fields, "temperature": 0})
        assert said(CHAT, reply.json())[0] == SPACED


async def test_white_space_is_let_in_by_the_option(scripted: Any) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
    asked = {**BASE[CHAT], "tools": [tool], "tool_choice": "required", "temperature": 0}
    turn = Turn(calls=[("f", SPACED)])
    async with scripted(turn, settings=Settings(json_whitespace=True)) as client:
        reply = await client.post(CHAT, json=asked)
        (call,) = reply.json()["choices"][0]["message"]["tool_calls"]
        assert call["function"]["arguments"] == SPACED
    async with scripted(Turn(SPACED), settings=Settings(json_whitespace=True)) as client:
        reply = await client.post(CHAT, json={**BASE[CHAT], **FORM, "temperature": 0})
        assert said(CHAT, reply.json())[0] == SPACED
    async with scripted(turn) as client:  # without it: a space behind `:` and `,` at most
        reply = await client.post(CHAT, json=asked)
        (call,) = reply.json()["choices"][0]["message"]["tool_calls"]
        arguments = call["function"]["arguments"]
        assert "\n" not in arguments and "  " not in arguments
        jsonschema.validate(json.loads(arguments), SCHEMA)
