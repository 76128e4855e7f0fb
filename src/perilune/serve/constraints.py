"""What the answer must match, by whatever name a client says it.

OpenAI's `response_format`; vLLM's `guided_*` and `structured_outputs`; SGLang's `regex`, `ebnf`,
`json_schema` and `structural_tag`; llama.cpp's and TGI's `grammar`; Ollama's `format`. All become
one `Grammar`. What cannot be held is a 400 that names the field: a constraint is never dropped.

Sources: the API references of these servers, Fireworks and Together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from perilune.engine.ecma_pattern import translate
from perilune.engine.foreign_grammars import structural_tags
from perilune.engine.sampling_params import FREE_WHITESPACE, Grammar, GrammarKind
from perilune.errors import RequestError
from perilune.serve.api_error import ApiError, invalid
from perilune.serve.request import Constraint
from perilune.serve.schema_dialect import check_schema

MAX_REGEX = 4096
MAX_GRAMMAR = 64 * 1024
MAX_CHOICES = 1000
MAX_CHOICE_CHARACTERS = 75_000
_SPACE = r"(?:[ \n\t\r]|\\[sntr]|\\x(?:20|0[9AaDd]))"
_TIMES = r"(?:[*+?]|\{\d{1,3}(?:,\d{0,3})?\})?"
_PIECE = rf"(?:{_SPACE}|\[{_SPACE}+\]){_TIMES}"
_PIECES = rf"(?:{_PIECE})*(?:\|(?:{_PIECE})*)*"
_WHITESPACE = re.compile(rf"(?:{_PIECE}|\((?:\?:)?{_PIECES}\){_TIMES}|\|)*")
_JSON_SPACE = r"\x20\x0A\x0D\x09"


@dataclass(frozen=True, slots=True)
class _Reading:
    """One field being read. dialect: schemas are held to Moonshot's dialect (`--kimi-strict`)."""

    field: str
    dialect: bool = False

    def fail(self, what: str) -> ApiError:
        return invalid(f"{self.field}: {what}", self.field)

    def text(self, value: Any, most: int, what: str = "") -> str:
        name = f"{what} " if what else ""
        if not isinstance(value, str) or not value:
            raise self.fail(f"{name}must be text that is not empty")
        if len(value) > most:
            raise self.fail(f"{name}has {len(value)} characters, at most {most}")
        return value

    # --- the kinds of constraints ---

    def schema(self, value: Any, *, strict: bool = False, default: bool = True) -> Constraint:
        """`strict` as the client gave it; in the dialect it is `default` where it did not."""
        if isinstance(value, str):  # as SGLang's clients send it
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise self.fail("is not JSON") from None
        left_out = check_schema(
            value, self.field, strict=strict, dialect=self.dialect and (strict or default)
        )
        return Constraint(Grammar.json_schema(value), self.field, left_out)

    def regex(self, value: Any, what: str = "") -> Constraint:
        try:
            found = translate(self.text(value, MAX_REGEX, what))
        except RequestError as error:
            raise self.fail(error.message) from None
        if not found.exact or len(found.patterns) > 1:
            raise self.fail(
                "look-around, word boundaries and back references are nothing that a grammar can"
                " hold; write the expression without them"
            )
        return Constraint(Grammar.regex(found.patterns[0]), self.field)

    def grammar(self, value: Any, what: str = "") -> Constraint:
        return Constraint(Grammar.gbnf(self.text(value, MAX_GRAMMAR, what)), self.field)

    def choice(self, value: Any) -> Constraint:
        if (
            not isinstance(value, list)
            or not 0 < len(value) <= MAX_CHOICES
            or not all(isinstance(text, str) for text in value)
        ):
            raise self.fail(f"must be a list of 1 to {MAX_CHOICES} texts")
        if sum(map(len, value)) > MAX_CHOICE_CHARACTERS:
            raise self.fail(f"its texts have more than {MAX_CHOICE_CHARACTERS} characters")
        if not any(value):
            raise self.fail("must hold a text that is not empty")
        return Constraint(Grammar.choice(list(dict.fromkeys(value))), self.field)

    def json_object(self, value: Any) -> Constraint:
        if not isinstance(value, bool):
            raise self.fail("must be true or false")
        return Constraint(Grammar.json_object() if value else None, self.field)

    def structural_tag(self, value: Any) -> Constraint:
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise self.fail("is not JSON") from None
        if not isinstance(value, Mapping):
            raise self.fail("must be an object")
        if value.get("format") is not None:
            raise self.fail(
                "a tag with a format is not held here; send structures (begin, schema, end) and"
                " triggers"
            )
        left_out: list[str] = []
        structures = value.get("structures")
        for number, structure in enumerate(structures if isinstance(structures, list) else ()):
            if isinstance(structure, Mapping):
                place = f"{self.field}.structures.{number}.schema"
                left_out += check_schema(structure.get("schema"), place)
        wanted = {"structures": structures, "triggers": value.get("triggers")}
        try:
            structural_tags(wanted)
        except RequestError as error:
            raise self.fail(error.message) from None
        return Constraint(Grammar(GrammarKind.STRUCTURAL_TAG, wanted), self.field, tuple(left_out))

    def any_form(self, value: Any) -> Constraint:
        """llama.cpp's text; TGI's `{"type", "value"}`."""
        return self.form(value) if isinstance(value, Mapping) else self.grammar(value)

    def json_or_schema(self, value: Any) -> Constraint:
        """Ollama's `format`."""
        if value == "":
            return Constraint()
        return self.json_object(True) if value == "json" else self.schema(value)

    def named_schema(self, value: Any) -> Constraint:
        """A schema, or one in OpenAI's wrapping."""
        if (
            isinstance(value, Mapping)
            and isinstance(value.get("schema"), Mapping)
            and not value.keys() - {"name", "schema", "strict", "description"}
        ):
            return self.schema(value["schema"], strict=value.get("strict") is True)
        return self.schema(value)

    # --- objects with several ---

    def form(self, value: Mapping[str, Any]) -> Constraint:
        """`response_format` and what is written like it."""
        kind = value.get("type")
        used: tuple[str, ...]
        match kind:
            case "text":
                used, found = (), Constraint(None, self.field)
            case "json_object" | "json":
                used = ("schema", "json_schema", "value")
                key = next((k for k in used if value.get(k) is not None), None)
                found = self.json_object(True) if key is None else self.named_schema(value[key])
            case "json_schema" if (
                value.get("json_schema") is None
                and (schema := value.get("schema", value.get("value"))) is not None
            ):  # as llama.cpp, Together and TGI take it
                used = ("schema", "value")
                found = self.schema(schema, strict=value.get("strict") is True)
            case "json_schema":
                used, found = ("json_schema",), self._json_schema(value.get("json_schema"))
            case "regex" | "grammar" | "gbnf" | "ebnf" | "lark" | "choice":
                used = _FORM_KEYS[kind]
                key = next((k for k in used if value.get(k) is not None), used[0])
                read = {"regex": self.regex, "choice": self.choice}.get(kind, self.grammar)
                found = read(value.get(key))
            case "structural_tag":
                inner = value.get("structural_tag")
                used = ("structural_tag", "format", "structures", "triggers")
                found = self.structural_tag(inner or value)
            case _:
                raise self.fail(
                    f"its type {kind!r:.60} is not text, json_object, json_schema, regex, grammar,"
                    " choice or structural_tag"
                )
        for key in _CONSTRAINING - set(used):
            if value.get(key) is not None:
                raise self.fail(f"{key} means nothing with the type {kind}")
        return found

    def _json_schema(self, form: Any) -> Constraint:
        if not isinstance(form, Mapping):
            raise self.fail("json_schema is missing")
        name, schema, strict = form.get("name"), form.get("schema"), form.get("strict")
        if not isinstance(name, str) or not name or len(name) > 64:
            raise self.fail("json_schema.name must be text of 1 to 64 characters")
        if not isinstance(schema, Mapping):
            raise self.fail("json_schema.schema must be an object")
        if strict is not None and not isinstance(strict, bool):
            raise self.fail("json_schema.strict must be true or false")
        if not isinstance(form.get("description", ""), str | None):
            raise self.fail("json_schema.description must be text")
        return self.schema(schema, strict=strict is True, default=strict is not False)

    def structured_outputs(self, value: Any) -> Constraint:
        """vLLM's, which its older clients send as `guided_decoding`."""
        if not isinstance(value, Mapping):
            raise self.fail("must be an object")
        found = Constraint(None, self.field)
        for key, given in value.items():
            if given is None or key in _BACKEND or (given is False and key in _SWITCHES):
                continue
            if key in _SWITCHES:
                if key != "disable_any_whitespace":
                    raise self.fail(f"{key} is not held here")
            elif key == "whitespace_pattern":
                continue
            elif key in _STRUCTURED:
                inner = replace(self, field=f"{self.field}.{key}")
                found = _one(found, _STRUCTURED[key](inner, given))
            else:
                raise self.fail(f"{key!r:.60} is not known")
        pattern = value.get("whitespace_pattern")
        if pattern is None and value.get("disable_any_whitespace") is False:
            pattern = FREE_WHITESPACE
            return _with_whitespace(found, pattern)
        if pattern is None:
            return found
        field = f"{self.field}.whitespace_pattern"
        return _with_whitespace(found, whitespace_of(pattern, field))

    def nvext(self, value: Any) -> Constraint:
        """NVIDIA NIM's object of extensions: the constraints in it."""
        if not isinstance(value, Mapping):
            raise self.fail("must be an object")
        found = Constraint(None, self.field)
        for key, given in value.items():
            if given is None:
                continue
            if not key.startswith("guided_") or key not in CONSTRAINTS:
                raise self.fail(f"{key!r:.60} is not known; send it beside the other fields")
            inner = replace(self, field=f"{self.field}.{key}")
            found = _one(found, CONSTRAINTS[key](inner, given))
        return found


