"""Question forms: how people ask, collected from independent authors, and which half each is in.

A form is a text with slots (`{a}`, `{value}`, ...) and what it asks for. Each file of `forms/` is
of one author, who saw nobody else's. Every tenth author's forms are for examinations and are never
trained on; a form that an author of the other half wrote alike is left out of training.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final, Literal, get_args

from perilune.search.almanac.text import key

LANGUAGES: Final = ("en", "de", "fr", "es", "zh")
HELD_OUT_EVERY: Final = 10  # authors
SLOTS: Final = frozenset(
    ("a", "b", "c", "d", "e", "list", "value", "k", "x", "y", "p", "word")
)  # fmt: skip
Kind = Literal[
    "fact", "reverse", "yesno", "yesno_compare", "two_hop", "three_hop", "compare2",
    "compare_many", "sum", "difference", "share", "ratio", "topk", "listing", "table", "unit",
    "year", "arithmetic", "percentage", "definition", "smalltalk", "beyond", "distractor",
]  # fmt: skip
KINDS: Final[tuple[str, ...]] = get_args(Kind)
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Form:
    """One way to ask. `asks`: what the text itself fixes (attribute, of, direction, path, ...)."""

    author: int
    kind: str
    language: str
    text: str
    asks: dict[str, Any]

    @property
    def slots(self) -> list[str]:
        """In the order of the text; a slot may come twice."""
        return _SLOT.findall(self.text)

    @property
    def held_out(self) -> bool:
        return self.author % HELD_OUT_EVERY == 0

    def fill(self, **values: str) -> str:
        """The text with its slots filled. Raises KeyError for one that has no value."""
        return _SLOT.sub(lambda match: values[match[1]], self.text)


@cache
def all_forms() -> tuple[Form, ...]:
    """Every form, by author and line."""
    folder = resources.files("perilune.nano.training") / "forms"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".jsonl")), key=lambda f: f.name)
    return tuple(form for file in files for form in _read(file.name, file.read_text("utf-8")))


def examination_forms() -> tuple[Form, ...]:
    """The forms of every tenth author. Nothing is trained or tuned on them."""
    return tuple(form for form in all_forms() if form.held_out)


@cache
def training_forms() -> tuple[Form, ...]:
    """The other authors' forms, but for those that read like one of the examination's."""
    asked = {likeness(form.text) for form in examination_forms()}
    return tuple(
        form for form in all_forms() if not form.held_out and likeness(form.text) not in asked
    )


def likeness(text: str) -> str:
    """Equal for texts that differ in case, accents, punctuation or the names of slots only."""
    return key(_SLOT.sub(" slot ", text)) or text


def _read(name: str, text: str) -> Iterator[Form]:
    author = int(re.findall(r"\d+", name)[-1])
    for line in text.splitlines():
        asks = json.loads(line)
        yield Form(author, asks.pop("kind"), asks.pop("lang"), asks.pop("text"), asks)
