"""Write the tables of docs/api.md from the code that they describe. `--check` only compares."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from perilune.cli.serve import environment_name
from perilune.errors import MediaFault
from perilune.serve import kimi_strict, metrics, schema_dialect
from perilune.serve.api_error import ANTHROPIC_TYPES, OPENAI_TYPES
from perilune.serve.chat_schema import ChatCompletionBody
from perilune.serve.completions import CompletionBody
from perilune.serve.constraints import CONSTRAINTS
from perilune.serve.field_rules import IGNORED, REFUSED
from perilune.serve.fields import EXTENSIONS
from perilune.serve.media.parts import HARMLESS
from perilune.serve.media.parts import REFUSED as REFUSED_FIELDS
from perilune.serve.media_faults import code_of
from perilune.serve.routes import all_routes
from perilune.serve.settings import option_fields
from perilune.serve.thinking_switches import BUDGETS, EFFORT_BUDGETS, EFFORTS, HIDERS, SWITCHES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
_CONSTRAINTS = {
    "response_format": "OpenAI; with more types of llama.cpp, Together, Fireworks, SGLang and TGI",
    "structured_outputs": "vLLM: `json`, `regex`, `choice`, `grammar`, `json_object`, "
    "`structural_tag`, `whitespace_pattern`, `disable_any_whitespace`",
    "guided_decoding": "vLLM, the same under its older name",
    "guided_json": "vLLM: a schema, or its text",
    "guided_json_object": "vLLM: true for any object",
    "guided_regex": "vLLM: the whole answer matches",
    "guided_choice": "vLLM: one of these texts",
    "guided_grammar": "vLLM: EBNF or Lark",
    "structural_tag": "SGLang: `structures` and `triggers`",
    "grammar": 'llama.cpp: GBNF; TGI: `{"type", "value"}`',
    "json_schema": "llama.cpp, SGLang: a schema, or its text",
    "json_mode": "true for any object",
    "regex": "SGLang: the whole answer matches",
    "ebnf": "SGLang: EBNF",
    "format": "Ollama: `json` or a schema",
    "nvext": "NVIDIA NIM: `guided_*` in it",
    "guided_whitespace_pattern": "vLLM: white space that JSON may have",
}
_FAULTS = {
    MediaFault.SOURCE: "no URL, an address that is not allowed, a file that is not there",
    MediaFault.ENCODING: "a data URL that is not base64",
    MediaFault.EMPTY: "no bytes",
    MediaFault.BYTES: "more than `--max-image-bytes`, `--max-video-bytes`",
    MediaFault.COUNT: "more than `--max-images`, `--max-videos`",
    MediaFault.PIXELS: "more than `--max-image-pixels`",
    MediaFault.SIDE: "a side of more than 32,768 pixels",
    MediaFault.ZERO_SIZE: "no width or no height",
    MediaFault.FORMAT: "SVG, PDF, HEIC, BMP, text",
    MediaFault.WRONG_TYPE: "a clip as a picture; a data URL of another type",
    MediaFault.TRUNCATED: "half of a file",
    MediaFault.DAMAGED: "a header that lies, pixels that cannot be decoded",
    MediaFault.POLYGLOT: "a zip or a script in or behind the picture",
    MediaFault.WORK: "minutes of decoding from a few bytes",
    MediaFault.NO_FRAMES: "a clip of sound alone",
    MediaFault.SECONDS: "longer than `--max-video-seconds`",
    MediaFault.FRAMES: "more than 36,000 frames",
    MediaFault.PACKAGE: "a clip, and the server has no PyAV (extra `video`)",
    MediaFault.NO_VISION: "the model reads text only",
}
_BLOCK = re.compile(r"(<!-- table: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def tables() -> dict[str, str]:
    """The name of each table and its Markdown."""
    return {
        "routes": _table(
            ("route", "body", "what"),
            (
                (f"`{route.method} {route.path}`",
                 f"`{route.body.__name__}`" if route.body else "",
                 route.summary + (" No key is asked for." if route.public else ""))
                for route in all_routes()
            ),
        ),
        "chat-fields": _fields(ChatCompletionBody),
        "completion-fields": _fields(CompletionBody),
        "constraints": _table(
            ("field", "of"), ((f"`{name}`", _CONSTRAINTS[name]) for name in CONSTRAINTS)
        ),
        "extensions": ", ".join(f"`{name}`" for name in EXTENSIONS) + "\n",
        "refused": _table(
            ("field", "why", "taken all the same"),
            (
                (f"`{name}`", refusal.why or "not supported",
                 " ".join(f"`{json.dumps(value)}`" for value in refusal.neutral))
                for name, refusal in REFUSED.items()
            ),
        ),
        "ignored": _table(
            ("field", "why nothing is lost"),
            ((f"`{name}`", why) for name, why in IGNORED.items()),
        ),
        "efforts": _table(
            ("effort", "tokens of thinking"),
            (
                (f"`{name}`", "free" if budget is None else budget or "no thinking")
                for name, budget in EFFORT_BUDGETS.items()
            ),
        ),
        "thinking-names": _table(
            ("what", "names, the first of those that are given counts", "where they disagree"),
            (
                ("on or off", _names(SWITCHES), "400, with both names"),
                ("effort", _names(EFFORTS), "the first"),
                ("tokens", _names(BUDGETS), "the first, before any effort"),
                ("shown or not", _names(HIDERS), "400"),
            ),
        ),
        "kimi-rules": _table(
            ("rule", "allowed", "when", "otherwise"),
            ((f"`{r.name}`", r.allowed, r.when, f"400: {r.error}") for r in kimi_strict.RULES),
        ),
        "schema-limits": _table(
            ("limit", "at most"),
            (
                ("depth", schema_dialect.MAX_DEPTH),
                ("characters", f"{schema_dialect.MAX_CHARACTERS:,}"),
                ("properties", f"{schema_dialect.MAX_PROPERTIES:,}"),
                ("`enum` values", f"{schema_dialect.MAX_ENUM:,}"),
                ("`anyOf` branches", schema_dialect.MAX_ANY_OF),
                ("characters of one `enum`", f"{schema_dialect.MAX_ENUM_CHARACTERS:,}"),
                ("characters of a `pattern`", f"{schema_dialect.MAX_PATTERN:,}"),
                ("`maxLength` and other upper bounds", f"{schema_dialect.MAX_COUNT:,}"),
                ("`minLength` and other lower bounds", f"{schema_dialect.MAX_REPEAT:,}"),
            ),
        ),
        "error-types": _table(
            ("status", "OpenAI `type`", "Anthropic `type`"),
            (
                (status, f"`{OPENAI_TYPES.get(status, 'server_error')}`",
                 f"`{ANTHROPIC_TYPES.get(status, 'api_error')}`")
                for status in sorted({*OPENAI_TYPES, 500, 503})
            ),
        ),
        "metrics": _table(
            ("metric", "kind", "what"),
            [
                *((f"`{name}`", "gauge", text) for name, text in metrics._GAUGES.items()),
                *((f"`{name}_total`", "counter", text) for name, text in metrics._COUNTERS.items()),
                *((f"`{n}_total{{cause}}`", "counter", t) for n, t in metrics._CAUSES.items()),
                ("`request_success_total{finished_reason}`", "counter", "Answers by their end."),
                ("`request_outcomes_total{outcome}`", "counter",
                 "Requests taken: finished, client_left, or an error's code."),
                ("`accept_length`", "gauge", "Mean tokens of an output of the latest request."),
                *((f"`{name}`", "histogram", t) for name, (_, t) in metrics._HISTOGRAMS.items()),
            ],
        ),
        "media-faults": _table(
            ("`MediaError` kind", "`code`", "for example"),
            ((f"`{fault}`", f"`{code_of(fault)}`", _FAULTS[fault]) for fault in MediaFault),
        ),
        "media-fields": _table(
            ("field", "what is done", "why"),
            [
                *((f"`{name}`", "ignored", why) for name, why in HARMLESS.items()),
                *((f"`{name}`", "400", why) for name, why in REFUSED_FIELDS.items()),
            ],
        ),
        "options": _table(
            ("flag", "environment", "default", "what"),
            (_option(field) for field, _ in option_fields()),
        ),
    }  # fmt: skip


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _option(field: dataclasses.Field[Any]) -> Sequence[Any]:
    default = field.default
    shown = "" if default in (None, ()) else str(default)
    flag = "--" + field.name.replace("_", "-")
    return f"`{flag}`", f"`{environment_name(field.name)}`", shown, field.metadata["help"]


def _fields(model: type[BaseModel]) -> str:
    schema = model.model_json_schema()
    rows = []
    for name, field in schema["properties"].items():
        required = " (required)" if name in schema.get("required", ()) else ""
        rows.append((f"`{name}`{required}", _kind(field, schema.get("$defs", {}))))
    return _table(("field", "values"), rows)


def _kind(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "$ref" in field:
        field = definitions[field["$ref"].rpartition("/")[2]]
    if "anyOf" in field:
        kinds = [_kind(f, definitions) for f in field["anyOf"] if f.get("type") != "null"]
        return ", or ".join(kinds)
    if "enum" in field or "const" in field:
        return " ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    kind = str(field.get("type", "any"))
    if "properties" in field:
        inner = (f"{n}: {_kind(f, definitions)}" for n, f in field["properties"].items())
        return f"object with {'; '.join(inner)}"
    if kind == "array":
        kind = f"list of {_kind(field.get('items', {}), definitions)}"
    low = field.get("minimum", field.get("exclusiveMinimum"))
    high = field.get("maximum", field.get("exclusiveMaximum"))
    if low is not None and high is not None:
        above = "above " if "exclusiveMinimum" in field else ""
        kind += f", {above}{_number(low)} to {_number(high)}"
    for name, text in (("maxLength", "characters"), ("maxItems", ""), ("maxProperties", "")):
        if name in field:
            kind += f", at most {field[name]:,} {text}".rstrip()
    return kind


def _number(value: float) -> str:
    return f"{value:,}" if value == int(value) else str(value)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


def renew(page: str) -> str:
    """The page with its tables made anew. Raises KeyError for a table that nobody makes."""
    made = tables()
    return _BLOCK.sub(lambda match: match[1] + made[match["name"]] + match[3], page)


def main() -> int:
    page = PAGE.read_text("utf-8")
    new = renew(page)
    if "--check" in sys.argv:
        return int(new != page)
    PAGE.write_text(new, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
