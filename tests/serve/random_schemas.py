"""Random JSON schemas of the published dialect: nested, recursive, with unions, ranges, patterns.

Every schema can be met by something finite, so that a model that is held to it can finish.
"""

from __future__ import annotations

import random
from typing import Any

NAMES = (
    "type",
    "properties",
    "city",
    "größe",
    "a b",
    "$ref",
    "x-y",
    "items",
    "名前",
    "enum",
    "0",
    "",
)
WORDS = ("Oslo", "Rome", "größer", "", 'a"b\\c', "naïve\n", "🌍", "x" * 40)
PATTERNS = (
    "^[a-z]{1,4}$", "^[0-9]{3}-[0-9]{2}$", "^(yes|no)$", "[0-9]", "^a", "z", "^\\d{4}-\\d{2}$",
    "^[A-Z][a-z]+$", "^\\w{2,5}$",
)  # fmt: skip


class Schemas:
    """Schemas from one seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._definitions: dict[str, Any] = {}

    def root(self) -> dict[str, Any]:
        """The parameters of a tool: an object, perhaps with definitions, perhaps empty."""
        chance = self._random
        if chance.random() < 0.03:
            return chance.choice([{}, {"type": "object"}, {"type": "object", "properties": {}}])
        self._definitions = {}
        for name in ("node", "leaf", "Größe")[: chance.choice([0, 0, 1, 2, 3])]:
            self._definitions[name] = True  # may be referred to from here on
        finite = {
            name: self._scalar() if name == "leaf" else self._recursive(name)
            for name in self._definitions
        }
        schema = self._object(chance.choice([1, 2, 2, 3]))
        if finite:
            schema["$defs"] = finite
        if chance.random() < 0.05:  # the root inside of itself
            schema.setdefault("properties", {})["again"] = {"$ref": "#"}
            if "again" in schema.get("required", ()):
                schema["required"].remove("again")
        return schema

    def _recursive(self, name: str) -> dict[str, Any]:
        """A list or tree of itself that may end at any place."""
        reference = {"$ref": f"#/$defs/{name}"}
        shape = self._random.randrange(3)
        if shape == 0:
            return {
                "type": "object",
                "properties": {"value": self._scalar(), "next": reference},
                "required": ["value"],
                "additionalProperties": False,
            }
        if shape == 1:
            return {
                "type": "object",
                "properties": {
                    "name": self._scalar(),
                    "children": {"type": "array", "items": reference, "maxItems": 2},
                },
                "required": ["name"],
                "additionalProperties": False,
            }
        return {"anyOf": [{"type": "null"}, {"type": "array", "items": reference, "maxItems": 2}]}

    def _any(self, depth: int) -> dict[str, Any]:
        kind = self._random.random()
        if depth <= 0 or kind < 0.45:
            return self._scalar()
        if kind < 0.6:
            return self._object(depth - 1)
        if kind < 0.75:
            return self._array(depth - 1)
        if kind < 0.85:
            branches = [self._any(depth - 1) for _ in range(self._random.randint(1, 3))]
            return {"anyOf": branches}
        if kind < 0.95 and self._definitions:
            return {"$ref": f"#/$defs/{self._random.choice(list(self._definitions))}"}
        if kind < 0.97:
            return {}
        return self._union()

    def _object(self, depth: int) -> dict[str, Any]:
        chance = self._random
        names = chance.sample(NAMES, chance.randint(0, 4))
        schema: dict[str, Any] = {
            "type": "object", "properties": {name: self._any(depth) for name in names}
        }  # fmt: skip
        if names and chance.random() < 0.8:
            schema["required"] = chance.sample(names, chance.randint(0, len(names)))
        extra = chance.random()
        if extra < 0.5:
            schema["additionalProperties"] = False
        elif extra < 0.6:
            schema["additionalProperties"] = self._scalar()
        return self._notes(schema)

    def _array(self, depth: int) -> dict[str, Any]:
        low = self._random.randint(0, 2)
        schema: dict[str, Any] = {"type": "array", "items": self._any(depth)}
        if self._random.random() < 0.6:
            schema["minItems"] = low
        schema["maxItems"] = low + self._random.randint(0, 3)
        return schema

    def _union(self) -> dict[str, Any]:
        kinds = ["null", "boolean", "integer", "number", "string", "array", "object"]
        return {"type": self._random.sample(kinds, self._random.randint(1, 3))}

    def _scalar(self) -> dict[str, Any]:
        chance = self._random
        match chance.randrange(9):
            case 0:
                return self._notes({"type": "boolean"})
            case 1:
                return {"type": "null"}
            case 2:
                low = chance.randint(-1000, 1000)
                return self._some({"type": "integer"}, minimum=low,
                                  maximum=low + chance.randint(0, 5000))  # fmt: skip
            case 3:
                low = round(chance.uniform(-10, 10), chance.randint(0, 3))
                return self._some({"type": "number"}, minimum=low,
                                  maximum=low + chance.randint(1, 20))  # fmt: skip
            case 4:
                return {"type": "string", "pattern": chance.choice(PATTERNS)}
            case 5:
                low = chance.randint(0, 6)
                return self._some({"type": "string"}, minLength=low,
                                  maxLength=low + chance.randint(0, 10))  # fmt: skip
            case 6:
                return {"enum": chance.sample(WORDS, chance.randint(1, 4))}
            case 7:
                values = [0, -3, 17, 10**12] if chance.random() < 0.5 else [0.5, -2.25, 1e3]
                return {"enum": chance.sample(values, 2)}
        return self._notes({"type": "string", "maxLength": 12})

    def _some(self, schema: dict[str, Any], **bounds: Any) -> dict[str, Any]:
        """Each bound is there more often than not."""
        for name, value in bounds.items():
            if self._random.random() < 0.75:
                schema[name] = value
        return self._notes(schema)

    def _notes(self, schema: dict[str, Any]) -> dict[str, Any]:
        if self._random.random() < 0.2:
            schema["description"] = 'Some "words" of </think> use'
        if self._random.random() < 0.05:
            schema["default"] = None
        return schema
