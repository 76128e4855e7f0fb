"""`recall`: the tool that finds again what the model is no longer shown.

Nothing is ever lost to a compaction: the whole history is in the journal, and this tool searches it
by words or shows one call's output again.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from perilune.agent.context.view import content_text
from perilune.agent.journal.state import RunState
from perilune.agent.tool import ToolContext, ToolResult

NAME = "recall"
EXCERPT = 800
MOST_RESULTS = 5


class Recall:
    """Searches the history of one run."""

    name = NAME
    description = (Path(__file__).parent / "recall.md").read_text("utf-8").strip()
    parameters: dict[str, Any] = {  # noqa: RUF012
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "Words to look for, most telling first."},
            "call_id": {"type": "string", "description": "Show the output of this call again."},
        },
        "additionalProperties": False,
        "minProperties": 1,
    }
    side_effects = False
    parallel_safe = True
    timeout: float | None = 30.0

    def __init__(self, state: RunState) -> None:
        self._state = state

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        if "call_id" in arguments:
            return self._one(arguments["call_id"])
        return self._search(arguments["query"])

    def _one(self, call_id: str) -> ToolResult:
        for message in self._state.messages:
            if message.get("tool_call_id") == call_id:
                return ToolResult(message["content"])
        return ToolResult(f"There was no call {call_id!r} in this run.", is_error=True)

    def _search(self, query: str) -> ToolResult:
        words = list(dict.fromkeys(re.findall(r"\w+", query.casefold())))
        found: list[tuple[int, int, str]] = []
        for i, message in enumerate(self._state.messages):
            if message.get("name") == NAME:
                continue
            text = content_text(message.get("content") or "")
            folded = text.casefold()
            hits = [word for word in words if word in folded]
            if hits:
                whole_query = query.casefold() in folded
                found.append((len(hits) + len(words) * whole_query, i, text))
        found.sort(reverse=True)
        if not found:
            return ToolResult(f"Nothing in this run mentions {query!r}.")
        parts = [
            f"### {self._label(i)}\n{_excerpt(text, query, words)}"
            for _, i, text in found[:MOST_RESULTS]
        ]
        if len(found) > MOST_RESULTS:
            parts.append(f"({len(found) - MOST_RESULTS} weaker matches are not shown.)")
        return ToolResult("\n\n".join(parts))

    def _label(self, index: int) -> str:
        message, origin = self._state.messages[index], self._state.origins[index]
        if origin == "tool":
            return f"output of {message['name']}, call {message['tool_call_id']}"
        return f"{origin} message"


def _excerpt(text: str, query: str, words: list[str]) -> str:
    """The part of the text around its best match."""
    if len(text) <= EXCERPT:
        return text
    folded = text.casefold()
    at = folded.find(query.casefold())
    if at < 0:
        places = [place for word in words if (place := folded.find(word)) >= 0]
        at = max(places, key=lambda place: _density(folded, place, words))
    start = max(0, at - EXCERPT // 3)
    before, after = "..." if start else "", "..." if start + EXCERPT < len(text) else ""
    return f"{before}{text[start : start + EXCERPT]}{after}"


def _density(folded: str, place: int, words: list[str]) -> int:
    window = folded[max(0, place - EXCERPT // 3) : place + 2 * EXCERPT // 3]
    return sum(word in window for word in words)
