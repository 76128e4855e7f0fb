"""What a server must refuse: requests that make no sense get 400, before any stream begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perilune.exam.contract.check import Level, check, expect, expect_text
from perilune.exam.contract.scenarios import WEATHER
from perilune.exam.contract.target import ABSENT, Exchange, Target

LEAKS = ("Traceback (most recent call last)", "site-packages", 'File "/')


def refused(exchange: Exchange, statuses: tuple[int, ...] = (400,)) -> dict[str, Any]:
    """The error object of a refusal in OpenAI's shape."""
    wanted = " or ".join(map(str, statuses))
    if exchange.status == 200:
        expect(False, f"accepted with 200, {wanted} was due", exchange)
    expect(exchange.status in statuses, f"status {exchange.status}, {wanted} was due", exchange)
    found = exchange.content_type
    expect(found == "application/json", f"the error's content-type is {found!r}", exchange)
    body = exchange.json
    error = body.get("error") if isinstance(body, dict) else None
    expect(isinstance(error, dict), "the body is not {error: {...}}", exchange)
    assert isinstance(error, dict)
    expect_text(error.get("message"), "error.message")
    expect_text(error.get("type"), "error.type")
    for leak in LEAKS:
        expect(leak not in exchange.body.decode("utf-8", "replace"), f"the error shows {leak!r}")
    return error


def refusal(
    id: str,  # noqa: A002
    what: str,
    fields: Mapping[str, Any],
    *,
    level: Level = Level.REQUIRED,
    why: str = "A typing error is answered by something other than what was meant.",
) -> None:
    """Register: a chat request with `fields` is refused, streamed and not."""

    def run(target: Target) -> None:
        refused(target.chat(**fields))
        refused(target.chat(**{"stream": True, **fields}))

    check(id, f"Refused with 400: {what}.", why=why, level=level)(run)


def _tool(**parts: Any) -> dict[str, Any]:
    return {"type": "function", "function": {**WEATHER["function"], **parts}}


def _format(value: Any) -> dict[str, Any]:
    return {"response_format": value}


def _schema_format(**parts: Any) -> dict[str, Any]:
    inner = {"name": "answer", "schema": {"type": "object"}, **parts}
    return _format(
        {"type": "json_schema", "json_schema": {k: v for k, v in inner.items() if v is not ABSENT}}
    )


