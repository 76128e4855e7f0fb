"""The limits of JSON schemas: what a client may send, before anything is compiled.

The limits are those that Moonshot publishes for its dialect (MFJS); they also keep a hostile
schema from costing more than it should. What the engine's grammars can hold of a schema is in
`engine/json_schema.py`; here it becomes a refusal, or a list of what is not held.

Source: the walle repository's mfjs-spec.md.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from perilune.engine.json_schema import NOT_HELD, LeftOut, constrain
from perilune.engine.schema_references import SCHEMA_LISTS, SCHEMA_MAPS, SCHEMAS
from perilune.errors import RequestError
from perilune.serve.api_error import ApiError, invalid

MAX_DEPTH = 30
MAX_CHARACTERS = 120_000
MAX_PROPERTIES = 3_000
MAX_ENUM = 1_000
MAX_ANY_OF = 500
MAX_ENUM_CHARACTERS = 75_000  # counted where an enum has more than ENUM_FREE of text
MAX_PATTERN = 1_000
MAX_REPEAT = 100_000  # minLength, minItems and the like
MAX_COUNT = 2**31 - 1  # maxLength and the like: an upper bound costs nothing
MAX_CHECKED = 512  # schemas that are remembered as good
TYPES = frozenset({"null", "boolean", "object", "array", "number", "integer", "string"})
# In the dialect of Moonshot; others are refused with `--kimi-strict`.
KEYWORDS = frozenset(
    {"type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "$defs",
     "$ref", "$id", "description", "default", "minLength", "maxLength", "pattern", "minimum",
     "maximum", "minItems", "maxItems"}
)  # fmt: skip
# Not in the dialect; they say something to people, and constrain nothing.
NOTES = frozenset(
    {"title", "$schema", "$comment", "examples", "deprecated", "readOnly", "writeOnly",
     "definitions", "strict"}
)  # fmt: skip
# With `strict: true` a promise is wanted that no grammar can keep; OpenAI refuses these too.
REFUSED_WHEN_STRICT = frozenset(
    {*NOT_HELD, "patternProperties", "propertyNames", "unevaluatedProperties", "unevaluatedItems"}
)
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties",
           "minContains", "maxContains")  # fmt: skip


# What was found right before, by its text: agents send the same tools with every request.
_checked: OrderedDict[bytes, tuple[LeftOut, ...]] = OrderedDict()


def check_schema(
    schema: Any, param: str, *, strict: bool = False, dialect: bool = False
) -> tuple[str, ...]:
    """The places of what no grammar can hold, such as `tools[0].function.parameters.not`.

    strict: that is refused where OpenAI refuses it too. dialect: what is not in Moonshot's
    dialect is refused. Raises ApiError (400, code "invalid_schema") that says what and where.
    """
    if not isinstance(schema, Mapping):
        raise _bad(param, "a JSON schema must be an object")
    try:
        text = json.dumps(schema, ensure_ascii=False)
    except (ValueError, RecursionError):
        raise _bad(param, "it cannot be written as JSON") from None
    if len(text) > MAX_CHARACTERS:
        raise _bad(param, f"it has {len(text)} characters, at most {MAX_CHARACTERS}")
    key = hashlib.sha256(f"{dialect}{text}".encode("utf-8", "surrogatepass")).digest()
    left_out = _checked.get(key)
    if left_out is None:
        _check(schema, param, dialect)
        try:
            left_out = constrain(schema).left_out
        except RequestError as error:
            raise _bad(param, str(error)) from None
        except (TypeError, ValueError, AttributeError, ArithmeticError, RecursionError):
            raise _bad(param, "a keyword in it has a value of the wrong kind") from None
        _checked[key] = left_out
        while len(_checked) > MAX_CHECKED:
            _checked.popitem(last=False)
    else:
        _checked.move_to_end(key)
    if strict:
        for left in left_out:
            if left.keyword in REFUSED_WHEN_STRICT:
                raise _bad(f"{param}.{left}", "cannot be held to the letter (strict is on)")
    return tuple(f"{param}.{left}" for left in left_out)


def _check(schema: Mapping[str, Any], param: str, dialect: bool) -> None:
    properties = enums = any_of = 0
    for node, where, depth in _nodes(schema, param):
        if depth > MAX_DEPTH:
            raise _bad(where, f"it is nested deeper than {MAX_DEPTH}")
        _check_node(node, where)
        if dialect:
            _check_keywords(node, where)
        properties += len(node.get("properties") or ())
        enums += len(node.get("enum") or ())
        any_of += len(node.get("anyOf") or ()) + len(node.get("oneOf") or ())
    for count, most, what in (
        (properties, MAX_PROPERTIES, "properties"),
        (enums, MAX_ENUM, "enum values"),
        (any_of, MAX_ANY_OF, "anyOf branches"),
    ):
        if count > most:
            raise _bad(param, f"it has {count} {what}, at most {most}")


def _nodes(schema: Mapping[str, Any], param: str) -> Iterator[tuple[Mapping[str, Any], str, int]]:
    """Every subschema with its place and depth. Raises ApiError where one is not a schema."""
    stack: list[tuple[Any, str, int]] = [(schema, param, 1)]
    while stack:
        node, where, depth = stack.pop()
        if isinstance(node, bool):
            continue
        if not isinstance(node, Mapping):
            raise _bad(where, "a schema must be an object or a boolean")
        yield node, where, depth
        for key in SCHEMA_MAPS:
            children = node.get(key)
            if children is None:
                continue
            if not isinstance(children, Mapping):
                raise _bad(f"{where}.{key}", "must be an object of schemas")
            stack += [(child, f"{where}.{key}.{n}", depth + 1) for n, child in children.items()]
        for key in (*SCHEMA_LISTS, "items"):
            children = node.get(key)
            if key == "items" and not isinstance(children, list):
                continue  # a list of them is the form of older drafts
            if children is None:
                continue
            if not isinstance(children, list) or not children:
                raise _bad(f"{where}.{key}", "must be a list of schemas, not an empty one")
            stack += [(child, f"{where}.{key}.{n}", depth + 1) for n, child in enumerate(children)]
        for key in SCHEMAS:
            if node.get(key) is not None and not (key == "items" and isinstance(node[key], list)):
                stack.append((node[key], f"{where}.{key}", depth + 1))
        dependent = node.get("dependencies")
        if isinstance(dependent, Mapping):
            stack += [(child, f"{where}.dependencies.{n}", depth + 1)
                      for n, child in dependent.items() if not isinstance(child, list)]  # fmt: skip


def _check_node(node: Mapping[str, Any], where: str) -> None:
    types = node.get("type")
    if types is not None:
        for name in types if isinstance(types, list) else [types]:
            if not isinstance(name, str) or name not in TYPES:
                raise _bad(f"{where}.type", f"{name!r:.60} is not a JSON type")
        if types == []:
            raise _bad(f"{where}.type", "names no type")
    required = node.get("required")
    if required is not None and not (
        isinstance(required, list) and all(isinstance(name, str) for name in required)
    ):
        raise _bad(f"{where}.required", "must be a list of names")
    _check_enum(node, where)
    for key in _COUNTS:
        value = node.get(key)
        most = MAX_REPEAT if key.startswith("min") else MAX_COUNT
        if value is not None and not _is_count(value, most):
            raise _bad(f"{where}.{key}", f"must be a whole number from 0 to {most}")
    for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
        value = node.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            if key.startswith("exclusive") and isinstance(value, bool):
                continue  # draft 4
            raise _bad(f"{where}.{key}", "must be a number")
    if _number(node.get("multipleOf")) and node["multipleOf"] <= 0:
        raise _bad(f"{where}.multipleOf", "must be above 0")
    for low, high in (
        ("minLength", "maxLength"), ("minItems", "maxItems"), ("minimum", "maximum")
    ):  # fmt: skip
        if _number(node.get(low)) and _number(node.get(high)) and node[low] > node[high]:
            raise _bad(f"{where}.{low}", f"is above {high}: nothing can match")
    pattern = node.get("pattern")
    if pattern is not None and (not isinstance(pattern, str) or len(pattern) > MAX_PATTERN):
        raise _bad(f"{where}.pattern", f"must be text of at most {MAX_PATTERN} characters")


def _check_enum(node: Mapping[str, Any], where: str) -> None:
    values = node.get("enum")
    if values is None:
        return
    if not isinstance(values, list) or not values:
        raise _bad(f"{where}.enum", "must be a list of values, not an empty one")
    characters = sum(len(value) for value in values if isinstance(value, str))
    if characters > MAX_ENUM_CHARACTERS:
        raise _bad(f"{where}.enum", f"has {characters} characters, at most {MAX_ENUM_CHARACTERS}")


def _check_keywords(node: Mapping[str, Any], where: str) -> None:
    for key in node:
        if key not in KEYWORDS and key not in NOTES:
            raise _bad(f"{where}.{key}", "is not a keyword of Moonshot's dialect")


def _is_count(value: Any, most: int) -> bool:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return whole and not isinstance(value, bool) and 0 <= value <= most


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _bad(where: str, what: str) -> ApiError:
    return invalid(f"{where}: {what}", where.partition("[")[0].partition(".")[0], "invalid_schema")
