"""search and fetch: providers, the local corpus, pages as Markdown, evidence, and bad input."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from perilune.agent.tool import ToolContext
from perilune.agent.tools.fetch import SHOWN, Fetch
from perilune.agent.tools.search import Search
from perilune.errors import ToolError, UsageError
from perilune.search.corpus import Corpus, Document
from perilune.search.library import Library
from perilune.search.providers import (
    BraveSearch,
    CorpusSearch,
    SearxngSearch,
    TavilySearch,
    default_corpus,
    default_provider,
)
from perilune.search.web.http import GuardedClient
from perilune.search.web.net_guard import NetGuard
from tests.agent.tools.conftest import Call, serving

CLIENT = GuardedClient(NetGuard.allowing(["127.0.0.1/32"]))
HTML = {"Content-Type": "text/html; charset=utf-8"}

ARTICLE = """<html><head><title>On the Moon</title></head><body>
<nav><a href="/">Home</a><a href="/about">About us and our many friends</a></nav>
<article><h1>On the Moon</h1>
<p>The Moon is the only natural satellite of the Earth. It orbits at about 384,400 km, and
a link to <a href="https://example.com/orbit">its orbit</a> belongs here, as does some text.</p>
<table><tr><th>Name</th><th>Kilometres</th></tr><tr><td>Perilune</td><td>363300</td></tr></table>
<p>Perilune is the point of an orbit that is nearest to the Moon, with enough words around it
for a reader to take this for an article worth its own ink and its own page.</p></article>
<footer>Imprint and cookies</footer><script>var evil = 1;</script></body></html>"""

# --- fetch ---


async def test_a_page_becomes_markdown_and_evidence(call: Call, context: ToolContext) -> None:
    with serving({"/moon": (200, HTML, ARTICLE.encode())}) as port:
        url = f"http://127.0.0.1:{port}/moon"
        result = await call(Fetch(CLIENT), url=url)
    text = str(result.content)
    assert text.startswith(f"# On the Moon\n{url}\nCite as [{result.evidence[0]}]")
    assert "Perilune" in text
    assert "363300" in text
    assert "https://example.com/orbit" in text
    assert "evil" not in text
    assert "cookies" not in text
    assert context.evidence is not None
    assert "Perilune" in context.evidence.text(result.evidence[0])


async def test_a_long_page_is_read_in_parts_and_asked_for_once(call: Call) -> None:
    asked: list[str] = []
    long = "\n".join(f"line {n} with some words" for n in range(2000)).encode()

    def page(request: Any) -> tuple[int, dict[str, str], bytes]:
        asked.append(request.path)
        return 200, {"Content-Type": "text/plain"}, long

    with serving({"/": page}) as port:
        url = f"http://127.0.0.1:{port}/"
        seen, start = "", 0
        while True:
            text = str((await call(Fetch(CLIENT), url=url, start=start)).content)
            body = text.split("\n\n", 1)[1]
            part, _, tail = body.rpartition("\n[characters ")
            seen += part
            assert len(part) <= SHOWN
            if "go on with start=" not in tail:
                break
            start = int(tail.split("start=")[1].rstrip("]"))
        with pytest.raises(ToolError, match="there is no 999999"):
            await call(Fetch(CLIENT), url=url, start=999_999)
    assert seen == long.decode()
    assert asked == ["/"]


@pytest.mark.parametrize(
    ("headers", "body", "shown"),
    [
        ({"Content-Type": "application/json"}, b'{"a": [1, 2]}', '{"a": [1, 2]}'),
        ({"Content-Type": "text/plain; charset=latin-1"}, b"caf\xe9", "café"),
        ({"Content-Type": "text/plain; charset=nonsense"}, "café".encode(), "café"),
        ({"Content-Type": "application/rss+xml"}, b"<rss>news</rss>", "<rss>news</rss>"),
        ({}, b"no type at all", "no type at all"),
        (HTML, b"<html><body><p>Short.</p></body></html>", "Short."),
        (HTML, "<p>日本語のページ</p>".encode(), "日本語のページ"),
    ],
)
async def test_media_that_hold_text(
    call: Call, headers: dict[str, str], body: bytes, shown: str
) -> None:
    with serving({"/": (200, headers, body)}) as port:
        assert shown in str((await call(Fetch(CLIENT), url=f"http://127.0.0.1:{port}/")).content)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((200, {"Content-Type": "application/pdf"}, b"%PDF-1.7"), "application/pdf"),
        ((200, {"Content-Type": "image/png"}, b"\x89PNG"), "image/png"),
        ((404, HTML, b"<p>gone</p>"), "answered 404"),
        ((500, {}, b""), "answered 500"),
        ((200, HTML, b""), "holds no text"),
        ((200, {"Content-Encoding": "gzip"}, b"not gzip"), "could not be fetched"),
        ((302, {"Location": "http://["}, b""), "must not be reached"),
        ((302, {"Location": "http://[::1"}, b""), r"not a URL|could not be fetched"),
    ],
)
async def test_answers_that_give_no_text(call: Call, answer: Any, why: str) -> None:
    with serving({"/": answer}) as port:
        with pytest.raises(ToolError, match=why):
            await call(Fetch(CLIENT), url=f"http://127.0.0.1:{port}/")


async def test_fetch_with_bad_input(call: Call) -> None:
    for arguments in ({}, {"url": ""}, {"url": "x", "start": -1}, {"url": 3}):
        with pytest.raises(ToolError):
            await call(Fetch(CLIENT), **arguments)
    with pytest.raises(ToolError, match="there is no corpus 'x'"):
        await call(Fetch(CLIENT), url="corpus:x")
    with pytest.raises(ToolError, match="must not be reached"):
        await call(Fetch(), url="http://169.254.169.254/latest/meta-data/")
    with serving({}) as port:
        pass
    with pytest.raises(ToolError, match="does not answer"):
        await call(Fetch(CLIENT), url=f"http://127.0.0.1:{port}/")


async def test_hostile_html_is_only_text(call: Call) -> None:
    for body in (b"<" * 100_000, b"<div>" * 20_000, b"\xff\xfe\x00<html>", b"<html>\0\0</html>x"):
        with serving({"/": (200, HTML, body)}) as port:
            with suppress(ToolError):
                await call(Fetch(CLIENT), url=f"http://127.0.0.1:{port}/")


# --- the corpus ---


def library() -> Corpus:
    corpus = Corpus()
    corpus.add(
        [
            Document("moon", "The Moon", "A satellite. Perilune is the nearest point of an orbit."),
            Document("mars", "Mars", "A planet with two moons, Phobos and Deimos."),
            Document("tea", "Tea", "A drink of leaves; some orbit the pot."),
        ]
    )
    return corpus


async def test_search_and_fetch_offline(call: Call) -> None:
    corpus = library()
    result = await call(Search(CorpusSearch(corpus)), query="perilune orbit")
    lines = str(result.content).splitlines()
    assert lines[0] == "1. The Moon"
    assert lines[1].strip() == "corpus:moon"
    assert "nearest point" in lines[2]
    page = await call(Fetch(CLIENT, corpus), url="corpus:moon")
    assert "Perilune is the nearest point" in str(page.content)
    assert page.evidence
    with pytest.raises(ToolError, match="holds no corpus:absent"):
        await call(Fetch(CLIENT, corpus), url="corpus:absent")


async def test_the_almanac_is_searched_and_read_by_default(
    call: Call, context: ToolContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("PERILUNE_CORPUS", "PERILUNE_SEARXNG_URL", "BRAVE_API_KEY", "TAVILY_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PERILUNE_HOME", str(tmp_path / "home"))
    lines = str((await call(Search(), query="area of Chad")).content).splitlines()
    assert lines[:2] == ["1. Chad (country)", "   almanac:country/chad"]
    assert lines[2].startswith("   area = 1284000 km2 (2025, CIA World Factbook)")
    page = await call(Fetch(CLIENT), url="almanac:country/chad")
    assert str(page.content).startswith("# Chad (country)\nalmanac:country/chad\nCite as [ev:")
    assert context.evidence is not None
    assert "capital = N'Djamena" in context.evidence.text(page.evidence[0])
    with pytest.raises(ToolError, match="holds no almanac:country/atlantis"):
        await call(Fetch(CLIENT), url="almanac:country/atlantis")


async def test_corpora_of_the_user_are_searched_and_read(
    call: Call, context: ToolContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PERILUNE_CORPUS", raising=False)
    monkeypatch.setenv("PERILUNE_HOME", str(tmp_path / "home"))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("# Lunar matters\nRegolith is dust.")
    Library().add(tmp_path / "notes")
    result = await call(Search(), query="what is regolith")
    assert "corpus:notes/a.md" in str(result.content)
    page = await call(Fetch(CLIENT), url="corpus:notes/a.md")
    assert context.evidence is not None
    assert "Regolith is dust." in context.evidence.text(page.evidence[0])


def test_the_corpus_ranks_and_replaces() -> None:
    corpus = library()
    assert corpus.search("moon", 5)[0].url == "corpus:moon"  # in the title
    assert corpus.search("planets moons", 5)[0].url == "corpus:mars"
    assert corpus.add([Document("tea", "Tea", "A drink of leaves; some orbit the pot.")]) == 0
    assert corpus.add([Document("tea", "Tea", "Only leaves.")]) == 1
    assert len(corpus) == 3
    assert [hit.url for hit in corpus.search("pot", 5)] == []
    assert [hit.url for hit in corpus.search("leaves", 5)] == ["corpus:tea"]


@pytest.mark.parametrize(
    "query",
    [
        '"',
        "a OR",
        "NEAR(",
        "title:x",
        "*",
        "()",
        "-",
        "'; drop table documents; --",
        "\0",
        "^",
        "ünï",
    ],
)
def test_no_query_breaks_the_search(query: str) -> None:
    corpus = library()
    corpus.search(query, 5)
    assert len(corpus) == 3


def test_a_folder_becomes_a_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.md").write_text("# Lunar matters\nAbout regolith.")
    (tmp_path / "sub" / "b.html").write_text(ARTICLE)
    (tmp_path / "c.bin").write_bytes(b"regolith")
    monkeypatch.setenv("PERILUNE_CORPUS", str(tmp_path))
    corpus = default_corpus()
    assert corpus is not None
    assert len(corpus) == 2
    assert corpus.search("regolith", 3)[0].title == "Lunar matters"
    assert corpus.document("corpus:sub/b.html").title == "On the Moon"
    assert corpus.add_folder(tmp_path) == 0


def test_a_corpus_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "corpus.sqlite"
    first = Corpus(path)
    first.add([Document("a", "A", "kept words")])
    first.close()
    assert Corpus(path).search("kept", 1)[0].url == "corpus:a"
    (tmp_path / "none.sqlite").write_text(
        "this is no database, and long enough to be refused " * 30
    )
    with pytest.raises(UsageError, match="cannot be used as a corpus"):
        Corpus(tmp_path / "none.sqlite")
    with pytest.raises(UsageError, match="neither a folder nor a file"):
        default_corpus(str(tmp_path / "absent"))


# --- providers ---

RESULTS = [
    {"title": "One", "url": "https://one.example/", "content": "first  text", "description": "x"},
    {"title": None, "url": "https://two.example/", "content": None},
    {"title": "no address"},
    "nonsense",
]


async def test_searxng() -> None:
    asked: list[str] = []

    def answer(request: Any) -> tuple[int, dict[str, str], bytes]:
        asked.append(request.path)
        return 200, {}, json.dumps({"results": RESULTS}).encode()

    with serving({"/search": answer}) as port:
        # A person's own instance may be in the local network.
        hits = await SearxngSearch(f"http://127.0.0.1:{port}/").search("two words", 5)
    assert asked == ["/search?q=two+words&format=json"]
    assert [(hit.title, hit.url, hit.excerpt) for hit in hits] == [
        ("One", "https://one.example/", "first text"),
        ("", "https://two.example/", ""),
    ]


async def test_brave_and_tavily_send_their_keys() -> None:
    seen: dict[str, Any] = {}

    def brave(request: Any) -> tuple[int, dict[str, str], bytes]:
        seen["brave"] = (request.headers["X-Subscription-Token"], request.path)
        return 200, {}, json.dumps({"web": {"results": RESULTS}}).encode()

    def tavily(request: Any) -> tuple[int, dict[str, str], bytes]:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        seen["tavily"] = (request.headers["Authorization"], json.loads(body))
        return 200, {}, json.dumps({"results": RESULTS}).encode()

    with serving({"/brave": brave, "/tavily": tavily}) as port:
        here = f"http://127.0.0.1:{port}"
        assert (await BraveSearch("key", CLIENT, url=f"{here}/brave").search("q", 1))[0].title
        assert (await TavilySearch("key", CLIENT, url=f"{here}/tavily").search("q", 1))[0].title
    assert seen["brave"] == ("key", "/brave?q=q&count=1")
    assert seen["tavily"] == ("Bearer key", {"query": "q", "max_results": 1})


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((429, {}, b""), "429"),
        ((403, {}, b""), "403"),
        ((500, {}, b""), "500"),
        ((200, {}, b"<html>"), "JSON"),
        ((200, {}, b"[]"), "results"),
    ],
)
async def test_providers_that_fail_say_so(answer: Any, why: str) -> None:
    with serving({"/search": answer}) as port:
        with pytest.raises(ToolError, match=why):
            await SearxngSearch(f"http://127.0.0.1:{port}").search("q", 5)


async def test_a_provider_may_not_redirect_us_inside() -> None:
    inside = (302, {"Location": "http://127.0.0.2/"}, b"")
    with serving({"/search": inside}) as port:
        with pytest.raises(ToolError, match="must not be reached"):
            await SearxngSearch(f"http://127.0.0.1:{port}").search("q", 5)


def test_the_environment_chooses(tmp_path: Path) -> None:
    everything = {
        "PERILUNE_CORPUS": str(tmp_path),
        "TAVILY_API_KEY": "k",
        "BRAVE_API_KEY": "k",
        "PERILUNE_SEARXNG_URL": "http://localhost:8888",
    }
    names = []
    while everything:
        names.append(default_provider(everything).name)
        everything.popitem()
    names.append(default_provider({}).name)
    assert names == ["searxng", "brave", "tavily", "corpus", "almanac"]


async def test_search_with_bad_input(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PERILUNE_CORPUS", "PERILUNE_SEARXNG_URL", "BRAVE_API_KEY", "TAVILY_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for arguments in ({}, {"query": ""}, {"query": "x", "count": 0}, {"query": ["x"]}):
        with pytest.raises(ToolError):
            await call(Search(), **arguments)
    nothing = await call(Search(CorpusSearch(library())), query="zzzz")
    assert "nothing found" in str(nothing.content)


async def test_the_tool_takes_other_wordings(call: Call) -> None:
    corpus = Corpus()
    corpus.add([
        Document("bread", "Bakery", "Loaves come out of the oven before dawn."),
        Document("law", "Court", "Judges hear cases on Mondays."),
        Document("cars", "Garage", "Automobiles are mended here by mechanics."),
    ])  # fmt: skip
    result = await call(Search(CorpusSearch(corpus)), query="loaves", also=["judges on Mondays"])
    assert "Bakery" in str(result.content)
    assert "Court" in str(result.content)
