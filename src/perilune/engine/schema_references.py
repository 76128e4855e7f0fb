"""What the `$ref`s of a JSON schema point at: pointers, anchors and ids, within the document only.

Nothing is ever fetched. Sources: JSON Schema 2020-12 core, 8.2; RFC 6901 (pointers); RFC 3986.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from perilune.errors import GrammarError

# Keywords whose value is a schema, a list of schemas, or schemas by name.
SCHEMAS = frozenset(
    {"additionalProperties", "not", "if", "then", "else", "contains", "propertyNames",
     "additionalItems", "unevaluatedProperties", "unevaluatedItems", "items"}
)  # fmt: skip
SCHEMA_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
SCHEMA_MAPS = frozenset(
    {"properties", "$defs", "definitions", "patternProperties", "dependentSchemas"}
)
REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
MAX_NODES = 100_000


def children(node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(path below the node, subschema) of each subschema; what is not of the right form is left."""
    for key, value in node.items():
        if key in SCHEMA_MAPS and isinstance(value, Mapping):
            for name, child in value.items():
                yield f"{key}.{name}", child
        elif key in SCHEMA_LISTS or (key == "items" and isinstance(value, list)):
            if isinstance(value, list):
                for index, child in enumerate(value):
                    yield f"{key}.{index}", child
        elif key == "dependencies" and isinstance(value, Mapping):
            for name, child in value.items():
                if isinstance(child, Mapping | bool):
                    yield f"{key}.{name}", child
        elif key in SCHEMAS:
            yield key, value


class References:
    """The places of one document that can be referred to."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._resources: dict[str, Any] = {"": root}
        self._anchors: dict[tuple[str, str], Any] = {}
        self._bases: dict[int, str] = {}  # of each node, by identity: those of `root` live on
        self._index(root, "")

    def _index(self, start: Any, base: str) -> None:
        stack: list[tuple[Any, str]] = [(start, base)]
        while stack:
            node, base = stack.pop()
            if not isinstance(node, Mapping) or id(node) in self._bases:
                continue
            if len(self._bases) >= MAX_NODES:
                raise GrammarError(f"it has more than {MAX_NODES} subschemas", param="grammar")
            identifier = node.get("$id", node.get("id"))
            if isinstance(identifier, str) and identifier:
                address, anchor = _split(_join(base, identifier))
                if address and not identifier.startswith("#"):
                    base = address
                    self._resources.setdefault(base, node)
                if anchor:
                    self._anchors.setdefault((base, anchor), node)
            for key in ("$anchor", "$dynamicAnchor"):
                if isinstance(node.get(key), str):
                    self._anchors.setdefault((base, node[key]), node)
            self._bases[id(node)] = base
            stack += [(child, base) for _, child in children(node)]

    def resolve(self, node: Mapping[str, Any], reference: str) -> Any:
        """The schema that `reference`, written in `node`, points at.

        Raises GrammarError (param "grammar") where that is not in the document or no schema.
        """
        base = self._bases.get(id(node), "")
        address, fragment = _split(reference)
        if address:
            joined = _split(_join(base, address))[0]
            base = joined if joined in self._resources else address
        resources = [self._resources[base]] if base in self._resources else []
        if not address and base:
            resources.append(self._root)  # an `id` that is not an identifier changes nothing
        for resource in resources:
            for found in self._look(resource, base, fragment):
                if isinstance(found, Mapping):
                    self._index(found, base)  # a place that no keyword leads to
                    return found
                if isinstance(found, bool):
                    return found
        raise GrammarError(
            f"the reference {reference!r:.100} points at no schema in this document",
            param="grammar",
            remedy="Refer by '#', '#/$defs/NAME' or another pointer, an $anchor or an $id in it",
        )

    def _look(self, resource: Any, base: str, fragment: str) -> Iterator[Any]:
        if not fragment:
            yield resource
        elif fragment.startswith("/"):
            for decode in (unquote, str):  # as it should be written, and as it often is
                found = _point(resource, fragment, decode)
                if found is not None:
                    yield found
        else:
            for name in (unquote(fragment), fragment):
                if (base, name) in self._anchors:
                    yield self._anchors[base, name]


def _point(value: Any, pointer: str, decode: Any) -> Any:
    for part in decode(pointer).split("/")[1:] if decode is str else pointer.split("/")[1:]:
        name = decode(part).replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif (
            isinstance(value, list)
            and name.isascii()
            and name.isdecimal()
            and len(name) < 7
            and (name == "0" or name[0] != "0")
            and int(name) < len(value)
        ):
            value = value[int(name)]
        else:
            return None
    return value


def _join(base: str, reference: str) -> str:
    try:
        return urljoin(base, reference) if base else reference
    except ValueError:
        return reference


def _split(address: str) -> tuple[str, str]:
    try:
        parts = urldefrag(address)
    except ValueError:  # such as an IPv6 address that is none
        before, _, after = address.partition("#")
        return before, after
    return parts.url, parts.fragment
