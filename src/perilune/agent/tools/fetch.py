"""`fetch`: one page as Markdown, kept by its hash as evidence."""

from __future__ import annotations

from typing import Any

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import ReadingTool, in_thread
from perilune.errors import ToolError
from perilune.search.almanac import open_almanac
from perilune.search.almanac.almanac import SCHEME as ALMANAC
from perilune.search.corpus import SCHEME, Corpus
from perilune.search.library import Library
from perilune.search.providers import default_corpus
from perilune.search.web.http import GuardedClient
from perilune.search.web.pages import Text, page_text

SHOWN = 14_000
_KEPT_PAGES = 32


class Fetch(ReadingTool):
    """`client` is guarded; `corpus` answers `corpus:` addresses (default: the configured one)."""

    name = "fetch"
    timeout = 60.0

    def __init__(self, client: GuardedClient | None = None, corpus: Corpus | None = None) -> None:
        self._client = client or GuardedClient()
        self._corpus = corpus

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        url, start = str(arguments["url"]).strip(), int(arguments.get("start", 0))
        kept: dict[str, Text] = context.state.setdefault("pages", {})
        if start and url in kept:
            page = kept[url]
        else:
            page = await self._read(url)
            kept[url] = page
            while len(kept) > _KEPT_PAGES:
                del kept[next(iter(kept))]
        if not page.text.strip():
            raise ToolError(f"{url} holds no text", remedy="It may be drawn by scripts: `browse`.")
        if start >= len(page.text):
            raise ToolError(f"the page has {len(page.text)} characters; there is no {start}")
        return _show(url, page, start, context)

    async def _read(self, url: str) -> Text:
        if url.startswith(ALMANAC):
            almanac = await in_thread(open_almanac)
            article = await in_thread(almanac.document, url)
            return Text(article.title, article.text)
        if url.startswith(SCHEME):
            corpus = self._corpus
            if corpus is None:
                corpus = await in_thread(default_corpus)
            read = Library().document if corpus is None else corpus.document
            document = await in_thread(read, url)
            return Text(document.title, document.text)
        response = await self._client.get(url)
        if response.status >= 400:
            raise ToolError(f"{url} answered {response.status}")
        return await in_thread(page_text, response)


def _show(url: str, page: Text, start: int, context: ToolContext) -> ToolResult:
    evidence = []
    head = [f"# {page.title}"] if page.title else []
    head.append(url)
    if context.evidence is not None:
        kept = context.evidence.keep(url, page.text, title=page.title)
        evidence.append(kept.id)
        head.append(f"Cite as [{kept.id}]")
    end = start + SHOWN
    if end < len(page.text):
        # End at a line, so that the next part begins at one.
        end = page.text.rfind("\n", start + SHOWN // 2, end) + 1 or end
    shown = page.text[start:end]
    if start or end < len(page.text):
        shown += f"\n[characters {start} to {min(end, len(page.text))} of {len(page.text)}"
        shown += f"; go on with start={end}]" if end < len(page.text) else "]"
    return ToolResult("\n".join(head) + "\n\n" + shown, evidence=evidence)
