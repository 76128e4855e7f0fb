"""`search_tools`: the tools of large MCP servers, found on demand."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from perilune.agent.tool import Tool, ToolContext, ToolResult, description_beside
from perilune.agent.tool_registry import declaration


class SearchTools:
    """Ranks tools by the words of a query (BM25 over names and descriptions)."""

    name = "search_tools"
    side_effects = False
    parallel_safe = True
    timeout: float | None = 30.0
    parameters: dict[str, Any] = {  # noqa: RUF012 (read by the registry only)
        "type": "object",
        "properties": {
            "query": {"type": "string", "minLength": 1, "maxLength": 400},
            "count": {"type": "integer", "minimum": 1, "maximum": 10, "default": 5},
        },
        "required": ["query"],
        "additionalProperties": False,
    }

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = list(tools)
        self._words = [Counter(_words(f"{tool.name} {tool.description}")) for tool in self._tools]

    @property
    def description(self) -> str:
        text = description_beside(__file__)
        return f"{text}\nThere are {len(self._tools)} of them."

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        found = self.rank(str(arguments["query"]), int(arguments.get("count", 5)))
        if not found:
            names = ", ".join(tool.name for tool in self._tools[:100])
            return ToolResult(f"no tool fits; there are: {names}")
        for tool in found:
            context.reveal(tool.name)
        shown = [json.dumps(declaration(tool)["function"], ensure_ascii=False) for tool in found]
        return ToolResult("\n".join(shown))

    def rank(self, query: str, count: int) -> list[Tool]:
        """The tools that fit best, best first; only those that share a word with the query."""
        average = sum(words.total() for words in self._words) / max(1, len(self._words))
        scores: list[tuple[float, int]] = []
        for number, words in enumerate(self._words):
            score = 0.0
            for word in set(_words(query)):
                holding = sum(word in other for other in self._words)
                if word in words:
                    weight = math.log(1 + (len(self._tools) - holding + 0.5) / (holding + 0.5))
                    length = 0.25 + 0.75 * words.total() / average
                    score += weight * words[word] * 2.2 / (words[word] + 1.2 * length)
            if score > 0:
                scores.append((-score, number))
        return [self._tools[number] for _, number in sorted(scores)[:count]]


def _words(text: str) -> list[str]:
    """Words in lower case; names are taken apart, plain plurals lose their s."""
    apart = re.sub(r"([a-z])([A-Z])", r"\1 \2", text).replace("_", " ").lower()
    return [word.rstrip("s") if len(word) > 3 else word for word in re.findall(r"[a-z0-9]+", apart)]
