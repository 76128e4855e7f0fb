"""A tool's JSON schema, as strangers write it -> nodes that `check.py` walks.

Every draft from 3 to 2020-12 and OpenAPI's dialect are read in one go: where two drafts use a word
differently, the form of the value says which is meant. References are resolved within the document
and nowhere else; nothing is fetched. What has no clear meaning makes the schema unusable, by name
and place. Unknown keywords say nothing, as the specification has it, and so does `format`.
Source: the JSON Schema drafts, json-schema.org/specification-links.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from perilune.agent.schema.pattern import BadPattern, Pattern, read_pattern
from perilune.agent.schema.plain import NotPlain, plain_json
from perilune.agent.schema.references import Dangling, References
from perilune.errors import UsageError

MAX_DEPTH = 90
"""Nesting of a schema; with what stands around it, a prompt takes 100 (`chat/`)."""

LONGEST_PLACE = 120  # of a message; names may be as long as a schema

_TYPES = {
    "null": "null", "none": "null", "nonetype": "null",
    "boolean": "boolean", "bool": "boolean",
    "integer": "integer", "int": "integer",
    "number": "number", "float": "number", "double": "number",
    "string": "string", "str": "string",
    "array": "array", "list": "array",
    "object": "object", "dict": "object",
}  # fmt: skip
_UPPER = ("maxLength", "maxItems", "maxProperties", "maxContains")
_LOWER = ("minLength", "minItems", "minProperties", "minContains")


class UnusableSchema(UsageError):
    """The parameters of a tool are not a schema that arguments could be checked against."""

    code = "unusable_schema"


@dataclass(slots=True, eq=False)
class Node:
    """One subschema. Attributes are named as the keywords of 2020-12; None: says nothing."""

    place: str
    always: bool | None = None
    types: frozenset[str] | None = None
    const: tuple[Any, ...] = ()
    enum: tuple[Any, ...] | None = None
    counts: dict[str, int] = field(default_factory=dict)
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: float | None = None
    exclusive_maximum: float | None = None
    multiple_of: float | None = None
    pattern: Pattern | None = None
    required: tuple[str, ...] = ()
    properties: dict[str, Node] = field(default_factory=dict)
    pattern_properties: list[tuple[Pattern | None, Node]] = field(default_factory=list)
    additional_properties: Node | None = None
    property_names: Node | None = None
    dependent_required: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dependent_schemas: dict[str, Node] = field(default_factory=dict)
    unevaluated_properties: Node | None = None
    prefix_items: list[Node] = field(default_factory=list)
    items: Node | None = None
    unevaluated_items: Node | None = None
    contains: Node | None = None
    unique_items: bool = False
    all_of: list[Node] = field(default_factory=list)
    """Of `allOf`, and of all references."""
    any_of: list[Node] = field(default_factory=list)
    one_of: list[Node] = field(default_factory=list)
    not_: Node | None = None
    if_: Node | None = None
    then: Node | None = None
    else_: Node | None = None

    def in_place(self) -> list[Node]:
        """The nodes that are asked about the same value."""
        single = (self.not_, self.if_, self.then, self.else_)
        return [
            *self.all_of, *self.any_of, *self.one_of, *self.dependent_schemas.values(),
            *(each for each in single if each is not None),
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class ToolSchema:
    """A schema that arguments can be checked against (`check`).

    `declared` is what the model is shown: the schema as plain JSON. `notes` say which constraints
    are not held, and why.
    """

    root: Node
    declared: dict[str, Any]
    notes: tuple[str, ...] = ()


def read_schema(parameters: Any) -> ToolSchema:
    """Read the parameters of a tool. Raises `UnusableSchema` with the place and the reason."""
    try:
        document = plain_json(parameters, max_depth=MAX_DEPTH)
        if not isinstance(document, dict):
            raise _Bad("#", f"it is {_kind(document)}, not an object")
        reader = _Reader(document)
        root = reader.read()
    except (NotPlain, _Bad) as error:
        raise UnusableSchema(str(error)) from None
    if root.types is not None and "object" not in root.types:
        raise UnusableSchema(
            f"#/type: arguments are an object, not {', '.join(sorted(root.types))}"
        )
    return ToolSchema(root, document, tuple(reader.notes))


class _Bad(Exception):
    def __init__(self, place: str, why: str) -> None:
        super().__init__(f"{place[-LONGEST_PLACE:]}: {why}")


class _Reader:
    """Reads what is reachable from the root; each subschema once."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._references = References(document)
        self._nodes: dict[int, Node] = {}
        self._booleans: dict[bool, Node] = {
            each: Node(place="#", always=each) for each in (True, False)
        }
        self._work: list[tuple[dict[str, Any], Node]] = []
        self.notes: list[str] = []

    def read(self) -> Node:
        root = self._node(self._document, "#")
        while self._work:
            source, node = self._work.pop()
            self._fill(source, node)
        _refuse_circles(root)
        return root

    def _node(self, source: Any, place: str) -> Node:
        if isinstance(source, bool):
            return self._booleans[source]
        if source is None:
            return self._booleans[True]
        if not isinstance(source, dict):
            raise _Bad(place, f"{_kind(source)} is not a schema")
        node = self._nodes.get(id(source))
        if node is None:
            node = self._nodes[id(source)] = Node(place=place[-LONGEST_PLACE:])
            self._work.append((source, node))
        return node

    def _fill(self, source: dict[str, Any], node: Node) -> None:
        self._types(source, node)
        self._values(source, node)
        self._numbers(source, node)
        self._text(source, node)
        self._object(source, node)
        self._array(source, node)
        self._combined(source, node)

    def _types(self, source: dict[str, Any], node: Node) -> None:
        named = source.get("type")
        if named is None:
            return
        names = named if isinstance(named, list) else [named]
        types: set[str] = set()
        for name in names:
            word = name.strip().lower() if isinstance(name, str) else ""
            if word == "any":
                return
            if name is None:
                word = "null"
            if word not in _TYPES:
                raise _Bad(f"{node.place}/type", f"{name!r:.60} is not a JSON type")
            types.add(_TYPES[word])
        if not types:
            raise _Bad(f"{node.place}/type", "it names no type")
        if _flag(source.get("nullable")):
            types.add("null")
        node.types = frozenset(types)

    def _values(self, source: dict[str, Any], node: Node) -> None:
        if "const" in source:
            node.const = (source["const"],)
        values = source.get("enum")
        if values is None:
            return
        if not isinstance(values, list):
            raise _Bad(f"{node.place}/enum", f"it is {_kind(values)}, not a list")
        node.enum = (*values, None) if _flag(source.get("nullable")) else tuple(values)

    def _numbers(self, source: dict[str, Any], node: Node) -> None:
        node.minimum = _number(source, "minimum", node.place)
        node.maximum = _number(source, "maximum", node.place)
        for bound in ("minimum", "maximum"):
            word = f"exclusive{bound.capitalize()}"
            value = source.get(word)
            if value is True:  # draft 4: the other bound is the exclusive one
                setattr(node, f"exclusive_{bound}", getattr(node, bound))
            elif not isinstance(value, bool):
                setattr(node, f"exclusive_{bound}", _number(source, word, node.place))
        for word in ("multipleOf", "divisibleBy"):
            step = _number(source, word, node.place)
            if step is not None and step <= 0:
                raise _Bad(f"{node.place}/{word}", f"{step!r:.40} is not above 0")
            node.multiple_of = step if step is not None else node.multiple_of
        for word in (*_LOWER, *_UPPER):
            count = _number(source, word, node.place)
            if count is None:
                continue
            if count != int(count):
                raise _Bad(f"{node.place}/{word}", f"{count!r:.40} is not whole")
            if count < 0 and word in _UPPER:
                raise _Bad(f"{node.place}/{word}", f"{count!r:.40} is below 0")
            node.counts[word] = int(count)

    def _text(self, source: dict[str, Any], node: Node) -> None:
        if source.get("pattern") is not None:
            node.pattern = self._pattern(source["pattern"], f"{node.place}/pattern")

    def _pattern(self, source: Any, place: str) -> Pattern | None:
        if not isinstance(source, str):
            raise _Bad(place, f"it is {_kind(source)}, not text")
        try:
            return read_pattern(source)
        except BadPattern as error:
            if len(self.notes) < 20:
                self.notes.append(
                    f"{place[-LONGEST_PLACE:]} is not held: {source!r:.80} cannot be read ({error})"
                )
            return None

    def _object(self, source: dict[str, Any], node: Node) -> None:
        properties = _mapping(source, "properties", node.place)
        node.properties = self._named(properties, f"{node.place}/properties")
        required = source.get("required")
        names: list[str] = []
        if isinstance(required, str):
            names = [required]
        elif required is not None and not isinstance(required, bool):
            names = list(_names(required, f"{node.place}/required"))
        # Draft 3, and many hands: `required: true` stands in the property itself.
        names += [
            name
            for name, child in properties.items()
            if isinstance(child, dict) and child.get("required") is True
        ]
        node.required = tuple(dict.fromkeys(names))
        for pattern, child in _mapping(source, "patternProperties", node.place).items():
            place = f"{node.place}/patternProperties/{pattern}"
            node.pattern_properties.append(
                (self._pattern(pattern, place), self._node(child, place))
            )
        node.additional_properties = self._one(source, "additionalProperties", node.place)
        node.unevaluated_properties = self._one(source, "unevaluatedProperties", node.place)
        node.property_names = self._one(source, "propertyNames", node.place)
        self._dependencies(source, node)

    def _dependencies(self, source: dict[str, Any], node: Node) -> None:
        for word in ("dependencies", "dependentRequired", "dependentSchemas"):
            for name, wanted in _mapping(source, word, node.place).items():
                place = f"{node.place}/{word}/{name}"
                if isinstance(wanted, str):
                    wanted = [wanted]
                if isinstance(wanted, list):
                    earlier = node.dependent_required.get(name, ())
                    node.dependent_required[name] = (*earlier, *_names(wanted, place))
                else:
                    node.dependent_schemas[name] = self._node(wanted, place)

    def _array(self, source: dict[str, Any], node: Node) -> None:
        items = source.get("items")
        rest = "items"
        prefix = source.get("prefixItems")
        if isinstance(items, list):
            prefix, rest = items, "additionalItems"
        if prefix is not None:
            node.prefix_items = self._list(prefix, f"{node.place}/prefixItems")
        node.items = self._one(source, rest, node.place)
        node.unevaluated_items = self._one(source, "unevaluatedItems", node.place)
        node.contains = self._one(source, "contains", node.place)
        node.unique_items = _flag(source.get("uniqueItems"))

    def _combined(self, source: dict[str, Any], node: Node) -> None:
        for word in ("$ref", "$dynamicRef", "$recursiveRef"):
            reference = source.get(word)
            if reference is None:
                continue
            place = f"{node.place}/{word}"
            try:
                target = self._references.resolve(reference, source)
            except Dangling as error:
                raise _Bad(place, str(error)) from None
            node.all_of.append(self._node(target, place))
        for word, kept in (
            ("allOf", node.all_of), ("extends", node.all_of),
            ("anyOf", node.any_of), ("oneOf", node.one_of),
        ):  # fmt: skip
            branches = source.get(word)
            if branches is None:
                continue
            place = f"{node.place}/{word}"
            if word == "extends" and isinstance(branches, dict):
                branches = [branches]
            kept += self._list(branches, place)
            if not branches and word in ("anyOf", "oneOf"):
                raise _Bad(place, "it is empty: nothing could match")
        node.not_ = self._one(source, "not", node.place)
        node.if_ = self._one(source, "if", node.place)
        if node.if_ is not None:
            node.then = self._one(source, "then", node.place)
            node.else_ = self._one(source, "else", node.place)
        if _flag(source.get("nullable")) and (node.any_of or node.one_of):
            null = Node(place=f"{node.place}/nullable", types=frozenset({"null"}))
            (node.any_of or node.one_of).append(null)

    def _named(self, schemas: Mapping[str, Any], place: str) -> dict[str, Node]:
        return {name: self._node(child, f"{place}/{name}") for name, child in schemas.items()}

    def _list(self, schemas: Any, place: str) -> list[Node]:
        if not isinstance(schemas, list):
            raise _Bad(place, f"it is {_kind(schemas)}, not a list of schemas")
        return [self._node(each, f"{place}/{number}") for number, each in enumerate(schemas)]

    def _one(self, source: dict[str, Any], word: str, place: str) -> Node | None:
        value = source.get(word)
        return None if value is None else self._node(value, f"{place}/{word}")


