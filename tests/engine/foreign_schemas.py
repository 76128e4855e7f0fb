"""Random valid JSON schemas as programs of all kinds write them, of every draft.

References in every form (pointers through any keyword, escaped and percent-encoded, anchors, ids,
the root), constants, formats, exclusive bounds, tuples, unions, dictionaries, older drafts' forms,
and keywords that no grammar can hold. What is recursive can end.
"""

from __future__ import annotations

import random
from typing import Any
from urllib.parse import quote

NAMES = ("a", "b/c", "d~e", "f g", "größe", "%41", "$ref", "items", "", "x", "properties", 'q"')
FORMATS = ("date", "time", "date-time", "duration", "uuid", "uuid4", "ipv4", "base64", "int32",
           "password", "color", "json-pointer")  # fmt: skip
PATTERNS = ("^[a-z]{1,3}$", "^\\d{2}-\\d{2}$", "^(yes|no)$", "^[A-Z]\\d?$", "^a|b$", "[0-9]",
            "^[^\\s\"]{1,4}$", "^(?=.*\\d)[a-z\\d]{2,4}$", "^(?!x)[a-z]{1,3}$",
            "^(?!^[-+.]*$)[+-]?0*\\d*\\.?\\d*$", "^\\bfoo$")  # fmt: skip
UNHELD: tuple[dict[str, Any], ...] = (
    {"not": {"enum": ["nothing of this"]}}, {"uniqueItems": True}, {"contains": {}},
    {"if": {"type": "null"}, "then": {"type": "null"}}, {"dependentRequired": {"q": ["r"]}},
    {"propertyNames": {"not": {"const": "zzz"}}}, {"dependencies": {"q": ["r"]}},
)  # fmt: skip


class ForeignSchemas:
    def __init__(self, seed: int, *, unheld: bool = True) -> None:
        self._random = random.Random(seed)
        self._unheld = unheld
        self._references: list[str] = []

    def root(self) -> dict[str, Any]:
        chance = self._random
        definitions: dict[str, Any] = {}
        key = chance.choice(["$defs", "$defs", "definitions", "x-types"])
        self._references = []
        for name in chance.sample(NAMES, chance.randint(0, 3)):
            definitions[name] = self._value(1)
            place = f"#/{key}/{name.replace('~', '~0').replace('/', '~1')}"
            if chance.random() < 0.2 and key != "x-types":
                definitions[name] = {**definitions[name], "$anchor": f"anchor{len(definitions)}"}
                place = f"#anchor{len(definitions)}"
            elif (
                chance.random() < 0.2 and key != "x-types" and "$ref" not in str(definitions[name])
            ):
                # A pointer inside of it would be one into this part.
                definitions[name] = {**definitions[name], "$id": f"part{len(definitions)}.json"}
                place = f"part{len(definitions)}.json"
            elif chance.random() < 0.6 or "%" in name:
                place = "#" + quote(place[1:], safe="/~$")
            self._references.append(place)
        self._references += ["#/properties/first"] * bool(chance.random() < 0.5)
        schema = self._object(2)
        references, self._references = self._references, []
        schema["properties"] = {"first": self._scalar(), **schema["properties"]}
        self._references = references
        if chance.random() < 0.3:
            again = {"anyOf": [{"type": "null"}, {"$ref": "#"}]}
            schema["properties"]["again"] = again
        if definitions:
            schema[key] = definitions
        if chance.random() < 0.3:
            schema["$id"] = chance.choice(["https://example.org/s.json", "urn:x:y"])
            if schema["$id"].startswith("urn"):  # nothing can be joined to it
                schema.pop("$id")
        if chance.random() < 0.2:
            schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        return schema

    def _value(self, depth: int) -> dict[str, Any]:
        chance = self._random
        kind = chance.random()
        if self._references and kind < 0.2:
            return {"$ref": chance.choice(self._references)}
        if depth <= 0 or kind < 0.5:
            schema = self._scalar()
        elif kind < 0.65:
            schema = self._object(depth - 1)
        elif kind < 0.75:
            schema = self._array(depth - 1)
        elif kind < 0.8:
            tags = [self._tagged(tag, depth - 1) for tag in ("one", "two")]
            schema = {"oneOf": tags, "discriminator": {"propertyName": "kind"}}
        elif kind < 0.85:
            schema = {"anyOf": [self._value(depth - 1), {"type": "null"}]}
        elif kind < 0.9:
            schema = {"allOf": [self._scalar(), {"description": "all"}]}
        else:
            schema = self._dictionary()
        if self._unheld and chance.random() < 0.1:
            schema = {**schema, **chance.choice(UNHELD)}
        return schema

    def _object(self, depth: int) -> dict[str, Any]:
        names = self._random.sample(NAMES, self._random.randint(0, 3))
        return {
            "type": "object",
            "properties": {name: self._value(depth) for name in names},
            "required": [name for name in names if self._random.random() < 0.7],
            "additionalProperties": False,
        }

    def _tagged(self, tag: str, depth: int) -> dict[str, Any]:
        schema = self._object(depth)
        schema["properties"]["kind"] = {"const": tag}
        schema["required"].append("kind")
        return schema

    def _array(self, depth: int) -> dict[str, Any]:
        low = self._random.randint(0, 2)
        if self._random.random() < 0.4:
            parts = [self._value(depth) for _ in range(2)]
            return {"type": "array", "prefixItems": parts, "items": False, "minItems": 2}
        return {"type": "array", "items": self._value(depth), "minItems": low,
                "maxItems": low + self._random.randint(0, 2)}  # fmt: skip

    def _dictionary(self) -> dict[str, Any]:
        names = self._random.choice(
            [None, {"enum": ["a", "b"]}, {"pattern": "^[a-z]{1,2}$"}, {"format": "date"},
             {"minLength": 1, "maxLength": 3}]
        )  # fmt: skip
        schema: dict[str, Any] = {"type": "object", "additionalProperties": self._scalar()}
        if names is not None:
            schema["propertyNames"] = names
        elif self._random.random() < 0.3:
            values = schema.pop("additionalProperties")
            schema |= {"patternProperties": {"^k[0-9]$": values}, "additionalProperties": False}
        return schema

    def _scalar(self) -> dict[str, Any]:
        chance = self._random
        low = chance.randint(-50, 50)
        match chance.randrange(10):
            case 0:
                return {"const": chance.choice(["a", 1, None, True, "ü\n", [1, {"x": "y"}]])}
            case 1:
                return {"type": "string", "const": "only", "title": "T"}
            case 2:
                return {"type": "string", "format": chance.choice(FORMATS), "maxLength": 60}
            case 3:
                return {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": low + 9}
            case 4:
                return {"type": "number", "exclusiveMinimum": low, "maximum": low + 2.5}
            case 5:  # draft 4
                return {"type": "integer", "minimum": low, "exclusiveMinimum": True,
                        "maximum": low + 5, "exclusiveMaximum": False}  # fmt: skip
            case 6:
                return {"type": "string", "pattern": chance.choice(PATTERNS), "default": "?"}
            case 7:
                return {"enum": chance.sample(["x", "y", 3, 2.5, None, False], 2)}
            case 8:
                return {"type": ["string", "null"], "maxLength": 3, "examples": ["x"]}
        return {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100}
