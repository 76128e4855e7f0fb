"""Turns a fetched body into text that a model can read: HTML to Markdown, text as it is."""

from __future__ import annotations

from dataclasses import dataclass

from perilune.errors import ToolError
from perilune.search.web.http import Page

_HTML = frozenset({"text/html", "application/xhtml+xml", ""})
_TEXT = frozenset(
    {"application/json", "application/xml", "application/javascript", "application/x-ndjson"}
    | {"application/yaml", "application/toml", "application/rss+xml", "application/atom+xml"}
)
_LARGEST_TREE = 4 << 20


@dataclass(frozen=True, slots=True)
class Text:
    """A page as text: Markdown for HTML."""

    title: str
    text: str


def page_text(page: Page) -> Text:
    """The readable text of a page. Raises `ToolError` for media that hold none."""
    kind = page.media_type
    if kind in _HTML and _looks_like_html(page.body):
        return html_text(page.body, page.url)
    if kind.startswith("text/") or kind in _TEXT or kind.endswith(("+json", "+xml")) or not kind:
        return Text("", decode(page.body, page.charset))
    raise ToolError(
        f"{page.url[:200]} is {kind} ({len(page.body)} bytes), which cannot be read as text"
    )


def html_text(body: bytes, url: str) -> Text:
    """An HTML page's own content as Markdown; without a recognisable article, all of its text."""
    import trafilatura

    if len(body) > _LARGEST_TREE:
        body = body[:_LARGEST_TREE]
    document = trafilatura.load_html(body)
    if document is None:
        return Text("", decode(body, None))
    title = (document.findtext(".//title") or "").strip()
    markdown = trafilatura.extract(
        document,
        url=url,
        output_format="markdown",
        include_links=True,
        include_tables=True,
        include_formatting=True,
        favor_recall=True,
    )
    if not markdown:
        for useless in document.xpath("//script|//style|//noscript|//template"):
            useless.drop_tree()
        lines = (" ".join(line.split()) for line in document.text_content().splitlines())
        markdown = "\n".join(line for line in lines if line)
    return Text(" ".join(title.split()), markdown)


def decode(body: bytes, charset: str | None) -> str:
    """Text of a body: the announced encoding, else UTF-8, with marks for what does not fit."""
    try:
        return body.decode(charset or "utf-8", "replace")
    except LookupError:
        return body.decode("utf-8", "replace")


def _looks_like_html(body: bytes) -> bool:
    head = body[:2048].lstrip().lower()
    return head.startswith((b"<", b"\xef\xbb\xbf<")) or b"<html" in head or b"<body" in head
