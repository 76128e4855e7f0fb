"""A picture as messages and events hold it: hash, type, size and tokens, never the bytes.

    {"type": "picture", "sha256": "...", "mime": "image/png", "bytes": 34120, "width": 1280,
     "height": 720, "tokens": 1196, "name": "mock.png"}

`store.PictureStore` has the bytes. Models are shown OpenAI's `image_url` parts in their place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from perilune.events import Content

TYPE = "picture"
MARKERS = 5
"""Tokens around a picture's own: begin, "image", content, end, newline."""
SUFFIXES = {"image/png": "png", "image/jpeg": "jpg", "image/gif": "gif", "image/webp": "webp"}
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Picture(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A kept picture. `width` and `height` are upright, in pixels; `tokens` by the published rule
    of K2.5, from the header; `name` is what a person or a tool called it."""

    sha256: str
    mime: str
    bytes: int
    width: int
    height: int
    tokens: int
    name: str = ""

    @property
    def id(self) -> str:
        """Short, for words."""
        return self.sha256[:8]

    @property
    def file_name(self) -> str:
        return f"{self.sha256}.{SUFFIXES[self.mime]}"

    @property
    def prompt_tokens(self) -> int:
        return self.tokens + MARKERS

    @property
    def about(self) -> str:
        """`mock.png, PNG, 1280 x 720, 34,120 bytes`: the text that can be had of it."""
        kind = self.mime.removeprefix("image/").upper()
        name = f"{self.name}, " if self.name else ""
        return f"{name}{kind}, {self.width} x {self.height}, {self.bytes:,} bytes"

    @property
    def line(self) -> str:
        """For a person who looks at a run; the file is in the run's folder."""
        return f"[picture {self.about}, {self.tokens:,} tokens, pictures/{self.file_name}]"

    @property
    def dropped(self) -> str:
        """What stands in its place when the window was too small for it."""
        name = f" ({self.name})" if self.name else ""
        return f"[picture {self.id}{name} dropped: {self.tokens:,} tokens]"

    @property
    def unseen(self) -> str:
        """What stands in its place for a model without vision."""
        return f"[picture {self.id}: {self.about}; this model cannot see it]"

    @property
    def part(self) -> dict[str, Any]:
        return {"type": TYPE, **msgspec.to_builtins(self)}


def read_part(part: Mapping[str, Any]) -> Picture | None:
    """The picture of a part; None for other parts, and for one that is not well formed."""
    if part.get("type") != TYPE:
        return None
    try:
        picture = msgspec.convert({k: v for k, v in part.items() if k != "type"}, Picture)
    except msgspec.ValidationError:
        return None
    known = picture.mime in SUFFIXES and _SHA256.fullmatch(picture.sha256)
    return picture if known and picture.tokens >= 0 else None


def pictures_of(content: Content | None) -> list[Picture]:
    """The pictures of a message's content, in order."""
    if not isinstance(content, list):
        return []
    return [found for part in content if (found := read_part(part)) is not None]


def with_words(content: Content, words: Callable[[Picture], str]) -> Content:
    """The content with text parts in place of its pictures."""
    if not isinstance(content, list) or not pictures_of(content):
        return content
    return [
        part if (found := read_part(part)) is None else {"type": "text", "text": words(found)}
        for part in content
    ]


def text_of(content: Content, words: Callable[[Picture], str] = lambda each: each.line) -> str:
    """The content as plain text; other parts become a word."""
    if isinstance(content, str):
        return content
    shown = with_words(content, words)
    assert isinstance(shown, list)
    return "\n".join(p["text"] if p.get("type") == "text" else "[image]" for p in shown)
