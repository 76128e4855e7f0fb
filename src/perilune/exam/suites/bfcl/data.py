"""The questions, answers and function documents that `bfcl-eval` ships, read as data.

The package's own modules are not used to read them: importing its evaluation brings every vendor's
client. Functions are declared as OpenAI-shaped tools by the rules of its `convert_to_tool`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from perilune.exam.suites.suite import require

PACKAGE = "bfcl-eval"
INSTALL = (
    "--no-deps bfcl-eval, and pip install mpmath (what it asks for else, its own runner needs)"
)

SINGLE: Mapping[str, str] = {
    "simple": "simple_python",
    "multiple": "multiple",
    "parallel": "parallel",
    "parallel_multiple": "parallel_multiple",
    "live_simple": "live_simple",
    "live_multiple": "live_multiple",
    "live_parallel": "live_parallel",
    "live_parallel_multiple": "live_parallel_multiple",
    "irrelevance": "irrelevance",
}
"""Categories of one turn, and their files. Java and JavaScript are left out."""
MULTI_TURN: Mapping[str, str] = {
    "multi_turn": "multi_turn_base",
    "multi_turn_miss_func": "multi_turn_miss_func",
    "multi_turn_miss_param": "multi_turn_miss_param",
    "multi_turn_long_context": "multi_turn_long_context",
}
_DOCUMENTS: Mapping[str, str] = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TwitterAPI": "posting_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "VehicleControlAPI": "vehicle_control",
}
"""API class -> its module, and its document of the same name."""

_TYPES: Mapping[str, str] = {
    "integer": "integer",
    "number": "number",
    "float": "number",
    "string": "string",
    "boolean": "boolean",
    "bool": "boolean",
    "array": "array",
    "list": "array",
    "tuple": "array",
    "dict": "object",
    "object": "object",
}
_HINT = " Note that the provided function is in Python 3 syntax."


@dataclass(frozen=True, slots=True)
class Entry:
    """One question. `turns` are the messages of each turn; `truth` is the ground truth: possible
    answers of a single turn, or call texts a turn. `functions` are as the package documents them.
    """

    id: str
    turns: Sequence[Sequence[Mapping[str, Any]]]
    functions: Sequence[Mapping[str, Any]]
    truth: Sequence[Any]
    classes: Sequence[str] = ()
    initial: Mapping[str, Any] | None = None
    held_out: Mapping[int, Sequence[str]] | None = None


def version() -> str:
    return f"{PACKAGE} {require(PACKAGE, INSTALL)}"


@cache
def folder() -> Path:
    """Where the data lie. Raises UsageError where the package is missing."""
    require(PACKAGE, INSTALL)
    spec = find_spec("bfcl_eval")
    assert spec is not None and spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / "data"


@cache
def entries(category: str) -> tuple[Entry, ...]:
    """All questions of a category."""
    name = SINGLE.get(category) or MULTI_TURN[category]
    file = f"BFCL_v4_{name}.json"
    truths: dict[str, Any] = {}
    if category != "irrelevance":
        truths = {row["id"]: row["ground_truth"] for row in _rows(f"possible_answer/{file}")}
    return tuple(_entry(row, truths.get(row["id"], [])) for row in _rows(file))


def _entry(row: Mapping[str, Any], truth: Sequence[Any]) -> Entry:
    if "involved_classes" not in row:
        functions = [
            {**each, "description": each["description"] + _HINT} for each in row["function"]
        ]
        return Entry(row["id"], row["question"], functions, truth)
    functions = [
        {**each, "description": each["description"] + _HINT}
        for name in row["involved_classes"]
        for each in _rows(f"multi_turn_func_doc/{_DOCUMENTS[name]}.json")
    ]
    held_out = {int(turn): names for turn, names in row.get("missed_function", {}).items()}
    return Entry(
        row["id"],
        row["question"],
        functions,
        truth,
        row["involved_classes"],
        row["initial_config"],
        held_out,
    )


@cache
def _rows(name: str) -> tuple[dict[str, Any], ...]:
    text = (folder() / name).read_text("utf-8")
    return tuple(json.loads(line) for line in text.splitlines() if line.strip())


def module_of(api: str) -> str:
    """The package's module that simulates an API."""
    base = "bfcl_eval.eval_checker.multi_turn_eval.func_source_code"
    return f"{base}.{_DOCUMENTS[api]}"


def tool_name(function: str) -> str:
    """A function's name as servers allow it: without dots."""
    return function.replace(".", "_")


def declaration(function: Mapping[str, Any]) -> dict[str, Any]:
    """A function as an OpenAI-shaped tool."""
    parameters = function["parameters"]
    return {
        "type": "function",
        "function": {
            "name": tool_name(function["name"]),
            "description": function["description"],
            "parameters": {
                "type": "object",
                "properties": {
                    name: _schema(each) for name, each in parameters["properties"].items()
                },
                "required": list(parameters.get("required", ())),
            },
        },
    }


def _schema(given: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter's schema in JSON Schema's words: a type that they have not is a string."""
    kind = given.get("type")
    schema: dict[str, Any] = {"type": _TYPES.get(str(kind), "string")}
    if "description" in given:
        schema["description"] = given["description"]
        if kind == "float":
            schema["description"] += " This is a float type value."
    for key in ("enum", "default"):
        if key in given:
            schema[key] = given[key]
    if isinstance(given.get("properties"), dict):
        schema["properties"] = {name: _schema(each) for name, each in given["properties"].items()}
        if isinstance(given.get("required"), list):
            schema["required"] = given["required"]
    if isinstance(given.get("items"), dict):
        schema["items"] = _schema(given["items"])
    return schema
