"""Turns a Markdown report into one HTML file that refers to nothing outside of itself.

Raw HTML in the Markdown is shown as text. Pictures are put in as data; a link to somewhere else
becomes its words and its address. A content security policy forbids what is left.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from perilune.agent.evidence.passages import GROUP, ID
from perilune.errors import ToolError

if TYPE_CHECKING:
    from markdown_it.token import Token

MOST_PICTURES = 40 << 20
"""Bytes of all pictures together."""
_TYPES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"),
)  # fmt: skip
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'"
)
_CONTENTS_FROM = 3
"""Sections from which on there is a table of contents."""


@dataclass(frozen=True, slots=True)
class SourceLine:
    """What the list of sources says of one."""

    title: str
    address: str


@dataclass(slots=True)
class Page:
    """`read` gives the bytes of a picture by its path, `about` what is known of an evidence id."""

    read: Callable[[str], bytes]
    about: Callable[[str], SourceLine]
    numbers: dict[str, int] = field(default_factory=dict)
    headings: list[tuple[int, str, str]] = field(default_factory=list)
    pictures: int = 0

    def html(self, markdown: str) -> str:
        """The whole file. Raises `ToolError` for a picture that cannot be put in."""
        from markdown_it import MarkdownIt

        parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
        tokens = parser.parse(markdown)
        self._prepare(tokens)
        body = parser.renderer.render(tokens, parser.options, {})
        title = next((text for level, text, _ in self.headings if level == 1), "Report")
        style = Path(__file__).with_name("page.css").read_text("utf-8")
        parts = [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{style}</style></head><body><main>",
            self._with_contents(body),
            self._sources(),
            "</main></body></html>",
        ]
        return "\n".join(part for part in parts if part) + "\n"

    def _prepare(self, tokens: list[Token]) -> None:
        """Rewrite what would lead outside, and number citations and headings."""
        for place, token in enumerate(tokens):
            if token.type == "heading_open":
                text = GROUP.sub("", tokens[place + 1].content).strip()
                anchor = f"section-{len(self.headings) + 1}"
                self.headings.append((int(token.tag[1:]), text, anchor))
                token.attrSet("id", anchor)
            elif token.type == "table_open":
                token.type, token.tag, token.content = (
                    "html_block",
                    "",
                    '<div class="table"><table>\n',
                )
            elif token.type == "table_close":
                token.type, token.tag, token.content = "html_block", "", "</table></div>\n"
            elif token.type == "inline" and token.children:
                token.children = self._inline(token.children)
                if self._is_picture(token.children) and place:
                    tokens[place - 1].hidden = tokens[place + 1].hidden = True

    def _inline(self, children: list[Token]) -> list[Token]:
        from markdown_it.token import Token

        def raw(html: str) -> Token:
            return Token("html_inline", "", 0, content=html)

        out: list[Token] = []
        targets: list[str] = []
        for child in children:
            if child.type == "image":
                out.append(raw(self._picture(str(child.attrs.get("src", "")), child.content)))
            elif child.type == "link_open":
                targets.append(str(child.attrs.get("href", "")))
                if targets[-1].startswith("#"):
                    out.append(child)
            elif child.type == "link_close":
                target = targets.pop()
                if target.startswith("#"):
                    out.append(child)
                else:
                    out.append(raw(f' <span class="address">({escape(target)})</span>'))
            elif child.type == "text":
                # No break between a word and its citation.
                out += [
                    raw(self._cite(piece)) if GROUP.fullmatch(piece) else _text(piece)
                    for piece in re.split(rf"\s*({GROUP.pattern})", child.content)
                    if piece
                ]
            else:
                out.append(child)
        return out

    def _cite(self, group: str) -> str:
        links = []
        for each in ID.findall(group):
            number = self.numbers.setdefault(each, len(self.numbers) + 1)
            links.append(f'<a href="#source-{number}">{number}</a>')
        return f'<span class="cite">[{", ".join(links)}]</span>'

    def _picture(self, path: str, words: str) -> str:
        if re.match(r"[a-z][a-z0-9+.-]*:|//", path, re.I):
            raise ToolError(
                f"the picture {path[:100]} is not in the workspace; nothing was written"
            )
        from urllib.parse import unquote

        data = self.read(unquote(path))
        self.pictures += len(data)
        if self.pictures > MOST_PICTURES:
            raise ToolError(f"the pictures have more than {MOST_PICTURES >> 20} MiB together")
        kind = next((kind for magic, kind in _TYPES if data.startswith(magic)), "")
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            kind = "image/webp"
        if b"<svg" in data[:1000]:
            kind = "image/svg+xml"
        if not kind:
            raise ToolError(f"{path} is not a PNG, JPEG, GIF, WebP or SVG picture")
        encoded = base64.b64encode(data).decode("ascii")
        shown = escape(words, quote=True)
        caption = f"<figcaption>{shown}</figcaption>" if words else ""
        return f'<figure><img alt="{shown}" src="data:{kind};base64,{encoded}">{caption}</figure>'

    def _is_picture(self, children: list[Token]) -> bool:
        """A paragraph of pictures alone stands without its `<p>`."""
        shown = [c for c in children if c.type != "softbreak" and (c.content or c.type != "text")]
        return bool(shown) and all(c.content.startswith("<figure>") for c in shown)

    def _with_contents(self, body: str) -> str:
        sections = [(text, anchor) for level, text, anchor in self.headings if level == 2]
        if len(sections) < _CONTENTS_FROM:
            return body
        items = "".join(
            f'<li><a href="#{anchor}">{escape(text)}</a></li>' for text, anchor in sections
        )
        head, end, rest = body.partition("</h1>")
        contents = f"<nav><ol>{items}</ol></nav>"
        return f"{head}{end}\n{contents}{rest}" if end else f"{contents}{body}"

    def _sources(self) -> str:
        if not self.numbers:
            return ""
        lines = []
        for each, number in self.numbers.items():
            source = self.about(each)
            title = f"{escape(source.title)} " if source.title else ""
            lines.append(
                f'<li id="source-{number}">{title}<span class="address">{escape(source.address)} '
                f"<code>{each}</code></span></li>"
            )
        return f'<section class="sources"><h2>Sources</h2><ol>{"".join(lines)}</ol></section>'


def _text(content: str) -> Token:
    from markdown_it.token import Token

    return Token("text", "", 0, content=content)
