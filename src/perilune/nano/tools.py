"""The tools of a small model: two, declared in a few words, answering in short lines."""

from __future__ import annotations

from typing import Any

from perilune.agent.tool import Tool
from perilune.agent.tools.lookup import Lookup
from perilune.agent.tools.python.tool import Python
from perilune.search.facts import FactStore


class CompactLookup(Lookup):
    @property
    def description(self) -> str:
        return "Find facts."

    @property
    def parameters(self) -> dict[str, Any]:
        return _one_text("query")


class CompactPython(Python):
    @property
    def description(self) -> str:
        return "Calculate."

    @property
    def parameters(self) -> dict[str, Any]:
        return _one_text("code")


def compact_tools(store: FactStore | None = None) -> list[Tool]:
    """`lookup` over a store of facts (default: the almanac) and `python`."""
    return [CompactLookup(store), CompactPython()]


def _one_text(name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": "string"}},
        "required": [name],
        "additionalProperties": False,
    }
