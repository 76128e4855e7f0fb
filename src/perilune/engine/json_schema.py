"""A JSON schema of anybody -> the part of it that a grammar can hold, and what is left out.

The grammar library knows most of JSON Schema 2020-12; the rest it refuses, look-ahead in one
pattern included. Here a schema becomes one that it takes: references go to definitions of the root,
forms of older drafts become those of today, patterns and formats become regular expressions
without look-around, and keywords that no grammar can hold are left out, each by its place. What
remains never forbids what the schema allows, but for formats, which are held more tightly than the
standards, so that every client reads them (no leap seconds, no year 0).

Sources: JSON Schema 2020-12 core and validation; llguidance's docs/json_schema.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from perilune.engine.ecma_pattern import translate
from perilune.engine.schema_formats import FORMATS, KEPT_FORMATS
from perilune.engine.schema_recursion import check_recursion, definition_of, mentioned, reach
from perilune.engine.schema_references import REFERENCES, References
from perilune.engine.schema_unions import TYPES, disjoint
from perilune.errors import GrammarError

MAX_UPPER_BOUND = 2**24  # of lengths: above, nothing that fits into a context is longer
MAX_BOUND = 10**17  # bounds of numbers beyond it are none that the grammar library can write
MIN_BOUND = 1e-15  # nor are those nearer to 0
MAX_FACTOR_DIGITS = 9  # of multipleOf
_MAY_BE_SLOW = re.compile(r"\)[*+?{]|[*+}][^*+{]*[*+{][^*+{]*[*+{]")  # for Python's matcher
# No grammar holds these. `then` and `else` mean nothing without `if`, nor the counts without
# `contains`.
NOT_HELD = ("not", "if", "contains", "dependentRequired", "dependentSchemas", "dependencies")
_AS_IT_IS = ("type", "enum", "required")
_LOWER_BOUNDS = ("minLength", "minItems", "minProperties")
_UPPER_BOUNDS = ("maxLength", "maxItems", "maxProperties")
_APPLICATORS = frozenset({"anyOf", "oneOf", "allOf", "if", "dependentSchemas", *REFERENCES})


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A keyword that the grammar does not hold, or not fully. `where`: path from the root."""

    where: str
    keyword: str

    def __str__(self) -> str:
        return f"{self.where}.{self.keyword}" if self.where else self.keyword


@dataclass(frozen=True, slots=True)
class Constrained:
    """`schema` is what the grammar library is given."""

    schema: Mapping[str, Any] | bool
    left_out: tuple[LeftOut, ...] = ()


def constrain(schema: Mapping[str, Any] | bool) -> Constrained:
    """Raises GrammarError (param "grammar") for a schema that is none, or refers to nothing."""
    if isinstance(schema, bool):
        return Constrained(schema)
    return _Constrainer(schema).run()


