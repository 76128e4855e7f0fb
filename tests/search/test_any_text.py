"""Every text is a query: FTS5's grammar, marks, numbers, halves of characters, and great length."""

from __future__ import annotations

from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.errors import ToolError
from perilune.search.almanac import open_almanac
from perilune.search.almanac_facts import almanac_facts
from perilune.search.corpus import Corpus, Document
from perilune.search.fts import tokens
from perilune.search.library import Library
from perilune.search.providers import LibrarySearch

ODD = [
    "what is 3.5", "3.5", "v1.2.3-rc.4", "b-12", "AND", "OR", "NOT", "a AND OR b", "NEAR(a b, 3)",
    "title:x", "a:b*", "^a", "a*", "*", '"', '""', "'", '"a', "a+b", "(", ")", "((a)", "{a}: b",
    "- a", "-", "--", "...", "_", "_a_", "a_b", "\0", "a\0b", "\ud800", "\udfff a", "日本語 3.5",
    "中国 人口", "नमस्ते", "\U0001e4d0", "😀", "👨‍👩‍👧", "é" * 3, "e\u0301", "１２．５", "½", "²",
    "U.S. 3.5% of GDP", "5,5 %", "1/2", "C++", "C#", "Chad's", "10\u202f000", "\u2028", "\ufeffx",
]  # fmt: skip
LONG = ["a" * 100_000, "é" * 100_000, "a/" * 50_000, "3.5 " * 25_000, "." * 100_000, "日" * 99_999]
ADDRESSES = ["almanac:city/paris~" + "9" * 30, "almanac:city/paris~" + "1" * 5000,
             "almanac:city/\ud800", "almanac:country/\0", "almanac:",
             "almanac:city/paris~²"]  # fmt: skip


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Library:
    folder = tmp_path_factory.mktemp("notes")
    (folder / "valve.md").write_text("# Valve\n\nThe relief valve opens at 3.5 bar.\n")
    (folder / "other.md").write_text("# Other\n\nStep 3 takes 5 minutes; at 35 bar it bursts.\n")
    library = Library(tmp_path_factory.mktemp("home"))
    library.add(folder, "notes")
    return library


def _ask_everything(query: str, library: Library) -> None:
    almanac = open_almanac()
    hits = almanac.search(query, 3)
    assert len(hits) <= 3
    assert len(almanac.facts(query, 3)) <= 3
    assert almanac.can_answer(query) in (True, False)
    assert almanac.asked_for(query) is not None
    found = almanac_facts().find(query)
    assert len(found.facts) <= 4
    assert len(library.search(query, 3)[0]) <= 3
    assert len(LibrarySearch(library=library).search_now(query, 3)) <= 3


@pytest.mark.parametrize("query", [*ODD, *LONG], ids=lambda each: ascii(each[:20]))
def test_every_text_can_be_asked(query: str, library: Library):
    _ask_everything(query, library)


ANY = st.text(st.characters(exclude_categories=()), max_size=80)
PIECES = st.lists(
    st.sampled_from([*ODD, "area", "density", "Chad", "of", "iron"]) | ANY, max_size=6
)


@settings(max_examples=80, deadline=None)
@given(query=PIECES.map(" ".join) | PIECES.map("".join))
def test_no_text_raises(query: str, library: Library):
    _ask_everything(query, library)


@settings(max_examples=300, deadline=None)
@given(ANY)
def test_tokens_are_single_tokens_of_fts5(text: str):
    for token in tokens(text):
        assert tokens(token) == [token]


@pytest.mark.parametrize("address", ADDRESSES, ids=lambda each: ascii(each[:24]))
def test_an_address_of_any_form_is_refused_as_ours(address: str, library: Library):
    with pytest.raises(ToolError):
        open_almanac().document(address)
    with pytest.raises(ToolError):
        library.document(address.replace("almanac:", "corpus:notes/"))


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("which element has an atomic mass of 55.845", "Iron (element)"),
        ("what is 55.845?", "Iron (element)"),
        ("element with atomic number 26", "Iron (element)"),
        ("Which country has an area of 1,284,000 km2?", "Chad (country)"),
        ("What is the area of Chad, in units of 2.5 km2?", "Chad (country)"),
        ("population of Chad (3.5% growth)", "Chad (country)"),
        ("airport EDDF", "Frankfurt am Main International Airport, Germany"),
        ("element 7439-89-6", "Iron (element)"),
    ],
)
def test_numbers_and_codes_find_their_article(question: str, title: str):
    assert open_almanac().search(question, 3)[0].title == title


def test_lookup_by_a_decimal_number_gives_the_fact():
    found = almanac_facts().find("which element has an atomic mass of 55.845")
    assert found.facts[0].entity == "Iron"
    assert found.facts[0].value == "55.845 u"


def test_a_decimal_number_is_one_word_of_a_corpus(library: Library):
    (hits,) = library.search("what is 3.5 bar", 2)
    assert hits[0].title == "Valve"
    (only,) = library.search("3.5", 2, any_word=False)
    assert [hit.title for hit in only] == ["Valve"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 999), st.integers(0, 999), st.sampled_from(["kg", "%", "V", "mm", "€"]))
def test_a_number_is_found_among_its_neighbours(whole: int, part: int, unit: str):
    number = f"{whole}.{part}"
    with closing(Corpus()) as corpus:
        corpus.add(
            [
                Document("a", "Right", f"The value is {number} {unit}, as measured."),
                Document("b", "Parts", f"On page {part} of {whole} the value is missing."),
            ]
        )
        assert corpus.search(f"what is {number}?", 2)[0].title == "Right"
