"""The shipped almanac: its facts, its articles, and what a question finds."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.errors import ToolError, UsageError
from perilune.search.almanac import Almanac, Question, open_almanac, questions
from perilune.search.almanac.almanac import PATH
from perilune.search.almanac.questions import split_of

LARGEST = 12 * 10**6  # bytes, of the issue
WORDS = (
    *("Chad", "chad", "Georgia", "US", "us", "Fe", "iron", "FRA", "Paris", "New", "York", "Mobile"),
    *("population", "area", "capital", "of", "the", "mean", "define", "word", "airport", "code"),
    *("populaton", "Germny", "'", "-", "26", "city", "element", "what", "is", "how", "many"),
)
ENOUGH = 0.95  # of the questions find their article in the first three


@pytest.fixture(scope="module")
def almanac() -> Almanac:
    return open_almanac()


@pytest.fixture(scope="module")
def examined() -> list[Question]:
    return questions(200)


def test_the_file_is_small_and_whole() -> None:
    assert PATH.stat().st_size <= LARGEST
    database = sqlite3.connect(f"file:{PATH}?mode=ro&immutable=1", uri=True)
    assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
    (without_notice,) = database.execute(
        "select count(*) from sources where licence = '' or package = ''"
    ).fetchone()
    assert without_notice == 0


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ("Chad area", "Chad.area = 1284000 km2 (2025, CIA World Factbook)"),
        ("how many people live in Chad", "Chad.population = 19674004 people (2025,"),
        ("populaton of chad", "Chad.population = "),
        ("capital of Georgia", "Georgia.capital = Tbilisi"),
        ("curency of japn", "Japan.currency = Japanese Yen"),
        ("gdp per capita USA", "United States.GDP per capita = "),
        ("melting point of iron", "Iron.melting point = 1811.15 K"),
        ("how heavy is lead", "Lead.atomic mass = 207.2 u"),
        ("which element has the symbol Ag", "Silver.symbol = Ag"),
        ("atomic number of Mercury", "Mercury.atomic number = 80"),
        ("Mobile population", "Mobile.population = "),
        ("capital N'Djamena", "N'Djamena.capital of = Chad"),
        ("zurich population", "Zürich.population = "),
        ("Munich time zone", "Munich.time zone = Europe/Berlin"),
        ("airport code of Heathrow", "London Heathrow Airport.IATA code = LHR"),
        ("elevation of FRA airport", "Frankfurt am Main International Airport.elevation = 111 m"),
        ("define dog", "dog.definition = a member of the genus Canis"),
        ("opposite of hot", "hot.antonym = cold"),
        ("population of the world", "World.population = "),
        ("Phillipines currency", "Philippines.currency = "),
        ("birth rate in Burkina Fasso", "Burkina Faso.birth rate = "),
        ("Cincinatti population", "Cincinnati.population = "),
        ("wolfrm density", "Tungsten.density = 19.3 g/cm3"),
        ("Columbia currency", "Colombia.currency = Colombian Peso"),
        ("define mass", "mass.definition = the property of a body"),
        ("what is an airport", "airport.part of speech = noun"),
        ("IATA code of Charles de Gaulle", "Charles de Gaulle International Airport.IATA code = C"),
        ("Salt Lake City International Airport country", "Salt Lake City International Airport.co"),
        ("population of Luxembourg city", "Luxembourg.population = 76684"),
        ("how many people are online in Spain", "Spain.internet users = "),
    ],
)
def test_the_first_fact(almanac: Almanac, query: str, line: str) -> None:
    facts = almanac.facts(query, 3)
    assert facts
    assert str(facts[0]).startswith(line)


def test_two_attributes_and_none(almanac: Almanac) -> None:
    both = almanac.facts("area and population of Chad", 5)
    assert [fact.attribute for fact in both] == ["area", "population"]
    compared = almanac.facts("which has more people, Niger or Chad", 5)
    assert [fact.entity for fact in compared] == ["Niger", "Chad"]
    york = almanac.facts("New York population")
    assert [fact.entity for fact in york] == ["New York City"]
    lagos = almanac.facts("Lagos capital")  # it is none, and is not Laos either
    assert {fact.entity for fact in lagos} == {"Lagos"}
    leading = almanac.facts("Chad", 3)
    assert [fact.attribute for fact in leading] == ["population", "area", "land area"]


@pytest.mark.parametrize("style", ["plain", "colloquial"])
def test_questions_find_their_article(
    almanac: Almanac, examined: list[Question], style: str
) -> None:
    missed = []
    for question in examined:
        text = getattr(question, style)
        if question.address not in [hit.url for hit in almanac.search(text, 3)]:
            missed.append(text)
    assert len(examined) == 200
    assert len(missed) <= (1 - ENOUGH) * len(examined), missed


@pytest.mark.parametrize("style", ["plain", "colloquial"])
def test_questions_find_their_fact(almanac: Almanac, examined: list[Question], style: str) -> None:
    missed = []
    for question in examined:
        facts = almanac.facts(getattr(question, style), 3)
        wanted = (question.address, question.attribute, question.answer, question.unit)
        if wanted not in [(f.address, f.attribute, f.value, f.unit) for f in facts]:
            missed.append(getattr(question, style))
    assert len(missed) <= (1 - ENOUGH) * len(examined), missed


@pytest.mark.parametrize(("kind", "stride"), [("country", 9), ("element", 4), ("city", 50)])
def test_every_fact_is_found_by_its_name(almanac: Almanac, kind: str, stride: int) -> None:
    addresses = almanac.well_known(kind, 45 if kind == "city" else 0)[::stride]
    assert len(addresses) > 20
    for address in addresses:
        for fact in almanac.facts_of(address):
            found = almanac.facts(f"{fact.attribute} of {fact.entity}", 2)
            assert fact in found, str(fact)


def test_questions_are_a_function_of_seed_and_split(examined: list[Question]) -> None:
    assert questions(20) == examined[:20]
    assert questions(20, seed=1) != examined[:20]
    trained = questions(200, split="train")
    assert {split_of(each.address) for each in trained} == {"train"}
    assert {split_of(each.address) for each in examined} == {"exam"}


def test_what_can_be_answered(almanac: Almanac) -> None:
    assert almanac.can_answer("area of Chad")
    assert almanac.asked_for("area of Chad") == {"area"}
    for other in ("president of France", "Chad", "Lagos capital", "how are you", ""):
        assert not almanac.can_answer(other)


def test_an_article(almanac: Almanac) -> None:
    article = almanac.document("almanac:country/chad")
    assert article.title == "Chad (country)"
    assert "\narea = 1284000 km2 (2025, CIA World Factbook)\n" in article.text
    assert len(article.text) < 8000
    assert "is a city in France." in almanac.document("almanac:city/paris").text


def test_every_address_leads_to_its_article(almanac: Almanac) -> None:
    addresses = list(almanac.articles())
    assert len(addresses) == len(set(addresses)) == len(almanac)
    for address in addresses[::500]:
        assert almanac.document(address).address == address


@pytest.mark.parametrize(
    "address",
    [
        "almanac:",
        "almanac:country/",
        "almanac:country/atlantis",
        "almanac:x/chad",
        "almanac:country/chad~9",
        "almanac:country/chad~x",
        "almanac:country/chad~²",
        "corpus:chad",
        "\0",
    ],
)
def test_unknown_addresses(almanac: Almanac, address: str) -> None:
    with pytest.raises(ToolError, match="holds no"):
        almanac.document(address)


@pytest.mark.parametrize(
    "query",
    [
        *["", " ", '"', "a OR", "NEAR(", "name:x", "*", "-", "(((", "²", "\0", "\ud800", "日本"],
        *["'; drop table articles; --", "of the", "population", "a" * 5000, "who " * 500],
    ],
)
def test_no_query_breaks_it(almanac: Almanac, query: str) -> None:
    almanac.search(query, 3)
    almanac.facts(query, 3)
    assert len(almanac) > 40_000


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join))
def test_whatever_is_asked_the_answers_are_articles(query: str) -> None:
    almanac = open_almanac()
    hits, facts = almanac.search(query, 5), almanac.facts(query, 5)
    assert len(hits) <= 5
    assert len(facts) <= 5
    for hit in hits:
        assert almanac.document(hit.url).title == hit.title
    for fact in facts:
        assert fact in almanac.facts_of(fact.address)


def test_several_threads_may_ask(almanac: Almanac) -> None:
    asked = ["Chad area", "melting point of iron", "populaton of japn", "define dog"] * 8
    alone = [almanac.facts(query) for query in asked]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(almanac.facts, asked)) == alone


def test_a_file_that_is_no_almanac(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be used as an almanac"):
        Almanac(tmp_path / "absent.sqlite")
    (tmp_path / "text.sqlite").write_text("no database " * 1000)
    with pytest.raises(UsageError, match="Install the package again"):
        Almanac(tmp_path / "text.sqlite")