Reader = Callable[[_Reading, Any], Constraint]
_FORM_KEYS: Mapping[str, tuple[str, ...]] = {
    "regex": ("regex", "pattern", "value"), "choice": ("choice", "choices", "value"),
    "grammar": ("grammar", "value"), "gbnf": ("gbnf", "grammar", "value"),
    "ebnf": ("ebnf", "grammar", "value"), "lark": ("lark", "grammar", "value"),
}  # fmt: skip
_CONSTRAINING = frozenset(
    {"schema", "json_schema", "value", "structural_tag", "format", "structures", "triggers"}
    | {key for keys in _FORM_KEYS.values() for key in keys}
)
_STRUCTURED: Mapping[str, Reader] = {
    "json": _Reading.schema,
    "regex": _Reading.regex,
    "choice": _Reading.choice,
    "grammar": _Reading.grammar,
    "json_object": _Reading.json_object,
    "structural_tag": _Reading.structural_tag,
}
_SWITCHES = frozenset({"disable_any_whitespace", "disable_additional_properties"})
_BACKEND = frozenset({"backend", "_backend", "_backend_was_auto", "disable_fallback"})
# The fields that constrain the answer, in every API that generates.
CONSTRAINTS: Mapping[str, Reader] = {
    "response_format": _Reading.form,
    "structured_outputs": _Reading.structured_outputs,
    "guided_decoding": _Reading.structured_outputs,
    "guided_json": _Reading.schema,
    "guided_json_object": _Reading.json_object,
    "guided_regex": _Reading.regex,
    "guided_choice": _Reading.choice,
    "guided_grammar": _Reading.grammar,
    "structural_tag": _Reading.structural_tag,
    "grammar": _Reading.any_form,
    "json_schema": _Reading.named_schema,
    "json_mode": _Reading.json_object,
    "regex": _Reading.regex,
    "ebnf": _Reading.grammar,
    "format": _Reading.json_or_schema,
    "nvext": _Reading.nvext,
    "guided_whitespace_pattern": lambda reading, value: Constraint(None, reading.field),
}