class _Constrainer:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._references = References(root)
        self._names: dict[int, str] = {}  # of targets, by identity; "" is the root
        self._waiting: list[tuple[str, Any, str]] = []
        self._left_out: list[LeftOut] = []
        self._owner = ""  # the definition that is being written
        self._sites: list[tuple[str, dict[str, Any], str, str]] = []  # of references

    def run(self) -> Constrained:
        self._names[id(self._root)] = ""
        result = self._node(self._root, "")
        definitions: dict[str, Any] = {}
        while self._waiting:
            self._owner, target, where = self._waiting.pop()
            definitions[self._owner] = self._node(target, where)
        if definitions:
            if not isinstance(result, dict):
                result = {}
            result["$defs"] = definitions
        self._loosen_circular({"": result, **definitions})
        check_recursion(result, definitions)
        left_out = tuple(dict.fromkeys(self._left_out))
        return Constrained(result, left_out)

    # --- one schema --------------------------------------------------------------------------

    def _node(self, node: Any, where: str) -> Any:
        if isinstance(node, bool):
            return node
        if not isinstance(node, Mapping):
            raise _fail(where, "a schema must be an object or a boolean")
        types = node.get("type") or []
        for name in types if isinstance(types, list) else [types]:
            if name not in TYPES:
                raise _fail(f"{where}.type", f"{name!r:.60} is not a JSON type")
        out: dict[str, Any] = {key: node[key] for key in _AS_IT_IS if node.get(key) is not None}
        if "const" in node:
            out["const"] = node["const"]
        for key in _LOWER_BOUNDS:
            if node.get(key) is not None:
                out[key] = int(node[key])
        more: list[Any] = []  # further schemas that must hold too
        for key in _UPPER_BOUNDS:
            if node.get(key) is not None and node[key] <= MAX_UPPER_BOUND:
                out[key] = int(node[key])
        self._range(node, out, where)
        self._reference(node, out, more, where)
        self._strings(node, out, more, where)
        self._object(node, out, where)
        self._array(node, out, where)
        self._unions(node, out, more, where)
        self._rest(node, out, where)
        if more:
            out["allOf"] = [*out.get("allOf", ()), *more]
        for part in (out, *out.get("allOf", ())):
            if isinstance(part, dict) and isinstance(part.get("$ref"), str):
                self._sites.append((self._owner, out, definition_of(part["$ref"]), where))
        return out

    def _loosen_circular(self, nodes: Mapping[str, Any]) -> None:
        """The grammar library merges a reference with what is beside it, which never ends where
        it is inside of what it refers to: there the rest is left out."""
        inside = {name: set(mentioned(node)) for name, node in nodes.items()}
        for owner, node, target, where in self._sites:
            beside = node.keys() - {"$ref", "$defs"}
            if beside and (owner == target or owner in reach(target, inside)):
                node_reference = next(
                    part["$ref"]
                    for part in (node, *node.get("allOf", ()))
                    if isinstance(part, dict) and "$ref" in part
                )
                for key in beside - {"allOf"} or {"allOf"}:
                    self._leave_out(where, key)
                    node.pop(key)
                node.pop("allOf", None)
                node["$ref"] = node_reference

    def _range(self, node: Mapping[str, Any], out: dict[str, Any], where: str) -> None:
        """Bounds of numbers; draft 4 writes the exclusive ones as true or false."""
        for name, exclusive in (
            ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum"),
        ):  # fmt: skip
            plain, other = node.get(name), node.get(exclusive)
            if isinstance(other, bool):
                bounds = {exclusive if other else name: plain}
            else:
                bounds = {name: plain, exclusive: other}
            for key, value in bounds.items():
                if value is None:
                    continue
                if abs(value) > MAX_BOUND or 0 < abs(value) < MIN_BOUND:
                    self._leave_out(where, key)
                else:
                    out[key] = value
        factor = node.get("multipleOf")
        if factor is not None:
            digits = f"{Decimal(str(factor)):f}".replace(".", "").strip("0")
            if len(digits) > MAX_FACTOR_DIGITS or not MIN_BOUND < factor < 10**MAX_FACTOR_DIGITS:
                self._leave_out(where, "multipleOf")
            else:
                out["multipleOf"] = factor

    def _reference(
        self, node: Mapping[str, Any], out: dict[str, Any], more: list[Any], where: str
    ) -> None:
        for key in REFERENCES:
            reference = node.get(key)
            if reference is None:
                continue
            if not isinstance(reference, str):
                raise _fail(f"{where}.{key}", "must be text")
            try:
                target = self._references.resolve(node, reference)
            except GrammarError as error:
                raise _fail(f"{where}.{key}", error.message) from None
            written = self._written(target, f"{where}.{key}")
            if "$ref" in out:
                more.append(written)
            elif isinstance(written, dict):
                out |= written
            else:
                more.append(written)

    def _written(self, target: Any, where: str) -> Any:
        """A reference to the target, which gets a definition of its own."""
        if isinstance(target, bool):
            return target
        name = self._names.get(id(target))
        if name is None:
            name = self._names[id(target)] = f"r{len(self._names)}"
            self._waiting.append((name, target, where))
        return {"$ref": f"#/$defs/{name}" if name else "#"}

    def _strings(
        self, node: Mapping[str, Any], out: dict[str, Any], more: list[Any], where: str
    ) -> None:
        patterns: list[str] = []
        if node.get("pattern") is not None:
            try:
                found = translate(node["pattern"])
            except GrammarError as error:
                raise _fail(f"{where}.pattern", error.message) from None
            patterns += found.patterns
            if not found.exact:
                self._leave_out(where, "pattern")
        name = node.get("format")
        if isinstance(name, str):
            if name in FORMATS:
                patterns.append(FORMATS[name])
            elif name in KEPT_FORMATS:
                out["format"] = name
        if patterns:
            out["pattern"] = patterns[0]
            more += [{"pattern": pattern} for pattern in patterns[1:]]

    def _object(self, node: Mapping[str, Any], out: dict[str, Any], where: str) -> None:
        properties = node.get("properties")
        if properties is not None:
            out["properties"] = {
                name: self._node(child, f"{where}.properties.{name}")
                for name, child in properties.items()
            }
        extra = node.get("additionalProperties")
        if extra is None and node.get("unevaluatedProperties") is not None:
            if not _APPLICATORS & node.keys():  # then it says the same
                extra = node["unevaluatedProperties"]
            elif node["unevaluatedProperties"] is not True:
                self._leave_out(where, "unevaluatedProperties")
        if extra is not None:
            out["additionalProperties"] = self._node(extra, f"{where}.additionalProperties")
        self._pattern_properties(node, out, where)
        self._property_names(node, out, where)
        if (node.get("minProperties") or 0) > 1 and out.get("additionalProperties") is not False:
            self._leave_out(where, "minProperties")  # a name that comes twice is counted twice

    def _pattern_properties(self, node: Mapping[str, Any], out: dict[str, Any], where: str) -> None:
        by_pattern = node.get("patternProperties")
        if not by_pattern:
            return
        kept: dict[str, Any] = {}
        for pattern, child in by_pattern.items():
            try:
                found = translate(pattern)
            except GrammarError as error:
                raise _fail(f"{where}.patternProperties", error.message) from None
            if len(by_pattern) > 1 or not found.exact or len(found.patterns) > 1:
                # Which of several hold for a name is nothing that the grammar can say.
                self._leave_out(where, "patternProperties")
                out.pop("additionalProperties", None)
                return
            kept[found.patterns[0]] = self._node(child, f"{where}.patternProperties.{pattern}")
        names = node.get("properties") or {}
        if any(_might_match(pattern, name) for pattern in by_pattern for name in names):
            self._leave_out(where, "patternProperties")
        out["patternProperties"] = kept

    def _property_names(self, node: Mapping[str, Any], out: dict[str, Any], where: str) -> None:
        """Held where the names are all that is said about the properties, as of a dictionary."""
        names = node.get("propertyNames")
        if names is None or names is True:
            return
        pattern = self._name_pattern(names)
        if pattern is None or node.get("properties") or node.get("patternProperties"):
            if pattern != "":
                self._leave_out(where, "propertyNames")
        elif pattern:
            out["patternProperties"] = {pattern: out.pop("additionalProperties", True)}
            out["additionalProperties"] = False

    def _name_pattern(self, names: Any) -> str | None:
        """One pattern for all that a schema of names says; "" for nothing, None: there is none."""
        for _ in range(8):
            if not isinstance(names, Mapping) or not isinstance(names.get("$ref"), str):
                break
            names = self._references.resolve(names, names["$ref"])
        if not isinstance(names, Mapping) or names.keys() & {*_APPLICATORS, *NOT_HELD}:
            return None
        if names.get("type", "string") != "string":
            return None
        if "enum" in names or "const" in names:
            values = names["enum"] if "enum" in names else [names["const"]]
            texts = [_exactly(value) for value in values if isinstance(value, str)]
            return f"^(?:{'|'.join(texts)})$" if texts else None
        found: list[str] = []
        if "pattern" in names:
            pattern = translate(names["pattern"])
            found += pattern.patterns if pattern.exact else ["", ""]
        if "format" in names:
            found.append(FORMATS.get(names["format"], ""))
        low, high = names.get("minLength"), names.get("maxLength")
        if low or high is not None:
            found.append(f"^(?s:.){{{low or 0},{'' if high is None else min(high, 100_000)}}}$")
        if not found:
            return ""
        return found[0] or None if len(found) == 1 else None

    def _array(self, node: Mapping[str, Any], out: dict[str, Any], where: str) -> None:
        first, rest = node.get("prefixItems"), node.get("items")
        if isinstance(rest, list):  # the form of older drafts
            first, rest = rest, node.get("additionalItems")
        if first is not None:
            out["prefixItems"] = [
                self._node(child, f"{where}.prefixItems.{n}") for n, child in enumerate(first)
            ]
        if rest is None and node.get("unevaluatedItems") is not None:
            if not (_APPLICATORS | {"contains"}) & node.keys():
                rest = node["unevaluatedItems"]
            elif node["unevaluatedItems"] is not True:
                self._leave_out(where, "unevaluatedItems")
        if rest is not None:
            out["items"] = self._node(rest, f"{where}.items")

    def _unions(
        self, node: Mapping[str, Any], out: dict[str, Any], more: list[Any], where: str
    ) -> None:
        for key in ("anyOf", "allOf"):
            if node.get(key):
                out[key] = [
                    self._node(child, f"{where}.{key}.{n}") for n, child in enumerate(node[key])
                ]
        if node.get("oneOf"):
            branches = [
                self._node(child, f"{where}.oneOf.{n}") for n, child in enumerate(node["oneOf"])
            ]
            if not disjoint(node["oneOf"], self._references):
                self._leave_out(where, "oneOf")
            if "anyOf" in out:
                more.append({"anyOf": branches})
            else:
                out["anyOf"] = branches

    def _rest(self, node: Mapping[str, Any], out: Mapping[str, Any], where: str) -> None:
        for key in NOT_HELD:
            if node.get(key) is not None and not (key.startswith("depend") and not node[key]):
                self._leave_out(where, key)
        if node.get("uniqueItems") is True and out.get("maxItems", 2) > 1:
            self._leave_out(where, "uniqueItems")

    def _leave_out(self, where: str, keyword: str) -> None:
        self._left_out.append(LeftOut(where.removeprefix("."), keyword))


# --- small things --------------------------------------------------------------------------------


def _exactly(text: str) -> str:
    return "".join(
        char if char.isascii() and char.isalnum() else f"\\x{{{ord(char):x}}}" for char in text
    )


def _might_match(pattern: str, name: str) -> bool:
    """Whether a property that is declared by name is also one of the pattern, if it can be told."""
    if len(name) > 64 or len(pattern) > 200 or _MAY_BE_SLOW.search(pattern):
        return True
    try:
        return re.search(pattern, name) is not None
    except (re.error, RecursionError, OverflowError):
        return True


def _fail(where: str, what: str) -> GrammarError:
    return GrammarError(f"{where.removeprefix('.')}: {what}", param="grammar")
