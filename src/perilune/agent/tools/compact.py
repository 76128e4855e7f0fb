"""The tools of a small model: two, declared in a few words, answering in short lines."""

from __future__ import annotations

from typing import Any

from perilune.agent.tool import Tool
from perilune.agent.tools.lookup.facts import FactStore
from perilune.agent.tools.lookup.tool import Lookup
from perilune.agent.tools.python.tool import Python


class CompactPython(Python):
    """`python` with the one argument that a calculation needs."""

    @property
    def description(self) -> str:
        return "Calculate."

    @property
    def parameters(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {"code": {"type": "string"}},
            "required": ["code"],
            "additionalProperties": False,
        }


def compact_tools(store: FactStore | None = None) -> list[Tool]:
    """`lookup` over a store of facts (default: the almanac) and `python`."""
    return [Lookup(store), CompactPython()]
