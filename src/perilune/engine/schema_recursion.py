"""References of a schema that lead back to themselves, found before a grammar is made of it.

The grammar library compiles such a circle and fails when the first token is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from perilune.errors import GrammarError


def check_recursion(root: Any, definitions: Mapping[str, Any]) -> None:
    """References that lead back to themselves with nothing read in between.

    A branch of a union that does so adds nothing to the union and is dropped; elsewhere nothing
    could match. References with more beside them, inside of what they refer to, lose the rest.
    Raises GrammarError.
    """
    nodes = {"": root, **definitions}
    direct = {name: set(_direct(node)) for name, node in nodes.items()}
    if any(name in reach(name, direct) for name in nodes):
        for name, node in nodes.items():
            _drop_circular(node, name, direct)
        direct = {name: set(_direct(node)) for name, node in nodes.items()}
        if any(name in reach(name, direct) for name in nodes):
            raise GrammarError(
                "a reference leads back to itself with nothing in between",
                param="grammar",
                remedy="Refer to it from a property or an item",
            )


def _direct(node: Any) -> Iterator[str]:
    """Definitions whose value would be this node's own value."""
    if not isinstance(node, Mapping):
        return
    if "$ref" in node:
        yield definition_of(node["$ref"])
    for key in ("anyOf", "allOf"):
        for child in node.get(key, ()):
            yield from _direct(child)


def definition_of(reference: str) -> str:
    return reference.removeprefix("#").removeprefix("/$defs/")


def mentioned(node: Any) -> Iterator[str]:
    """Definitions that are referred to anywhere in a node (of our own writing)."""
    if isinstance(node, list):
        for item in node:
            yield from mentioned(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref" and isinstance(value, str):
                yield definition_of(value)
            elif key in ("properties", "patternProperties"):
                for child in value.values():
                    yield from mentioned(child)
            elif key not in ("enum", "const", "$defs"):
                yield from mentioned(value)


def reach(name: str, direct: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(direct[name])
    while waiting:
        other = waiting.pop()
        if other not in found:
            found.add(other)
            waiting += direct[other]
    return found


def _drop_circular(node: Any, name: str, direct: Mapping[str, set[str]]) -> None:
    if not isinstance(node, dict):
        return
    branches = node.get("anyOf")
    if branches:
        kept = []
        for branch in branches:
            reached = set(_direct(branch))
            reached |= {other for start in reached for other in reach(start, direct)}
            if name not in reached:
                kept.append(branch)
        if kept:
            node["anyOf"] = kept
