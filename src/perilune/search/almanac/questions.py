"""Questions with known answers about the almanac: for tests, training and examinations.

A question is a pure function of the almanac, the seed and the split. The splits have no entity in
common: which one an entity belongs to follows from the hash of its address, so what is examined has
not been trained on.
"""

from __future__ import annotations

import hashlib
import random
import tomllib
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

from perilune.search.almanac.almanac import Almanac, Fact, open_almanac

Split = Literal["exam", "train"]
COLLOQUIAL = ("colloquial", "unseen")
"""How people type questions; the second set was written without knowledge of the first, of the
aliases and of any training data; how nano's card came to its figure is told there."""

_PHRASINGS = Path(__file__).with_name("questions.toml")
_EXAM_SHARE = 5  # one entity of so many is for examinations
_SHARES = {"country": 0.4, "city": 0.2, "element": 0.2, "airport": 0.1, "word": 0.1}
KNOWN_CITY = 45  # weight: about half a million inhabitants
KNOWN_AIRPORT = 40  # international ones


@dataclass(frozen=True, slots=True)
class Question:
    """One fact, asked for in three ways. `answer` and `unit` are the fact's value and unit."""

    plain: str
    colloquial: str
    unseen: str
    address: str
    kind: str
    entity: str
    attribute: str
    answer: int | float | str
    unit: str


def questions(
    count: int = 200, *, seed: int = 0, split: Split = "exam", almanac: Almanac | None = None
) -> list[Question]:
    """`count` questions, no two for the same fact. Raises `ValueError` if there are fewer facts."""
    random_source = random.Random(f"almanac questions {seed} {split}")  # noqa: S311
    unseen = random.Random(f"unseen {seed} {split}")  # noqa: S311
    book = almanac or open_almanac()
    phrasings = phrasings_by_kind()
    made: dict[tuple[str, str], Question] = {}
    for _ in range(count * 50):
        if len(made) == count:
            break
        kind = random_source.choices(list(_SHARES), list(_SHARES.values()))[0]
        attribute = random_source.choice(list(phrasings[kind]))
        address = random_source.choice(pool(kind, split, book))
        fact = next((f for f in book.facts_of(address) if f.attribute == attribute), None)
        if fact is None or (address, attribute) in made:
            continue
        ways = phrasings[kind][attribute]
        made[address, attribute] = _question(
            fact, random_source.choice(ways["plain"]), random_source.choice(ways["colloquial"]),
            unseen.choice(ways["unseen"]),
        )  # fmt: skip
    if len(made) < count:
        raise ValueError(f"the almanac has facts for {len(made)} questions, not for {count}")
    return list(made.values())


def split_of(address: str) -> Split:
    """The split that an entity belongs to."""
    digest = hashlib.sha256(address.encode()).digest()
    return "exam" if int.from_bytes(digest[:4], "big") % _EXAM_SHARE == 0 else "train"


def _question(fact: Fact, plain: str, colloquial: str, unseen: str) -> Question:
    entity = fact.entity
    # People who type in a hurry do not care for capitals.
    hasty = entity if fact.kind == "airport" else entity.lower()
    return Question(
        plain.format(e=entity), colloquial.format(e=hasty), unseen.format(e=hasty),
        fact.address, fact.kind, entity, fact.attribute, fact.value, fact.unit,
    )  # fmt: skip


@cache
def phrasings_by_kind() -> dict[str, dict[str, dict[str, list[str]]]]:
    """Kind -> attribute -> "plain", "colloquial" or "unseen" -> phrasings with `{e}` (entity)."""
    loaded: dict[str, dict[str, dict[str, list[str]]]] = tomllib.loads(
        _PHRASINGS.read_text("utf-8")
    )
    return loaded


@lru_cache(maxsize=32)
def pool(kind: str, split: Split, almanac: Almanac | None = None) -> list[str]:
    """The addresses of a kind that one can ask for by name: well known, and the first of theirs."""
    book = almanac or open_almanac()
    least = {"city": KNOWN_CITY, "airport": KNOWN_AIRPORT}
    return [each for each in book.well_known(kind, least.get(kind, 0)) if split_of(each) == split]
