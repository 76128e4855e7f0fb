"""`lookup`: facts by a few words, one short line each, with the id to cite it by.

Made for small models: the answer to a question is one line that can be copied.
"""

from __future__ import annotations

from typing import Any

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import ReadingTool, in_thread
from perilune.search.facts import Fact, FactStore, Found

MOST_NAMED = 6
"""Attributes named where another one was asked for."""
EVIDENCE_DIGITS = 4
"""Digits of an evidence id here: fewer to copy; the store adds some where two would be equal."""


class Lookup(ReadingTool):
    """`store` None: the almanac."""

    name = "lookup"
    timeout = 30.0

    def __init__(self, store: FactStore | None = None) -> None:
        self._store = store

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        query = str(arguments["query"])
        store = self._store
        if store is None:
            from perilune.search.almanac_facts import almanac_facts

            store = await in_thread(almanac_facts)
        found = await in_thread(store.find, query)

        def cite(fact: Fact) -> str:
            if context.evidence is None:
                return ""
            kept = context.evidence.keep(
                fact.address, fact.whole, title=fact.entity, digits=EVIDENCE_DIGITS
            )
            return kept.id

        return ToolResult(shown(found, [cite(fact) for fact in found.facts]))


def shown(found: Found, ids: list[str]) -> str:
    """What the model reads: a line for each fact with its id, or why there is none."""
    if found.facts:
        lines = [
            f"{fact.line} [{id_}]" if id_ else fact.line
            for fact, id_ in zip(found.facts, ids, strict=True)
        ]
        if found.more:
            lines.append(f"({found.more} more)")
        lines += found.notes
        return "\n".join(lines)
    if found.entities:
        more = ", ..." if len(found.known) > MOST_NAMED else "."
        return f"Not found. {found.entities[0]} has: {', '.join(found.known[:MOST_NAMED])}{more}"
    return "Not found."
