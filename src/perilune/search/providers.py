"""Who answers a search: the local corpus, SearXNG, Brave or Tavily, behind one protocol."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

from perilune.errors import ToolError, UsageError
from perilune.search.almanac import Almanac, open_almanac
from perilune.search.corpus import Corpus, Hit
from perilune.search.library import Library
from perilune.search.web.http import GuardedClient, Page
from perilune.search.web.net_guard import NetGuard

SEARXNG = "PERILUNE_SEARXNG_URL"
BRAVE = "BRAVE_API_KEY"
TAVILY = "TAVILY_API_KEY"
CORPUS = "PERILUNE_CORPUS"
ALMANAC = "almanac"

_EXCERPT = 400


class SearchProvider(Protocol):
    """Answers queries. Raises `ToolError` for a failure that the model should read."""

    @property
    def name(self) -> str: ...

    async def search(self, query: str, count: int) -> list[Hit]: ...


class CorpusSearch:
    """The local corpus: no network, and the same answer every time."""

    name = "corpus"

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    async def search(self, query: str, count: int) -> list[Hit]:
        return await asyncio.to_thread(self._corpus.search, query, count)


class LibrarySearch:
    """The almanac of the package and the user's corpora: no network, and always there."""

    def __init__(self, almanac: Almanac | None = None, library: Library | None = None) -> None:
        self._almanac = almanac
        self._library = library or Library()

    @property
    def name(self) -> str:
        return ", ".join(["almanac", *self._library.names()])

    async def search(self, query: str, count: int) -> list[Hit]:
        return await asyncio.to_thread(self.search_now, query, count)

    def search_now(self, query: str, count: int, names: Sequence[str] | None = None) -> list[Hit]:
        """The hits of all, or of some corpora by name (`almanac` is one), in turns, first those
        with all words of the query. The almanac comes first where it has the very fact.

        Raises `UsageError` for an unknown name.
        """
        lists: list[list[Hit]] = []
        own = None if names is None else [name for name in names if name != ALMANAC]
        if own is None or own:
            lists = self._library.search(query, count, own, any_word=False)
        if names is None or ALMANAC in names:
            almanac = self._almanac or open_almanac()
            place = 0 if almanac.can_answer(query) else len(lists)
            lists.insert(place, almanac.search(query, count))
        hits = list(dict.fromkeys(_in_turns(lists)))
        if len(hits) < count and (own is None or own):
            more = _in_turns(self._library.search(query, count, own))
            seen = {hit.url for hit in hits}
            hits += [hit for hit in more if hit.url not in seen]
        return hits[:count]


class SearxngSearch:
    """A SearXNG instance with its JSON format switched on.

    Source: docs.searxng.org, "Search API". The instance's own host may be in the local network:
    it was named by the person, not by a page.
    """

    name = "searxng"

    def __init__(self, url: str, client: GuardedClient | None = None) -> None:
        self._url = url.rstrip("/")
        self._client = client or GuardedClient(_guard_for(url))

    async def search(self, query: str, count: int) -> list[Hit]:
        address = (
            f"{self._url}/search?{urlencode({'q': query, 'format': 'json'}, errors='replace')}"
        )
        answer = _json(await self._client.get(address), self.name)
        return _hits(answer.get("results"), "content")[:count]


class BraveSearch:
    """Brave's web search. Source: api-dashboard.search.brave.com, "Web Search API"."""

    name = "brave"

    def __init__(self, key: str, client: GuardedClient | None = None, *, url: str = "") -> None:
        self._key = key
        self._url = url or "https://api.search.brave.com/res/v1/web/search"
        self._client = client or GuardedClient()

    async def search(self, query: str, count: int) -> list[Hit]:
        address = f"{self._url}?{urlencode({'q': query, 'count': count}, errors='replace')}"
        headers = {"Accept": "application/json", "X-Subscription-Token": self._key}
        answer = _json(await self._client.get(address, headers=headers), self.name)
        web = answer.get("web")
        return _hits(web.get("results") if isinstance(web, dict) else None, "description")[:count]


class TavilySearch:
    """Tavily's search. Source: docs.tavily.com, "POST /search"."""

    name = "tavily"

    def __init__(self, key: str, client: GuardedClient | None = None, *, url: str = "") -> None:
        self._key = key
        self._url = url or "https://api.tavily.com/search"
        self._client = client or GuardedClient()

    async def search(self, query: str, count: int) -> list[Hit]:
        answer = _json(
            await self._client.request(
                "POST",
                self._url,
                headers={
                    "Authorization": f"Bearer {self._key}",
                    "Content-Type": "application/json",
                },
                body=json.dumps({"query": query, "max_results": count}).encode(),
            ),
            self.name,
        )
        return _hits(answer.get("results"), "content")[:count]


def default_provider(environment: Mapping[str, str] | None = None) -> SearchProvider:
    """The provider that the environment names: an instance, a key, a local corpus; else the
    almanac with the user's corpora."""
    named = os.environ if environment is None else environment
    if named.get(SEARXNG):
        return SearxngSearch(named[SEARXNG])
    if named.get(BRAVE):
        return BraveSearch(named[BRAVE])
    if named.get(TAVILY):
        return TavilySearch(named[TAVILY])
    corpus = default_corpus(named.get(CORPUS, ""))
    return LibrarySearch() if corpus is None else CorpusSearch(corpus)


def default_corpus(path: str | None = None) -> Corpus | None:
    """The corpus that `PERILUNE_CORPUS` names: a database file, or a folder that is indexed."""
    path = os.environ.get(CORPUS, "") if path is None else path
    return _open_corpus(path) if path else None


@lru_cache(maxsize=4)
def _open_corpus(path: str) -> Corpus:
    place = Path(path).expanduser()
    if place.is_dir():
        corpus = Corpus()
        corpus.add_folder(place)
        return corpus
    if not place.is_file():
        raise UsageError(f"{CORPUS} names {place}, which is neither a folder nor a file")
    return Corpus(place)


def _in_turns(lists: list[list[Hit]]) -> list[Hit]:
    """The first of each list, then the second of each, and so on."""
    return [hit for rank in zip_longest(*lists) for hit in rank if hit is not None]


def _guard_for(url: str) -> NetGuard:
    """A guard that lets a person's own instance pass, wherever it is."""
    return NetGuard(hosts=frozenset({(urlsplit(url).hostname or "").lower()}))


def _json(page: Page, provider: str) -> dict[str, Any]:
    if page.status == 429:
        raise ToolError(f"{provider} refuses more searches for now (429)", remedy="Wait a while.")
    if page.status in (401, 403):
        raise ToolError(f"{provider} refuses the search ({page.status}): its key or its settings")
    if page.status >= 400:
        raise ToolError(f"{provider} answered {page.status}")
    try:
        answer = json.loads(page.body)
    except ValueError:
        raise ToolError(f"{provider} did not answer with JSON") from None
    if not isinstance(answer, dict):
        raise ToolError(f"{provider} answered with something other than results")
    return answer


def _hits(results: object, excerpt: str) -> list[Hit]:
    """The usable entries of a provider's result list."""
    hits: list[Hit] = []
    for entry in results if isinstance(results, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("url"), str):
            text = " ".join(str(entry.get(excerpt) or "").split())[:_EXCERPT]
            hits.append(Hit(str(entry.get("title") or ""), entry["url"], text))
    return hits