def _refuse_circles(root: Node) -> None:
    """Raises `_Bad` where a value's check would ask for itself, as in a -> b -> a."""
    done: set[int] = set()
    open_: set[int] = set()
    # Every node begins a walk over what is asked about the same value, children included.
    seen: dict[int, Node] = {}
    work = [root]
    while work:
        node = work.pop()
        if id(node) not in seen:
            seen[id(node)] = node
            work += node.in_place() + _children(node)
    for start in seen.values():
        stack: list[tuple[Node, bool]] = [(start, False)]
        while stack:
            node, leaving = stack.pop()
            if leaving:
                open_.discard(id(node))
                done.add(id(node))
            elif id(node) in open_:
                raise _Bad(node.place, "its references go in a circle that takes nothing in")
            elif id(node) not in done:
                open_.add(id(node))
                stack.append((node, True))
                stack += [(each, False) for each in node.in_place()]


def _children(node: Node) -> list[Node]:
    single = (
        node.additional_properties, node.property_names, node.unevaluated_properties,
        node.items, node.unevaluated_items, node.contains,
    )  # fmt: skip
    return [
        *node.properties.values(),
        *(child for _, child in node.pattern_properties),
        *node.prefix_items,
        *(each for each in single if each is not None),
    ]


def _mapping(source: dict[str, Any], word: str, place: str) -> dict[str, Any]:
    value = source.get(word)
    if value is None or value == []:  # PHP writes an empty object as an empty list
        return {}
    if not isinstance(value, dict):
        raise _Bad(f"{place}/{word}", f"it is {_kind(value)}, not an object")
    return value


def _names(value: Any, place: str) -> tuple[str, ...]:
    if value == {}:  # and the other way round
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise _Bad(place, "it is not a list of names")
    return tuple(value)


def _number_in(text: str) -> int | float | None:
    if len(text) >= 300:
        return None
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        return float(text)
    return None


def _number(source: dict[str, Any], word: str, place: str) -> float | None:
    """A number, also where it is written as text. It may be an `int` of any size."""
    value: Any = source.get(word)
    if value is None:
        return None
    if isinstance(value, str):
        value = _number_in(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise _Bad(f"{place}/{word}", f"{source[word]!r:.60} is not a number")
    if value in (float("inf"), float("-inf")):
        raise _Bad(f"{place}/{word}", "it is infinite")
    return value


def _flag(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.strip().lower() == "true")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "an object")