def read_constraint(
    fields: Mapping[str, Any], *, dialect: bool = False, own: Constraint | None = None
) -> Constraint:
    """The one constraint among the fields of a body (all of them; others are not looked at).

    own: that of the API's own field, where it has another name. Raises ApiError, also where two
    say different things.
    """
    found = own or Constraint()
    for name, read in CONSTRAINTS.items():
        value = fields.get(name)
        if value is None:
            continue
        reading = _Reading(name, dialect)
        if name == "response_format" and not isinstance(value, Mapping):
            raise reading.fail("must be an object")
        found = _one(found, read(reading, value))
    pattern = fields.get("guided_whitespace_pattern")
    if pattern is not None:
        name = "guided_whitespace_pattern"
        found = _with_whitespace(found, whitespace_of(pattern, name))
    return found


def read_form(value: Mapping[str, Any], field: str, *, dialect: bool = False) -> Constraint:
    """An object like `response_format` under another name. Raises ApiError."""
    return _Reading(field, dialect).form(value)


def whitespace_of(pattern: Any, field: str) -> str:
    """A client's pattern of the white space in JSON, which may hold nothing else."""
    if not isinstance(pattern, str) or len(pattern) > 64 or not _WHITESPACE.fullmatch(pattern):
        raise invalid(f"{field}: must be a short expression of white space only", field)
    parts = re.split(r"(\\.|\[|\])", pattern)
    in_class = False
    for n, part in enumerate(parts):
        if part in ("[", "]"):
            in_class = part == "["
        elif part == "\\s":  # of JSON, which has four
            parts[n] = _JSON_SPACE if in_class else f"[{_JSON_SPACE}]"
    return "".join(parts)


def _with_whitespace(found: Constraint, whitespace: str) -> Constraint:
    if found.grammar is None or not found.grammar.is_json:
        return found  # nothing there that could have white space of this kind
    return replace(found, grammar=replace(found.grammar, whitespace=whitespace))


def _one(before: Constraint, after: Constraint) -> Constraint:
    if after.grammar is None or before.grammar == after.grammar:
        return before
    if before.grammar is not None:
        raise invalid(
            f"{before.field} and {after.field} both constrain the answer; send one", after.field
        )
    return after
