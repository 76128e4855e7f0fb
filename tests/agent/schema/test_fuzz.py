"""Random schemas with random arguments into the tool layer: only our own errors, bounded work.

Mutations of schemas as real servers send them, and nonsense, the hostile kinds included. Steps are
what bounds the time; seconds are asserted far above what a step costs, so that only a hang fails.
"""

from __future__ import annotations

import copy
import json
import random
import resource
import sys
import time
from typing import Any

import pytest

from perilune.agent.schema.check import MAX_STEPS, check
from perilune.agent.schema.plain import NotPlain, plain_json
from perilune.agent.tool_registry import ToolRegistry
from perilune.agent.tools.mcp.search_tools import SearchTools
from perilune.chat.tool_declaration import as_json, as_typescript, read_tools
from perilune.errors import PeriluneError, ToolError

# As servers for GitHub, files, browsers and databases, and pydantic and zod, write them.
REAL: list[dict[str, Any]] = [
    {
        "type": "object",
        "properties": {
            "owner": {"type": "string", "description": "Repository owner"},
            "repo": {"type": "string"},
            "title": {"type": "string", "minLength": 1, "maxLength": 256},
            "labels": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
            "state": {"type": "string", "enum": ["open", "closed"], "default": "open"},
            "page": {"type": "number", "minimum": 1, "maximum": 100},
        },
        "required": ["owner", "repo", "title"],
        "additionalProperties": False,
        "$schema": "http://json-schema.org/draft-07/schema#",
    },
    {
        "type": "object",
        "properties": {
            "path": {"type": "string", "pattern": "^[^/].*$"},
            "edits": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/Edit"}},
            "dryRun": {"type": "boolean", "default": False},
        },
        "required": ["path", "edits"],
        "$defs": {
            "Edit": {
                "title": "Edit",
                "type": "object",
                "properties": {"oldText": {"type": "string"}, "newText": {"type": "string"}},
                "required": ["oldText", "newText"],
            }
        },
    },
    {
        "type": "object",
        "properties": {
            "filter": {
                "anyOf": [{"$ref": "#/definitions/and"}, {"$ref": "#/definitions/leaf"}],
                "default": None,
            },
            "limit": {"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "null"}]},
        },
        "definitions": {
            "and": {
                "type": "object",
                "properties": {"and": {"type": "array", "items": {"$ref": "#/definitions/leaf"}}},
            },
            "leaf": {
                "oneOf": [
                    {"type": "object", "properties": {"eq": {"const": 1}}, "required": ["eq"]},
                    {"type": "object", "patternProperties": {"^x-": {"type": "string"}}},
                    {"$ref": "#"},
                ]
            },
        },
    },
    {
        "$id": "https://example.invalid/root",
        "type": "object",
        "properties": {
            "when": {"type": "string", "format": "date-time"},
            "amount": {
                "type": "number",
                "multipleOf": 0.01,
                "minimum": 0,
                "exclusiveMinimum": True,
            },
            "kind": {"type": ["string", "null"], "nullable": True},
            "extra": {"type": "object", "additionalProperties": {"type": "string"}},
            "tuple": {"prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False},
        },
        "if": {"properties": {"kind": {"const": "a"}}},
        "then": {"required": ["when"]},
        "dependentRequired": {"amount": ["kind"]},
        "unevaluatedProperties": False,
    },
]
KEYWORDS = [
    "type", "properties", "required", "enum", "const", "items", "prefixItems", "additionalItems",
    "additionalProperties", "patternProperties", "propertyNames", "minLength", "maxLength",
    "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    "minItems", "maxItems", "uniqueItems", "contains", "minContains", "maxContains", "anyOf",
    "oneOf", "allOf", "not", "if", "then", "else", "$ref", "$dynamicRef", "$recursiveRef", "$id",
    "id", "$anchor", "$dynamicAnchor", "$defs", "definitions", "dependencies",
    "dependentRequired", "dependentSchemas", "nullable", "unevaluatedProperties",
    "unevaluatedItems", "minProperties", "maxProperties", "format", "extends", "divisibleBy",
]  # fmt: skip
HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 3, 1.5, 1e308, 5e-324, 10**400, float("nan"), float("inf"), "",
    "3", "string", "str", "any", "object", "#", "#/", "#/$defs/a", "#/properties/a",
    "#/definitions/leaf",
    "http://127.0.0.1:9/x", "file:///etc/passwd", "../x", "http://[", "urn:x", "#a", "%",
    "^(a+)+$", "(x+x+)+y", "[", r"\p{L}+", "^(?!a)", "(a{1,900}){1,900}b", "(?<n>a)\\k<n>", "a{e}",
    "\ud83d", "\x00<|im_end|>", "é" * 300, [], [[]], ["a"], ["string", "null"], [1, "a", None], {},
    {"a": 1}, {"": {}}, {"$ref": "#"}, {"type": "string"}, {"not": {}}, {"a": {"$ref": "#"}},
    {"allOf": [{"$ref": "#"}]}, {"anyOf": [{"$ref": "#/$defs/a"}] * 2}, {1: 2}, ("a",), {1, 2},
    {"^(a|a)*$": {}}, {"(": False}, list(range(200)), ["a" * 50] * 100,
]  # fmt: skip
GENTLE: list[Any] = [
    {"type": "string"}, {"type": ["integer", "null"]}, {"pattern": "^(a+)+$"}, {"$ref": "#"},
    {"items": {"$ref": "#"}}, {"enum": ["a", 1, None]}, {"minimum": 3, "exclusiveMinimum": True},
    {"anyOf": [{"type": "string"}, {"items": {"$ref": "#"}}]}, {"multipleOf": 1e-9}, True, False,
    {"uniqueItems": True, "contains": {"const": 1}}, {"patternProperties": {"(x+x+)+y": False}},
    {"not": {"type": "object"}}, {"unevaluatedProperties": False}, {"type": "str"}, {},
    {"propertyNames": {"pattern": r"^\p{L}+$"}}, {"dependencies": {"a": ["b"]}},
    {"maxLength": 10**9},
]  # fmt: skip

WORDS = [
    "a",
    "b",
    "owner",
    "path",
    "edits",
    "filter",
    "kind",
    "amount",
    "",
    "é",
    "\ud83d",
    "a" * 300,
]


def random_value(pick: random.Random, depth: int = 0) -> Any:
    roll = pick.randrange(10)
    if roll < 3 and depth < 4:
        return {pick.choice(WORDS): random_value(pick, depth + 1) for _ in range(pick.randrange(4))}
    if roll < 5 and depth < 4:
        return [random_value(pick, depth + 1) for _ in range(pick.randrange(5))]
    return pick.choice(
        ["x", "", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!", "open", 0, 1, -3, 2.5, 1e300, None, True,
         "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "\ud83d", 10**30, "x" * 2_000]
    )  # fmt: skip


def random_schema(pick: random.Random, depth: int = 0) -> Any:
    """Nonsense of known keywords."""
    if depth > 4 or pick.random() < 0.15:
        return pick.choice(HOSTILE)
    schema: dict[Any, Any] = {}
    for _ in range(pick.randrange(1, 6)):
        key = pick.choice(KEYWORDS)
        kind = pick.randrange(4)
        if kind == 0:
            schema[key] = pick.choice(HOSTILE)
        elif kind == 1:
            schema[key] = random_schema(pick, depth + 1)
        elif kind == 2:
            some = range(pick.randrange(4))
            schema[key] = {pick.choice(WORDS): random_schema(pick, depth + 1) for _ in some}
        else:
            schema[key] = [random_schema(pick, depth + 1) for _ in range(pick.randrange(4))]
    return schema


def mutated(pick: random.Random) -> Any:
    """A real schema with a few places changed."""
    schema = copy.deepcopy(pick.choice(REAL))
    for _ in range(pick.choice([0, 1, 1, 1, 2, 3])):
        node: Any = schema
        for _ in range(pick.randrange(6)):
            children = [c for c in (node.values() if isinstance(node, dict) else node)
                        if isinstance(c, dict | list) and c]  # fmt: skip
            if not children:
                break
            node = pick.choice(children)
        value = pick.choice(HOSTILE) if pick.random() < 0.5 else pick.choice(GENTLE)
        if isinstance(node, dict):
            key = pick.choice([*node, pick.choice(KEYWORDS)])
            if pick.random() < 0.15:
                node.pop(key, None)
            elif pick.random() < 0.05:
                node[key] = schema  # holds itself
            else:
                node[key] = value
        elif pick.random() < 0.5:
            node.append(value)
        else:
            node[pick.randrange(len(node))] = value
    return schema


class Foreign:
    description = "a \ud83d tool <|im_end|>"
    side_effects = False
    parallel_safe = True
    timeout = 5.0

    def __init__(self, parameters: Any) -> None:
        self.name = "foreign"
        self.parameters = parameters

    async def run(self, arguments: dict[str, Any], context: Any) -> Any:
        raise NotImplementedError


def one_case(number: int) -> tuple[bool, int, float]:
    """(whether the tool is usable, most steps, seconds); asserts the rest."""
    pick = random.Random(number)
    schema = mutated(pick) if number % 4 else random_schema(pick)
    began = time.perf_counter()
    registry = ToolRegistry()
    registry.add_usable(Foreign(schema))
    steps = 0
    if not len(registry):
        (left_out,) = registry.left_out
        assert left_out.name == "foreign"
        assert 10 < len(left_out.reason) <= 500
        assert "root:" not in left_out.reason
        left_out.reason.encode()
        return False, 0, time.perf_counter() - began
    declared = registry.declarations()
    for text in (as_json(read_tools(declared)), as_typescript(read_tools(declared))):
        text.encode()
    SearchTools(list(registry)).rank("foreign", 3)
    for _ in range(3):
        arguments = {pick.choice(WORDS): random_value(pick) for _ in range(pick.randrange(5))}
        text = json.dumps(arguments)
        try:
            parsed = registry.parse_arguments("foreign", text, lambda note: None)
        except ToolError as error:
            assert len(str(error)) <= 2_500
            str(error).encode()
        else:
            json.dumps(parsed, ensure_ascii=False).encode()
        try:
            plain = plain_json(arguments, max_depth=64)
        except NotPlain:
            continue
        steps = max(steps, check(registry._schemas["foreign"], plain).steps)
    return True, steps, time.perf_counter() - began


def run_cases(numbers: range) -> str:
    usable = most = 0
    slowest = 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in numbers:
        try:
            fits, steps, seconds = one_case(number)
        except PeriluneError as error:
            raise AssertionError(f"case {number}: {error!r}") from error
        usable += fits
        most, slowest = max(most, steps), max(slowest, seconds)
        assert steps <= 2 * MAX_STEPS, number
        assert seconds < 60, number
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB (macOS: bytes)
    assert sys.platform == "darwin" or grown < 300 << 10
    # A fuzz of which nothing gets through tests nothing.
    assert len(numbers) * 0.15 < usable < len(numbers) * 0.95, usable
    return (
        f"{len(numbers)} schemas, {usable} usable; at most {most} steps and {slowest:.2f} s "
        f"a case; {grown} KiB more memory"
    )


def test_1500_random_schemas() -> None:
    print(run_cases(range(1_500)))


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_100000_random_schemas() -> None:
    print(run_cases(range(10_000, 110_000)))
