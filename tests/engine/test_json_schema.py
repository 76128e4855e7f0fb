"""What a grammar holds of anybody's schema, and what it says that it does not hold."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from perilune.engine.json_schema import constrain
from perilune.engine.sampling_params import Grammar
from perilune.errors import RequestError

from .byte_grammar import draw, takes
from .foreign_schemas import ForeignSchemas

DEFINITIONS = {
    "a/b": {"const": 1}, "c~d": {"const": 2}, "e f": {"const": 3}, "é": {"const": 4},
    "p%q": {"const": 5}, "x": {"$anchor": "anchor", "const": 6}, 'q"': {"const": 7},
    "items": {"const": 8}, "": {"const": 9}, "%41": {"const": 10},
    "list": {"anyOf": [{"const": 11}, {"const": 12}], "prefixItems": [{"const": 13}]},
    "named": {"$id": "named.json", "const": 14, "$defs": {"in": {"const": 15}}},
}  # fmt: skip


def wrap(schema: Any, **more: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": {"a": schema}, "required": ["a"],
        "additionalProperties": False, **more,
    }  # fmt: skip


def fits(schema: Any, value: Any) -> bool:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return takes(Grammar.json_schema(schema), text)


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ("#/$defs/a~1b", 1), ("#/$defs/c~0d", 2), ("#/$defs/e%20f", 3), ("#/$defs/e f", 3),
        ("#/$defs/é", 4), ("#/$defs/%C3%A9", 4), ("#/$defs/p%25q", 5), ("#/$defs/p%q", 5),
        ("#anchor", 6), ("#/$defs/q%22", 7), ("#/$defs/items", 8), ("#/%24defs/items", 8),
        ("#/$defs/", 9), ("#/$defs/%2541", 10), ("#/$defs/list/anyOf/1", 12),
        ("#/$defs/list/prefixItems/0", 13), ("named.json", 14), ("named.json#/$defs/in", 15),
        ("https://example.org/named.json", 14), ("s.json#/$defs/items", 8),
        ("https://example.org/s.json#anchor", 6), ("#/properties/b", 16), ("#/x/y/0", 17),
    ],
)  # fmt: skip
def test_references_of_every_kind(reference: str, value: int) -> None:
    schema = wrap({"$ref": reference}, **{"$defs": DEFINITIONS, "x": {"y": [{"const": 17}]}})
    schema["$id"] = "https://example.org/s.json"
    schema["properties"]["b"] = {"const": 16}
    found = constrain(schema)
    assert not found.left_out
    assert fits(schema, {"a": value}) and not fits(schema, {"a": value + 1})


@pytest.mark.parametrize(
    "reference",
    ["#/$defs/nothing", "#/", "#nothing", "http://169.254.169.254/x", "file:///etc/passwd",
     "other.json", "#/required/0", "#/$defs/list/anyOf/01", "#/$defs/list/anyOf/2", "//x", "[",
     "http://[::1"],
)  # fmt: skip
def test_references_to_nothing_are_refused(reference: str) -> None:
    with pytest.raises(RequestError) as caught:
        constrain(wrap({"$ref": reference}, **{"$defs": DEFINITIONS}))
    assert caught.value.param == "grammar" and "properties.a.$ref" in caught.value.message


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}, {"type": "string"}]},
        {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
        wrap({"$ref": "#/properties/a"}),
        wrap({"$ref": "#/$defs/x"}, **{"$defs": {"x": {"$ref": "#/$defs/y"},
                                                 "y": {"$ref": "#/$defs/x"}}}),
    ],
)  # fmt: skip
def test_references_that_lead_nowhere_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="back to itself"):
        constrain(schema)


def test_recursion() -> None:
    node = {
        "type": "object", "required": ["next"], "additionalProperties": False,
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    }  # fmt: skip
    assert fits(node, {"next": {"next": None}}) and not fits(node, {"next": {}})
    union = {"anyOf": [{"$ref": "#"}, {"const": 1}]}  # the first branch adds nothing
    assert fits(union, 1) and not fits(union, 2)
    beside = copy.deepcopy(node)
    beside["properties"]["next"]["anyOf"][0]["maxProperties"] = 3
    assert [str(left) for left in constrain(beside).left_out] == [
        "properties.next.anyOf.0.maxProperties"
    ]
    assert fits(beside, {"next": {"next": None}})


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"const": "a"}, ["a"], ["b", 1]),
        ({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 3}, [1, 2], [0, 3]),
        ({"type": "integer", "minimum": 0, "exclusiveMinimum": True, "maximum": 2}, [1, 2], [0, 3]),
        ({"type": "integer", "maximum": 2, "exclusiveMaximum": True}, [1], [2]),
        ({"type": "string", "format": "date"}, ["2024-02-29"], ["2023-02-29", "2023-13-01", "x"]),
        ({"type": "string", "format": "time"}, ["10:20:30Z"], ["24:00:00Z", "10:20:60Z"]),
        ({"type": "string", "format": "date-time"}, ["2026-11-30T10:20:30.5+01:00"],
         ["2026-11-30", "0000-01-01T00:00:00Z"]),
        ({"type": "string", "format": "duration"}, ["P1Y2M3DT4H5M6S", "PT1S", "P2W"], ["P", "PT"]),
        ({"type": "string", "format": "uuid4"}, ["11111111-1111-4111-8111-111111111111"],
         ["11111111-1111-1111-8111-111111111111"]),
        ({"type": "string", "format": "a word of ours", "maxLength": 2}, ["x"], ["xxx"]),
        ({"type": "string", "pattern": "^a", "format": "base64"}, ["aaaa"], ["baaa", "a"]),
        ({"type": "array", "items": [{"const": 1}], "additionalItems": False}, [[1]], [[2]]),
        ({"type": "array", "prefixItems": [{"const": 1}], "unevaluatedItems": False}, [[1]],
         [[1, 1]]),
        ({"type": "object", "properties": {}, "unevaluatedProperties": False}, [{}], [{"a": 1}]),
        ({"type": "object", "propertyNames": {"enum": ["a"]}, "additionalProperties": {"const": 1}},
         [{"a": 1}, {}], [{"b": 1}]),
        ({"type": "object", "propertyNames": {"maxLength": 2}}, [{"ab": 1}], [{"abc": 1}]),
        ({"type": "object", "patternProperties": {"^a$": {"const": 1}},
          "additionalProperties": False}, [{"a": 1}], [{"b": 1}]),
        ({"oneOf": [{"type": "string"}, {"const": 1}]}, ["x", 1], [2]),
        ({"anyOf": [{"const": 1}, {"const": 2}], "oneOf": [{"const": 2}, {"const": 3}]}, [2], [1]),
        ({"type": "string", "maxLength": 2**31 - 1}, ["x"], [1]),
        ({"type": "string", "minLength": 1.0, "maxLength": 2.0}, ["x"], ["", "xxx"]),
        ({"type": "string", "nullable": True, "x-guidance": {"lenient": True}}, ["x"], [None]),
        ({"type": None, "enum": None, "properties": None, "items": None, "const": 1}, [1], [2]),
        ({"$dynamicAnchor": "n", "type": "object", "additionalProperties": {"$dynamicRef": "#n"}},
         [{"a": {}}], [{"a": 1}]),
    ],
)  # fmt: skip
def test_what_is_held(schema: dict[str, Any], good: list[Any], bad: list[Any]) -> None:
    assert not constrain(schema).left_out
    assert [value for value in good if not fits(schema, value)] == []
    assert [value for value in bad if fits(schema, value)] == []


@pytest.mark.parametrize(
    ("schema", "left_out"),
    [
        ({"not": {"type": "null"}}, "not"),
        ({"if": {}, "then": {}}, "if"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "contains": {"const": 1}}, "contains"),
        ({"dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"dependencies": {"a": ["b"]}}, "dependencies"),
        ({"type": "string", "pattern": "^(?!a)b$"}, "pattern"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "object", "propertyNames": {"not": {}}}, "propertyNames"),
        ({"type": "object", "patternProperties": {"^a": {}, "b$": {}}}, "patternProperties"),
        ({"type": "number", "maximum": 1.7e308}, "maximum"),
        ({"type": "integer", "minimum": -(10**30)}, "minimum"),
        ({"type": "number", "multipleOf": 1e-30}, "multipleOf"),
        ({"allOf": [{}], "unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
    ],
)
def test_what_is_not_held_is_said_and_the_rest_holds(schema: dict[str, Any], left_out: str) -> None:
    whole = wrap(schema)
    assert [str(left) for left in constrain(whole).left_out] == [f"properties.a.{left_out}"]
    assert not fits(whole, {"b": 1})
    assert draw(Grammar.json_schema(whole), 3) is not None


def problem(schema: dict[str, Any], text: str) -> str | None:
    """What is wrong with a text of the schema's grammar, but for the keywords that were named."""
    named = {left.keyword for left in constrain(schema).left_out}
    value = json.loads(text)
    for error in _validator(schema).iter_errors(value):
        if not named & set(_keywords(error)):
            return f"{text[:200]}: {error.message[:200]}"
    return None


