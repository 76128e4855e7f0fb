"""Tool definitions -> the text of the `tool_declare` message, as JSON (K2, K2 Thinking).

The TypeScript form of K2.5 is in typescript.py. Both start from keys sorted at every depth, so
that the same tools give the same prompt whatever wrote them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from perilune.chat import typescript
from perilune.errors import ChatError

MAX_SCHEMA_DEPTH = 100


def read_tools(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Check tool definitions and sort their keys at every depth.

    Raises ChatError naming the tool and the field. Tools of other types than `function` (builtin
    functions of an endpoint) are kept as they are.
    """
    if isinstance(tools, str | Mapping) or not isinstance(tools, Sequence):
        raise ChatError("must be a list of tools", param="tools")
    for index, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise ChatError("must be an object", param=f"tools[{index}]")
        if not isinstance(tool.get("type"), str):
            raise ChatError(
                "is missing",
                param=f"tools[{index}].type",
                remedy='A tool is {"type": "function", "function": {"name", "parameters"}}',
            )
        if tool["type"] != "function":
            continue
        function = tool.get("function")
        if not isinstance(function, Mapping):
            raise ChatError("must be an object", param=f"tools[{index}].function")
        if not isinstance(function.get("name"), str) or not function["name"]:
            raise ChatError("must be a non-empty string", param=f"tools[{index}].function.name")
    return [_sorted(tool, f"tools[{i}]", 0) for i, tool in enumerate(tools)]


def as_json(tools: Sequence[Mapping[str, Any]]) -> str:
    """Tools (from `read_tools`) as compact JSON with sorted keys."""
    return json.dumps(tools, ensure_ascii=False, separators=(",", ":"))


def as_typescript(tools: Sequence[Mapping[str, Any]]) -> str:
    """Tools (from `read_tools`) as TypeScript; as JSON where a schema has no such form."""
    try:
        return typescript.declare(tools) or as_json(tools)
    except typescript.NoTypeScriptForm:
        return as_json(tools)


def _sorted(value: Any, where: str, depth: int) -> Any:
    if depth > MAX_SCHEMA_DEPTH:
        raise ChatError(f"nested deeper than {MAX_SCHEMA_DEPTH}", param=where)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ChatError("an object has a key that is not a string", param=where)
        return {key: _sorted(value[key], where, depth + 1) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_sorted(item, where, depth + 1) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ChatError(f"a {type(value).__name__} cannot be written as JSON", param=where)
