"""Tool schemas drawn at random in the dialect that Kimi's interface takes, and the hard cases.

The dialect: type (one or a list), properties, required, additionalProperties, items, anyOf, enum,
$defs and $ref, lengths, ranges. Every value has a bound, so that also a model that writes at random
comes to the end of it.
"""

from __future__ import annotations

import random
from typing import Any

WORDS = ("north", "south", "amber", "teal", "quick", "late", "déjà", "月", 'say "x"', "a\\b", "")
NAMES = ("city", "count", "items", "type", "name", "x", "due_date", "options", "$value", "größe")


def draw_schema(rng: random.Random, depth: int = 3) -> dict[str, Any]:
    """An object schema; equal generators give equal schemas."""
    schema = _object(rng, depth)
    if rng.random() < 0.2:  # a part under $defs, used by reference
        schema["$defs"] = {"part": _value(rng, 1)}
        schema["properties"]["part"] = {"$ref": "#/$defs/part"}
        schema["required"] = [*schema["required"], "part"]
    return schema


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(NAMES, rng.randint(1, 4))
    return {
        "type": "object",
        "properties": {name: _value(rng, depth - 1) for name in names},
        "required": [name for name in names if rng.random() < 0.7],
        "additionalProperties": False,
    }


def _value(rng: random.Random, depth: int) -> dict[str, Any]:
    kinds = ["enum", "string", "integer", "number", "boolean", "null", "union"]
    if depth > 0:
        kinds += ["object", "array", "any_of"]
    match rng.choice(kinds):
        case "enum":
            if rng.random() < 0.3:
                return {"enum": rng.sample(range(-50, 50), rng.randint(1, 4))}
            return {"type": "string", "enum": rng.sample(WORDS, rng.randint(1, 4))}
        case "string":
            low = rng.choice([0, 0, 1, 4])
            return {"type": "string", "minLength": low, "maxLength": low + rng.randint(1, 8)}
        case "integer":
            low = rng.randint(-1000, 1000)
            return {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 500)}
        case "number":
            return {"type": "number", "minimum": 0, "maximum": rng.choice([1, 2.5, 100])}
        case "boolean":
            return {"type": "boolean"}
        case "null":
            return {"type": "null"}
        case "union":
            return {"type": rng.choice([["boolean", "null"], ["null", "boolean"]])}
        case "array":
            low = rng.choice([0, 0, 1, 2])
            return {
                "type": "array",
                "items": _value(rng, depth - 1),
                "minItems": low,
                "maxItems": low + rng.randint(0, 2),
            }
        case "any_of":
            return {"anyOf": [_value(rng, depth - 1) for _ in range(rng.randint(1, 3))]}
        case _:
            return _object(rng, depth)


_SHORT = {"type": "string", "maxLength": 4}
# What servers have been seen to get wrong.
HARD: dict[str, dict[str, Any]] = {
    "no-properties": {"type": "object", "properties": {}, "additionalProperties": False},
    "property-named-type": {
        "type": "object",
        "properties": {"type": {"type": "string", "enum": ["object", "string"]}},
        "required": ["type"],
        "additionalProperties": False,
    },
    "min-length": {
        "type": "object",
        "properties": {"a": {"type": "string", "minLength": 3, "maxLength": 6}},
        "required": ["a"],
        "additionalProperties": False,
    },
    "pattern": {
        "type": "object",
        "properties": {"a": {"type": "string", "pattern": "^[a-c]{2}-[0-9]{3}$"}},
        "required": ["a"],
        "additionalProperties": False,
    },
    "range": {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 7, "maximum": 13}},
        "required": ["a"],
        "additionalProperties": False,
    },
    "union": {
        "type": "object",
        "properties": {"a": {"type": ["string", "null"], "maxLength": 4}},
        "required": ["a"],
        "additionalProperties": False,
    },
    "any-of-objects": {
        "type": "object",
        "properties": {
            "shape": {
                "anyOf": [
                    {
                        "type": "object",
                        "properties": {"r": {"type": "integer", "minimum": 1, "maximum": 9}},
                        "required": ["r"],
                        "additionalProperties": False,
                    },
                    {
                        "type": "object",
                        "properties": {"side": {"type": "boolean"}},
                        "required": ["side"],
                        "additionalProperties": False,
                    },
                ]
            }
        },
        "required": ["shape"],
        "additionalProperties": False,
    },
    "nested-arrays": {
        "type": "object",
        "properties": {
            "rows": {
                "type": "array",
                "minItems": 2,
                "maxItems": 2,
                "items": {
                    "type": "array",
                    "items": {"type": "boolean"},
                    "minItems": 2,
                    "maxItems": 2,
                },
            }
        },
        "required": ["rows"],
        "additionalProperties": False,
    },
    "reference": {
        "type": "object",
        "properties": {"from": {"$ref": "#/$defs/place"}, "to": {"$ref": "#/$defs/place"}},
        "required": ["from", "to"],
        "additionalProperties": False,
        "$defs": {"place": {"type": "string", "enum": ["Lima", "Oslo"]}},
    },
    "recursive": {
        "type": "object",
        "properties": {"value": _SHORT, "next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
        "required": ["value", "next"],
        "additionalProperties": False,
    },
    "typed-values": {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
    "map": {
        "type": "object",
        "properties": {
            "tags": {
                "type": "object",
                "properties": {"x": {"type": "boolean"}},
                "required": ["x"],
                "additionalProperties": {"type": "boolean"},
            }
        },
        "required": ["tags"],
        "additionalProperties": False,
    },
    "odd-names": {
        "type": "object",
        "properties": {'a "b"': {"type": "boolean"}, "größe": {"type": "boolean"}},
        "required": ['a "b"', "größe"],
        "additionalProperties": False,
    },
}


def as_tool(schema: dict[str, Any], name: str = "submit") -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, "description": "Submit a value.", "parameters": schema},
    }