def _keywords(error: jsonschema.ValidationError) -> Iterator[str]:
    """Those at fault, inside of unions too."""
    yield str(error.validator)
    for inner in error.context or ():
        yield from _keywords(inner)


def _validator(schema: Any) -> Any:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    return jsonschema.Draft202012Validator(_of_today(schema), format_checker=checker)


def _of_today(node: Any) -> Any:
    """Draft 4's bounds as numbers; for the validator, not by the code under test."""
    if isinstance(node, list):
        return [_of_today(item) for item in node]
    if not isinstance(node, dict):
        return node
    out = {key: _of_today(value) for key, value in node.items()}
    for low, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(node.get(exclusive), bool) and out.pop(exclusive):
            out[exclusive] = out.pop(low)
    return out


def test_random_schemas_hold_what_they_promise() -> None:
    _check_random(range(100))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_3000_random_schemas_hold_what_they_promise() -> None:
    _check_random(range(1000, 4000))


def _check_random(seeds: range) -> None:
    """Each compiles, ends, and what it lets through fits the schema, but for what it named."""
    wrong: list[str] = []
    endless, left_out = 0, 0
    for seed in seeds:
        schema = ForeignSchemas(seed).root()
        try:
            left_out += bool(constrain(schema).left_out)
            for draw_seed in range(2):
                text = draw(Grammar.json_schema(schema), draw_seed)
                if text is None:
                    endless += 1
                elif (found := problem(schema, text)) is not None:
                    wrong.append(f"seed {seed}: {found}\n  {json.dumps(schema)[:700]}")
        except (RequestError, AssertionError) as error:
            wrong.append(f"seed {seed}: {error}\n  {json.dumps(schema)[:700]}")
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong[:6])
    assert endless < len(seeds) // 10
    assert len(seeds) // 10 < left_out < len(seeds) * 3 // 4  # both kinds are there