def nested_schema(depth: int) -> dict[str, Any]:
    """An object in an object in an object."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


HARM = "Absurd numbers reach native code, or hold the server's memory."
R, REC, KIMI = Level.REQUIRED, Level.RECOMMENDED, Level.KIMI

NUMBERS: tuple[tuple[str, Any, Level], ...] = (
    ("temperature", -0.1, R), ("temperature", 2.5, REC), ("temperature", "hot", R),
    ("top_p", -0.1, R), ("top_p", 1.1, R), ("top_p", [1], R),
    ("n", 0, R), ("n", -1, R), ("n", 1_000_000, R), ("n", 1.5, R),
    ("max_tokens", 0, REC), ("max_tokens", -1, R), ("max_tokens", "many", R),
    ("max_tokens", 2**63, REC),
    ("presence_penalty", 2.5, R), ("presence_penalty", "x", R),
    ("frequency_penalty", -2.5, R), ("frequency_penalty", {}, R),
    ("stop", 7, R), ("stop", [""], REC), ("stop", ["x"] * 4097, REC),
    ("seed", "x", R), ("seed", 2**80, REC),
    ("logit_bias", {"0": 1000}, REC), ("logit_bias", {"x": 1}, REC), ("logit_bias", [], R),
    ("logprobs", "x", R), ("stream", "x", R),
    ("user", {"a": 1}, REC), ("tools", "x", R), ("tools", {}, R),
)  # fmt: skip
for _name, _value, _level in NUMBERS:
    _shown = "too many texts" if isinstance(_value, list) and len(_value) > 9 else repr(_value)
    refusal(
        f"params.{_name.replace('_', '-')}={_shown.replace(' ', '')}",
        f"{_name} {_shown}",
        {_name: _value},
        level=_level,
        why=HARM,
    )
refusal(
    "params.top-logprobs=21",
    "top_logprobs 21",
    {"logprobs": True, "top_logprobs": 21},
    why=HARM,
)
refusal(
    "params.top-logprobs-alone",
    "top_logprobs without logprobs",
    {"top_logprobs": 2},
    level=REC,
)
refusal(
    "params.stream-options-alone",
    "stream_options without stream",
    {"stream": False, "stream_options": {"include_usage": True}},
    level=REC,
)
UNSUPPORTED: tuple[tuple[str, Any], ...] = (
    ("audio", {"voice": "x", "format": "wav"}),
    ("modalities", ["text", "audio"]),
    ("web_search_options", {}),
    ("prediction", {"type": "content", "content": "x"}),
    ("store", True),
)
for _name, _value in UNSUPPORTED:
    refusal(
        f"params.unsupported-{_name.replace('_', '-')}",
        f"{_name}, which a text server does not have",
        {_name: _value},
        level=REC,
        why="Ignoring it silently looks like doing it.",
    )

# --- messages -------------------------------------------------------------------------------

MALFORMED = "The model answers something that nobody asked."
for _id, _what, _messages in (
    ("absent", "no messages", ABSENT),
    ("empty", "an empty list of messages", []),
    ("text", "messages that are a text", "hello"),
    ("no-role", "a message without a role", [{"content": "x"}]),
    ("bad-role", "a message of an unknown role", [{"role": "wizard", "content": "x"}]),
    ("number", "content that is a number", [{"role": "user", "content": 7}]),
    ("bad-part", "a part of an unknown type", [{"role": "user", "content": [{"type": "smell"}]}]),
    ("not-object", "a message that is not an object", ["x"]),
    (
        "unanswered-call", "a tool result without its tool_call_id",
        [{"role": "user", "content": "x"}, {"role": "tool", "content": "x"}],
    ),
    (
        "bad-call", "a tool call in the history without a function",
        [{"role": "user", "content": "x"},
         {"role": "assistant", "tool_calls": [{"id": "a", "type": "function"}]}],
    ),
):  # fmt: skip
    refusal(f"params.messages-{_id}", _what, {"messages": _messages}, why=MALFORMED)

# --- tools ----------------------------------------------------------------------------------

NEVER = "The model is told to do what it cannot."
for _id, _what, _fields, _level in (
    ("required-without-tools", "tool_choice required without tools",
     {"tool_choice": "required"}, R),
    ("required-with-no-tools", "tool_choice required with tools []",
     {"tool_choice": "required", "tools": []}, R),
    ("bad-choice", "an unknown tool_choice", {"tool_choice": "maybe", "tools": [WEATHER]}, R),
    ("bad-choice-type", "tool_choice 7", {"tool_choice": 7, "tools": [WEATHER]}, R),
    ("bad-choice-object", "tool_choice without a name",
     {"tool_choice": {"type": "function"}, "tools": [WEATHER]}, R),
    ("unknown-name", "a named tool that is not declared",
     {"tool_choice": {"type": "function", "function": {"name": "nope"}}, "tools": [WEATHER]}, R),
    ("no-name", "a tool without a name",
     {"tools": [{"type": "function", "function": {"parameters": {}}}]}, R),
    ("bad-name", "a tool with a blank in its name", {"tools": [_tool(name="get weather")]}, REC),
    ("bad-type", "a tool of an unknown type", {"tools": [{**WEATHER, "type": "spell"}]}, R),
    ("twice", "two different tools of one name",
     {"tools": [WEATHER, _tool(description="Another.")]}, REC),
    ("bad-parameters", "parameters that are a list", {"tools": [_tool(parameters=[1])]}, R),
    ("bad-schema", "parameters with an unknown type",
     {"tools": [_tool(parameters={"type": "objekt"})]}, REC),
    ("bad-pattern", "parameters with a pattern that does not compile",
     {"tools": [_tool(parameters={"type": "object", "properties":
      {"a": {"type": "string", "pattern": "("}}})]}, REC),
    ("bad-ref", "parameters with a $ref to nothing",
     {"tools": [_tool(parameters={"$ref": "#/$defs/none"})]}, REC),
    ("outer-ref", "parameters with a $ref to a URL",
     {"tools": [_tool(parameters={"$ref": "http://127.0.0.1:1/schema.json"})]}, REC),
    ("too-deep", "parameters 40 levels deep",
     {"tools": [_tool(parameters=nested_schema(40))]}, KIMI),
    ("too-many-keys", "parameters with 3,001 properties",
     {"tools": [_tool(parameters={"type": "object", "properties":
      {f"p{i}": {"type": "null"} for i in range(3001)}})]}, KIMI),
    ("too-many-values", "an enum of 1,001 values",
     {"tools": [_tool(parameters={"type": "object", "properties":
      {"a": {"enum": [f"v{i}" for i in range(1001)]}}})]}, KIMI),
    ("too-many-branches", "anyOf of 501 branches",
     {"tools": [_tool(parameters={"type": "object", "properties":
      {"a": {"anyOf": [{"type": "null"}] * 501}}})]}, KIMI),
    ("too-large", "parameters of more than 120,000 characters",
     {"tools": [_tool(parameters={"type": "object", "description": "x" * 120_001})]}, KIMI),
):  # fmt: skip
    refusal(
        f"tools.refuses-{_id}", _what, {"tool_choice": "auto", **_fields}, why=NEVER, level=_level
    )

# --- response_format --------------------------------------------------------------------------

SHAPELESS = "The caller parses an answer that nothing holds to a schema."
for _id, _what, _fields in (
    ("text", "a response_format that is a text", _format("json")),
    ("no-type", "a response_format without a type", _format({})),
    ("bad-type", "an unknown response_format", _format({"type": "yaml"})),
    ("no-json-schema", "json_schema without its object", _format({"type": "json_schema"})),
    ("no-name", "json_schema without a name", _schema_format(name=ABSENT)),
    ("no-schema", "json_schema without a schema", _schema_format(schema=ABSENT)),
    ("bad-schema", "a schema that is a text", _schema_format(schema="object")),
    ("list-schema", "a schema that is a list", _schema_format(schema=[{"type": "object"}])),
    ("bad-strict", "strict that is not a boolean", _schema_format(strict="yes")),
):
    refusal(f"format.refuses-{_id}", _what, _fields, why=SHAPELESS)

# --- thinking ---------------------------------------------------------------------------------

THINKING: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("type", "an unknown thinking.type", {"thinking": {"type": "perhaps"}}),
    ("shape", "thinking that is a text", {"thinking": "enabled"}),
    ("effort", "an unknown thinking.effort", {"thinking": {"type": "enabled", "effort": "some"}}),
    ("keep", "an unknown thinking.keep", {"thinking": {"type": "enabled", "keep": "some"}}),
)
for _id, _what, _fields in THINKING:
    refusal(f"thinking.refuses-{_id}", _what, _fields, level=KIMI, why="It thinks, or not, unasked")
refusal(
    "thinking.refuses-reasoning-effort",
    "an unknown reasoning_effort",
    {"reasoning_effort": "somewhat"},
    level=REC,
)
refusal(
    "thinking.refuses-template-fields",
    "chat_template_kwargs beyond thinking's",
    {"chat_template_kwargs": {"tokenize": False, "chat_template": "{{ 1 }}"}},
    level=REC,
    why="Fields of the renderer from outside have stopped servers (CVE-2025-62426).",
)
