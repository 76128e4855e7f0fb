"""`lookup` over the almanac: questions of every sort in five languages, and any text at all."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.agent.tools.lookup import shown
from perilune.nano.training.policy import seen
from perilune.search.almanac import open_almanac
from perilune.search.almanac.language import LANGUAGES, language, tell_language
from perilune.search.almanac_facts import almanac_facts

TABLE = Path(__file__).with_name("lookup_questions.tsv").read_text("utf-8").splitlines()
TROUBLE = ["3.5 {}, area 2,5 km2?", "{} population (1.2 m)", "{} GDP $4.7bn 2023.",
           "ISO 3166-1: {} area", "area of {} in km²", "{}: area [km2]"]  # fmt: skip
COUNTRIES = ["Kenya", "Chad", "Peru", "Norway", "Japan", "Ghana", "Brazil", "India"]


@pytest.mark.parametrize("line", TABLE)
def test_the_table_of_questions(line: str) -> None:
    question, rows, *note = line.split("\t")
    found = almanac_facts().find(question)
    assert [f"{fact.entity}.{fact.attribute}" for fact in found.facts] == rows.split("; ")
    if note:
        assert note[0] in found.notes


def test_the_table_is_large_and_of_all_languages() -> None:
    assert len(TABLE) >= 150
    told = {tell_language(line.split("\t")[0].casefold().split(), line) for line in TABLE}
    assert told == set(LANGUAGES)


def test_lines_are_read_back_and_remarks_are_no_facts() -> None:
    found = almanac_facts().find("巴西和澳大利亚哪个面积更大")
    text = shown(found, ["ev:1a2b", "ev:3c4d"])
    assert [fact.id for fact in seen(text)] == ["ev:1a2b", "ev:3c4d"]
    assert "(Brazil: 巴西)" in text.splitlines()


@given(st.text(max_size=400))
@settings(max_examples=60, deadline=None)
def test_any_text_is_answered(text: str) -> None:
    found = almanac_facts().find(text)
    assert isinstance(shown(found, [""] * len(found.facts)), str)


def test_questions_with_anything_thrown_in_are_answered_in_time() -> None:
    source = random.Random(19)
    marks = "?!.,;:%$€℃°'\"’()[]{}<>|/\\+-*=_~`^@#0123456789½²٣\u202e\ud800\x00é漢"
    for _ in range(150):
        letters = list(source.choice(TABLE).split("\t")[0])
        for _ in range(source.randrange(1, 8)):
            at = source.randrange(len(letters) + 1)
            if source.random() < 0.5 and letters:
                letters[min(at, len(letters) - 1)] = source.choice(marks)
            else:
                letters.insert(at, source.choice(marks))
        begun = time.process_time()
        almanac_facts().find("".join(letters) * source.choice((1, 1, 1, 40)))
        assert time.process_time() - begun < 5


@pytest.mark.parametrize("name", COUNTRIES)
@pytest.mark.parametrize("text", TROUBLE)
def test_numbers_units_and_codes_break_nothing(name: str, text: str) -> None:
    found = almanac_facts().find(text.format(name))
    assert name in {fact.entity for fact in found.facts}


@pytest.mark.parametrize("code", LANGUAGES[1:])
def test_every_country_is_known_by_its_name_in_each_language(code: str) -> None:
    asked = {
        "de": "Hauptstadt von {}",
        "fr": "capitale : {}",
        "es": "capital de {}",
        "zh": "{}的首都",
    }
    missed = []
    countries = [
        (n, local) for (kind, n), local in language(code).local.items() if kind == "country"
    ]
    book = open_almanac()
    for name, local in countries[::6]:
        facts = book.answer(asked[code].format(local)).facts
        if not any(fact.entity == name for fact in facts):
            missed.append(name)
    assert len(missed) <= len(countries) // 60 + 1, missed


def test_rankings_are_in_order_and_of_independent_countries() -> None:
    book = open_almanac()
    for attribute in ("population", "area", "GDP", "life expectancy"):
        for least in (True, False):
            facts = book.ranked("country", attribute, least=least, count=15)
            numbers = [float(fact.value) for fact in facts]
            assert numbers == sorted(numbers, reverse=not least)
            assert not {"World", "European Union", "Antarctica", "Greenland"} & {
                f.entity for f in facts
            }
    cities = book.ranked("city", "population", count=3, country="Kenya")
    assert next(fact.entity for fact in cities) == "Nairobi"
