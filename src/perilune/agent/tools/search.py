"""`search`: a question in one or more wordings, answered by the configured provider."""

from __future__ import annotations

from typing import Any

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import ReadingTool, in_thread
from perilune.search.fused import fused_search
from perilune.search.meaning import sentence_encoder
from perilune.search.providers import SearchProvider, default_provider


class Search(ReadingTool):
    """`provider` None: the one that the environment names, looked up at the first call.

    `by_meaning`: rank by meaning too, where the encoder is installed. By default only for the
    environment's provider, so that a given one answers alike on every machine.
    """

    name = "search"
    timeout = 60.0

    def __init__(
        self, provider: SearchProvider | None = None, *, by_meaning: bool | None = None
    ) -> None:
        self._provider = provider
        self._by_meaning = provider is None if by_meaning is None else by_meaning

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        provider = self._provider
        if provider is None:
            provider = await in_thread(default_provider)
        queries = [str(each) for each in (arguments["query"], *arguments.get("also", []))]
        encoder = await in_thread(sentence_encoder) if self._by_meaning else None
        count = int(arguments.get("count", 8))
        hits = await fused_search(provider, queries, count, encoder=encoder)
        if not hits:
            said = " nor ".join(map(repr, dict.fromkeys(queries)))
            return ToolResult(f"nothing found for {said} ({provider.name})")
        lines = []
        for number, hit in enumerate(hits, 1):
            lines.append(f"{number}. {hit.title or '(no title)'}\n   {hit.url}\n   {hit.excerpt}")
        return ToolResult("\n".join(lines))
