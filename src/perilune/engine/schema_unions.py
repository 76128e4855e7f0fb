"""Whether exactly one branch of a `oneOf` can hold: then it is an `anyOf`, which a grammar holds.

Two branches are apart when they have no type in common, no value of their enumerations, or no value
of a required property that both enumerate (a tag).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from perilune.engine.schema_references import References

TYPES = ("null", "boolean", "object", "array", "number", "integer", "string")
MAX_BRANCHES = 64  # they are compared in pairs


def disjoint(branches: list[Any], references: References) -> bool:
    """Whether it can be seen that no value fits two branches."""
    if len(branches) == 1:
        return True
    if len(branches) > MAX_BRANCHES:
        return False
    seen = [_shape(branch, references) for branch in branches]
    return all(_apart(one, other) for n, one in enumerate(seen) for other in seen[n + 1 :])


def _shape(
    branch: Any, references: References
) -> tuple[frozenset[str], frozenset[str] | None, dict[str, Any]]:
    """(types, values as JSON or None, values of required properties) of a branch."""
    for _ in range(8):
        if isinstance(branch, Mapping) and isinstance(branch.get("$ref"), str):
            branch = references.resolve(branch, branch["$ref"])
    if not isinstance(branch, Mapping):
        return frozenset(TYPES), None, {}
    values = _values(branch)
    tags = {}
    if branch.get("type") == "object":
        properties, required = branch.get("properties") or {}, branch.get("required") or ()
        tags = {
            name: _values(properties[name])
            for name in required
            if isinstance(properties.get(name), Mapping)
        }
        tags = {name: found for name, found in tags.items() if found is not None}
    types = branch.get("type", list(TYPES))
    types = frozenset([types] if isinstance(types, str) else types)
    if values is not None:
        found = {_type_of(json.loads(value)) for value in values}
        types &= found | ({"number"} if "integer" in found else set())
    return types | ({"integer"} if "number" in types else frozenset()), values, tags


def _type_of(value: Any) -> str:
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (list, "array"),
        (dict, "object"),
    )  # fmt: skip
    return next((name for kind, name in kinds if isinstance(value, kind)), "null")


def _values(schema: Mapping[str, Any]) -> frozenset[str] | None:
    if "const" in schema:
        return frozenset({json.dumps(schema["const"], sort_keys=True)})
    if isinstance(schema.get("enum"), list):
        return frozenset(json.dumps(value, sort_keys=True) for value in schema["enum"])
    return None


def _apart(one: Any, other: Any) -> bool:
    if not one[0] & other[0]:
        return True
    if one[1] is not None and other[1] is not None and not one[1] & other[1]:
        return True
    return any(not one[2][name] & other[2][name] for name in one[2].keys() & other[2].keys())
