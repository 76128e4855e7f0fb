"""Foreign schemas: what is read, what makes a tool unusable, and what the model is told."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from perilune.agent.agent import Agent
from perilune.agent.journal.journal import read_journal
from perilune.agent.models.scripted import Call, Reply, ScriptedModel
from perilune.agent.schema import UnusableSchema, check, read_arguments, read_schema
from perilune.agent.schema.pattern import BadPattern, read_pattern
from perilune.agent.tool_registry import ToolRegistry
from perilune.errors import ToolError, UsageError
from perilune.events import ToolFinished, ToolLeftOut
from perilune.home import find_run


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def problems(schema: Any, arguments: Any) -> list[str]:
    return [str(each) for each in check(read_schema(schema), arguments).problems]


# (schema of `a`, values that fit, values that do not)
CASES: list[tuple[Any, list[Any], list[Any]]] = [
    ({"type": "integer"}, [1, 1.0, -5], [True, 1.5, "1", None]),
    ({"type": "number"}, [1, 1.5], [True, "1"]),
    ({"type": ["string", "null"]}, ["x", None], [1]),
    ({"type": "string", "nullable": True}, ["x", None], [1]),
    ({"type": "str"}, ["x"], [1]),
    ({"type": "STRING"}, ["x"], [1]),
    ({"type": "any"}, ["x", 1, None], []),
    ({"type": "int", "minimum": "3"}, [3], [2]),
    ({"minimum": 3, "exclusiveMinimum": True}, [4], [3]),  # draft 4
    ({"maximum": 3, "exclusiveMaximum": True}, [2], [3]),
    ({"minimum": 3, "exclusiveMinimum": False}, [3], [2]),
    ({"exclusiveMinimum": 3}, [4], [3]),
    ({"minLength": "2"}, ["ab"], ["a"]),
    ({"minLength": 2.0, "maxLength": 3}, ["abc", "äöü"], ["a", "abcd"]),
    ({"maxLength": 10**18}, ["x"], []),
    ({"multipleOf": 0.1}, [0.3, 1, 1e300], [0.25]),
    ({"multipleOf": 1e-300}, [1, 1e300], []),
    ({"divisibleBy": 2}, [4], [5]),
    ({"enum": [1, "a", None, {"b": [1]}]}, [1, 1.0, "a", None, {"b": [1.0]}], [True, "b", {}]),
    ({"enum": []}, [], ["x", 1]),
    ({"const": 0}, [0, 0.0], [False, None]),
    (True, [1], []),
    (False, [], [1]),
    ({}, [1], []),
    (None, [1], []),
    ({"pattern": r"^\p{L}+$"}, ["Zürich"], ["a1"]),
    ({"pattern": r"^(?!foo)\w+$"}, ["bar"], ["foobar"]),
    ({"pattern": r"^\d+$"}, ["3"], ["٣", "3\n"]),
    ({"pattern": "["}, ["anything"], []),  # cannot be read: not held, with a note
    ({"format": "date"}, ["no date"], []),  # an annotation
    ({"type": "array", "items": {"type": "integer"}}, [[], [1]], [["x"], "x"]),
    ({"items": [{"type": "integer"}], "additionalItems": False}, [[1]], [[1, 2], ["x"]]),
    ({"prefixItems": [{"type": "integer"}], "items": {"type": "string"}}, [[1, "x"]], [[1, 2]]),
    ({"uniqueItems": True}, [[1, "1", True]], [[1, 1.0]]),
    ({"contains": {"const": 1}, "minContains": 2}, [[1, 1]], [[1, 2]]),
    ({"minItems": 1, "maxItems": 2}, [[1]], [[], [1, 2, 3]]),
    ({"properties": []}, [{}, {"b": 1}], []),  # PHP's empty object
    ({"required": ["b"]}, [{"b": 1}], [{}]),
    ({"required": "b"}, [{"b": 1}], [{}]),
    ({"properties": {"b": {"required": True}}}, [{"b": 1}], [{}]),  # draft 3
    ({"additionalProperties": False, "properties": {"b": {}}}, [{"b": 1}], [{"c": 1}]),
    ({"patternProperties": {"^x": {"type": "integer"}}}, [{"x1": 1, "y": "z"}], [{"x": "a"}]),
    ({"patternProperties": {"(": {}}, "additionalProperties": False}, [{"b": 1}], []),
    ({"propertyNames": {"pattern": "^x"}}, [{"x1": 1}], [{"y": 1}]),
    ({"minProperties": 1, "maxProperties": 1}, [{"b": 1}], [{}, {"b": 1, "c": 2}]),
    ({"dependencies": {"b": ["c"], "d": {"required": ["e"]}}}, [{"b": 1, "c": 1}], [{"d": 1}]),
    ({"dependentRequired": {"b": ["c"]}}, [{"c": 1}], [{"b": 1}]),
    ({"dependentSchemas": {"b": {"required": ["c"]}}}, [{"c": 1}], [{"b": 1}]),
    ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, ["x", 1], [None, 1.5]),
    ({"oneOf": [{"minimum": 1}, {"minimum": 2}]}, [1], [3, 0]),
    ({"allOf": [{"minimum": 1}, {"maximum": 2}]}, [1], [0, 3]),
    ({"extends": {"minimum": 1}}, [1], [0]),
    ({"not": {"type": "string"}}, [1], ["x"]),
    (
        {"if": {"type": "string"}, "then": {"minLength": 2}, "else": {"minimum": 5}},
        ["ab", 5],
        ["a"],
    ),
    (
        {"allOf": [{"properties": {"b": {}}}], "unevaluatedProperties": False},
        [{"b": 1}],
        [{"c": 1}],
    ),
    ({"prefixItems": [{}], "unevaluatedItems": False}, [[1]], [[1, 2]]),
    ({"anyOf": [{"type": "string"}], "nullable": True}, ["x", None], [1]),
]


@pytest.mark.parametrize(("schema", "good", "bad"), CASES)
def test_every_draft_is_read_in_its_clear_meaning(
    schema: Any, good: list[Any], bad: list[Any]
) -> None:
    whole = of(a=schema)
    for value in good:
        assert problems(whole, {"a": value}) == [], value
    for value in bad:
        assert problems(whole, {"a": value}), value


DEFINITIONS = {
    "a b": {"type": "integer"},
    "a/b": {"type": "integer"},
    "a~b": {"type": "integer"},
    "a%b": {"type": "integer"},
    "ü": {"type": "integer"},
    "list": [{"type": "string"}, {"type": "integer"}],
    "named": {"$id": "http://example.invalid/x", "type": "integer"},
    "urn": {"$id": "urn:example:x", "type": "integer"},
    "old": {"id": "#old", "type": "integer"},
    "anchor": {"$anchor": "here", "type": "integer"},
    "dynamic": {"$dynamicAnchor": "there", "type": "integer"},
}


@pytest.mark.parametrize(
    "reference",
    [
        "#/properties/b",
        "#/$defs/a b",
        "#/$defs/a%20b",
        "#/$defs/a~1b",
        "#/$defs/a~0b",
        "#/$defs/a%25b",
        "#/$defs/%C3%BC",
        "#/$defs/ü",
        "#/$defs/list/1",
        "#/$defs/named",
        "http://example.invalid/x",
        "http://example.invalid/x#",
        "urn:example:x",
        "#old",
        "#here",
        "#there",
        "#/x-other/deep/0",
    ],
)
def test_every_reference_within_the_document_resolves(reference: str) -> None:
    schema = {
        **of(a={"$ref": reference}, b={"type": "integer"}),
        "$defs": DEFINITIONS,
        "x-other": {"deep": [{"type": "integer"}]},
    }
    assert problems(schema, {"a": 1}) == []
    assert problems(schema, {"a": "x"}) != []
    schema["properties"]["a"] = {"$dynamicRef": reference}
    assert problems(schema, {"a": "x"}) != []
    # The same with an `$id` on the document, which pointers of most people do not mean.
    schema["$id"] = "https://example.invalid/schema.json"
    assert problems(schema, {"a": "x"}) != []


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (of(a={"$ref": "#/$defs/none"}), "names no schema"),
        (of(a={"$ref": "http://127.0.0.1:9/x"}), "nothing is fetched"),
        (of(a={"$ref": "https://example.invalid/x"}), "nothing is fetched"),
        (of(a={"$ref": "file:///etc/passwd"}), "nothing is fetched"),
        (of(a={"$ref": "other.json"}), "nothing is fetched"),
        (of(a={"$ref": "../x#/a"}), "nothing is fetched"),
        (of(a={"$ref": "//host/x"}), "nothing is fetched"),
        (of(a={"$ref": "http://["}), "nothing is fetched"),
        (of(a={"$ref": 5}), "not text"),
        (of(a={"$ref": "#/$defs/list/9"}), "names no schema"),
        (of(a={"$ref": "#/type"}), "names no schema"),
        ({**of(a={"$ref": "#/$defs/a"}), "$defs": {"a": {"$ref": "#/$defs/a"}}}, "circle"),
        (
            {
                **of(x={"$ref": "#/$defs/a"}),
                "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
            },
            "circle",
        ),
        ({"$ref": "#"}, "circle"),
        ({"anyOf": [{"$ref": "#"}, {"type": "object"}]}, "circle"),
        (of(a={"type": "nonsense"}), "not a JSON type"),
        (of(a={"type": []}), "names no type"),
        (of(a={"type": 5}), "not a JSON type"),
        (of(a={"enum": {}}), "not a list"),
        (of(a={"minLength": "three"}), "not a number"),
        (of(a={"minLength": True}), "not a number"),
        (of(a={"maxLength": -1}), "below 0"),
        (of(a={"minLength": 1.5}), "not whole"),
        (of(a={"multipleOf": 0}), "above 0"),
        (of(a={"minimum": float("nan")}), "JSON has not"),
        (of(a={"minimum": float("inf")}), "JSON has not"),
        (of(a={"minimum": 10**5000}), "beyond all measure"),
        (of(a={"pattern": 5}), "not text"),
        (of(a={"anyOf": []}), "nothing could match"),
        (of(a={"anyOf": {"type": "string"}}), "not a list"),
        (of(a="string"), "not a schema"),
        ({"type": "object", "properties": ["a"]}, "not an object"),
        ({"type": "object", "required": [1]}, "not a list of names"),
        ({"type": "string"}, "arguments are an object"),
        ("text", "not an object"),
        (True, "not an object"),
        (None, "not an object"),
        ([], "not an object"),
        ({1: 2}, "not text"),
        ({"a": {1, 2}}, "cannot be written as JSON"),
        ({"enum": list(range(60_000))}, "more than"),
        ({"description": "x" * 2_000_000}, "characters"),
    ],
)
def test_what_has_no_clear_meaning_makes_a_tool_unusable(schema: Any, why: str) -> None:
    with pytest.raises(UnusableSchema, match=why) as caught:
        read_schema(schema)
    assert len(str(caught.value)) < 500
    assert "root:" not in str(caught.value)  # of /etc/passwd


def test_what_holds_itself_is_unusable_without_a_stack() -> None:
    circle: dict[str, Any] = {"type": "object"}
    circle["properties"] = {"a": circle}
    shared: Any = {"type": "object"}
    for _ in range(60):
        shared = {"type": "object", "properties": {"a": shared, "b": shared}}
    deep: Any = {}
    for _ in range(100_000):
        deep = {"items": deep}
    for schema in (circle, shared, deep):
        with pytest.raises(UnusableSchema):
            read_schema(schema)


def test_recursion_through_values_is_followed() -> None:
    tree = {
        **of(value={"type": "integer"}, children={"type": "array", "items": {"$ref": "#"}}),
        "required": ["value"],
        "additionalProperties": False,
    }
    good: dict[str, Any] = {"value": 1}
    for _ in range(25):
        good = {"value": 1, "children": [good, {"value": 2}]}
    assert problems(tree, good) == []
    assert problems(tree, {"value": 1, "children": [{"value": "x"}]}) == [
        "$.children[0].value: 'x' is not of type 'integer'"
    ]


# --- bounded time ---------------------------------------------------------------------------------

HARD_PATTERNS = [
    (r"^(a+)+$", "a" * 60 + "!"),
    (r"^(([a-z])+.)+[A-Z]([a-z])+$", "a" * 5_000),
    (r"(x+x+)+y", "x" * 5_000),
    (r"(a{1,1000}){1,1000}b", "a" * 5_000),
    (r"(.*?,){11}P", "1," * 40_000),
    (r"(a|a)*(a|a)*(a|a)*$x", "a" * 5_000),
]


@pytest.mark.parametrize(("pattern", "text"), HARD_PATTERNS)
def test_a_pattern_does_not_hold_the_run(pattern: str, text: str) -> None:
    for schema in (
        of(a={"pattern": pattern}),
        {"patternProperties": {pattern: False}},
        {"propertyNames": {"pattern": pattern}},
        of(a={"anyOf": [{"pattern": pattern + "|" + "b" * n} for n in range(40)]}),
    ):
        began = time.process_time()
        check(read_schema(schema), {"a": text, text: 1})
        assert time.process_time() - began < 10  # a hang takes for ever


def test_what_was_not_held_is_said() -> None:
    notes: list[str] = []
    schema = read_schema(of(a={"pattern": r"(x+x+)+y"}))
    assert read_arguments("t", schema, json.dumps({"a": "x" * 5_000}), notes.append)
    assert "too long" in notes[0]
    assert read_schema(of(a={"pattern": "["})).notes == (
        "#/properties/a/pattern is not held: '[' cannot be read "
        "(unterminated character set at position 1)",
    )


def test_work_does_not_grow_beyond_its_limit() -> None:
    levels = {f"l{n}": {"anyOf": [{"$ref": f"#/$defs/l{n + 1}"}] * 2} for n in range(40)}
    levels["l40"] = {"type": "string"}
    exponential = {**of(a={"$ref": "#/$defs/l0"}), "$defs": levels}
    assert check(read_schema(exponential), {"a": 1}).steps < 1_000
    huge = list(range(100_000))
    for schema, value in (
        ({"uniqueItems": True}, huge),
        ({"items": {"type": "integer"}}, huge),
        ({"contains": {"const": -1}}, huge),
        ({"enum": [huge[:40_000]]}, huge),
        ({"additionalProperties": {"type": "integer"}}, {str(n): n for n in huge}),
        ({"anyOf": [{"const": n} for n in range(9_000)]}, [[n] for n in huge]),
        ({"unevaluatedProperties": False, "allOf": [{}] * 500}, {str(n): n for n in huge}),
    ):
        assert check(read_schema(of(a=schema)), {"a": value}).steps <= 100_000


# --- the tool layer -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        "{",
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": ' + "9" * 10_000 + "}",
        "[" * 200_000,
        '{"a":' * 200 + "1" + "}" * 200,
        '{"a": "' + "x" * 500_000 + '"}',
        '{"b": "x"}',
        json.dumps({f"b{n}" * 50: n for n in range(500)}),
    ],
)
def test_bad_arguments_are_a_short_error(text: str) -> None:
    schema = read_schema({**of(a={"maxLength": 5}), "additionalProperties": False})
    with pytest.raises(ToolError) as caught:
        read_arguments("t", schema, text)
    assert len(str(caught.value)) < 2_500
    assert "nothing was run" in str(caught.value)


def test_half_characters_become_whole_text() -> None:
    read = read_schema(of(**{"\ud83d": {"description": "\ude00"}}))
    json.dumps(read.declared, ensure_ascii=False).encode()
    arguments = read_arguments("t", read, '{"x": "\\ud83d", "y": "\\ud83d\\ude00"}')
    assert arguments == {"x": "\ufffd", "y": "\U0001f600"}


def foreign(name: str, parameters: Any) -> Any:
    class Foreign:
        description = "a tool"
        side_effects = False
        parallel_safe = True
        timeout = 5.0

        async def run(self, arguments: dict[str, Any], context: Any) -> Any:
            from perilune.agent.tool import ToolResult

            return ToolResult(json.dumps(arguments, ensure_ascii=False))

    made = Foreign()
    made.name, made.parameters = name, parameters  # type: ignore[attr-defined]
    return made


async def test_a_run_starts_without_the_tools_that_cannot_be_used(tmp_path: Path) -> None:
    """Each is named with its reason in the journal; the others work."""
    tools = [
        foreign("good", of(a={"type": "integer", "minimum": 0, "exclusiveMinimum": True})),
        foreign("fetching", of(a={"$ref": "http://127.0.0.1:9/x"})),
        foreign("dangling", of(a={"$ref": "#/$defs/x"})),
        foreign("name with spaces", of()),
        foreign("", of()),
        foreign("good", of()),
        foreign("none", None),
    ]
    tape = [
        Reply(calls=[Call("good", {"a": 0})]),
        Reply(calls=[Call("good", {"a": 1})]),
        Reply("Done."),
    ]
    (tmp_path / "w").mkdir()
    model = ScriptedModel(tape)
    agent = Agent(model, tools, workspace=tmp_path / "w", home=tmp_path / "home", context="keep")
    result = await agent.arun("go")
    assert result.ok, result
    events = [each.event for each in read_journal(find_run(result.run, tmp_path / "home")).records]
    left_out = {each.name: each.reason for each in events if isinstance(each, ToolLeftOut)}
    assert set(left_out) == {"fetching", "dangling", "name with spaces", "", "good", "none"}
    assert "nothing is fetched" in left_out["fetching"]
    assert "two tools" in left_out["good"]
    outcomes = [each.outcome for each in events if isinstance(each, ToolFinished)]
    assert outcomes == ["refused", "ok"]


def test_the_registry_refuses_what_a_programmer_wrote_wrongly() -> None:
    for bad in (foreign("a b", of()), foreign("x" * 65, of()), foreign("x", {"type": "string"})):
        with pytest.raises(UsageError):
            ToolRegistry([bad])


def test_declarations_are_plain_json_that_chat_formats_take() -> None:
    from perilune.chat.tool_declaration import as_json, as_typescript, read_tools

    deep: Any = {"type": "string"}
    for _ in range(40):
        deep = {"type": "object", "properties": {"a": deep}}
    registry = ToolRegistry()
    registry.add_usable(foreign("deep", deep))
    registry.add_usable(foreign("tree", of(a={"type": "array", "items": {"$ref": "#"}})))
    odd = of(**{"a\nb\x00<|im_end|>\ud83d": {"description": "\ud83d<|im_end|>\x1b\u2028"}})
    registry.add_usable(foreign("odd", odd))
    tools = read_tools(registry.declarations())
    assert len(tools) == 3
    for text in (as_json(tools), as_typescript(tools)):
        text.encode()


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"a{e}", "a{e}", True),
        (r"a{e}", "b", False),
        (r"^[a-z[]$", "[", True),
        (r"^[^]$", "\n", True),
        (r"a[]", "a", False),
        (r"^\u{1f600}$", "\U0001f600", True),
        (r"^\ud83d\ude00$", "\U0001f600", True),
        (r"^(?<y>\d)\k<y>$", "33", True),
        (r"^[\w.-]+@[\w-]+\.\w+$", "a.b@c.de", True),
        (r"^\/a\/$", "/a/", True),
        (r"^\cJ$", "\n", True),
        (r"^[\d\-x]+$", "1-x", True),
    ],
)
def test_patterns_are_those_of_ecma(pattern: str, text: str, found: bool) -> None:
    assert read_pattern(pattern).search(text) is found


@pytest.mark.parametrize(
    "pattern",
    ["(", "a**", "\\", "[z-a]", "(?R)", "(?P>x)", "(?(1)a|b)", r"\p{Foo}", "[", "*", r"\p{L",
     "(" * 500 + ")" * 500, "x" * 3_000],
)  # fmt: skip
def test_patterns_that_are_none_are_said_to_be(pattern: str) -> None:
    with pytest.raises(BadPattern):
        read_pattern(pattern)
