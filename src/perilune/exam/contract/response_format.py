"""response_format: text, JSON, JSON by a schema."""

from __future__ import annotations

import json
from typing import Any

from jsonschema import Draft202012Validator

from perilune.exam.contract.chat_plain import first_choice
from perilune.exam.contract.check import Level, Skip, Violation, check, expect
from perilune.exam.contract.scenarios import ChatStream
from perilune.exam.contract.target import Exchange, Target

BOOK: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 12},
        "year": {"type": "integer", "minimum": 1900, "maximum": 2100},
        "genres": {
            "type": "array",
            "items": {"type": "string", "enum": ["novel", "poem", "play"]},
            "minItems": 1,
            "maxItems": 3,
        },
    },
    "required": ["title", "year", "genres"],
    "additionalProperties": False,
}


def _answers(target: Target, response_format: dict[str, Any]) -> list[tuple[Exchange, str, Any]]:
    """(exchange, content, finish_reason), plain and streamed."""
    fields = {"response_format": response_format, "max_tokens": target.settings.call_tokens}
    question = "Describe a book as JSON."
    whole = target.chat(question, **fields)
    choice = first_choice(whole)
    stream = ChatStream("format", target.chat(question, stream=True, **fields).ok())
    return [
        (whole, choice["message"].get("content") or "", choice["finish_reason"]),
        (stream.exchange, stream.text(), stream.finish()),
    ]


@check(
    "format.text",
    "response_format text is the default, and is taken.",
    why="Clients send it always.",
)
def text(target: Target) -> None:
    first_choice(target.chat(response_format={"type": "text"}, max_tokens=8))


@check(
    "format.json-object",
    "response_format json_object gives one JSON object.",
    why="Programs parse the answer.",
)
def json_object(target: Target) -> None:
    cut = 0
    for exchange, content, reason in _answers(target, {"type": "json_object"}):
        expect(content.lstrip().startswith("{"), f"the answer begins {content[:20]!r}", exchange)
        if reason == "length":
            cut += 1
            continue
        try:
            value = json.loads(content)
        except ValueError as error:
            raise Violation(f"the answer is not JSON: {error}", exchange) from None
        expect(isinstance(value, dict), "the answer is not an object", exchange)
    if cut == 2:
        raise Skip("the answers were cut off by max_tokens")


@check(
    "format.json-schema",
    "response_format json_schema gives JSON that the schema accepts.",
    why="Programs parse the answer and rely on its fields.",
)
def json_schema(target: Target) -> None:
    _check_schema(target, {"name": "book", "schema": BOOK, "strict": True})


@check(
    "format.json-schema-default-strict",
    "Without strict the schema holds as well.",
    why="Moonshot's default is strict; elsewhere the schema would be a hint only.",
    level=Level.KIMI,
)
def json_schema_default(target: Target) -> None:
    _check_schema(target, {"name": "book", "schema": BOOK, "description": "A book."})


def _check_schema(target: Target, json_schema: dict[str, Any]) -> None:
    for exchange, content, reason in _answers(
        target, {"type": "json_schema", "json_schema": json_schema}
    ):
        expect(reason == "stop", f"finish_reason is {reason!r}", exchange)
        try:
            value = json.loads(content)
        except ValueError as error:
            raise Violation(f"the answer is not JSON: {error}", exchange) from None
        errors = list(Draft202012Validator(json_schema["schema"]).iter_errors(value))
        expect(not errors, f"the schema refuses it: {errors and errors[0].message}", exchange)
