"""Citations: every planted false one is caught, and no true one is refused."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perilune.agent.checks.citations import Citations
from perilune.agent.evidence.quotes import even, stands_in
from tests.agent.checks.desk import Desk
from tests.agent.checks.planted import false_answers, library, true_answers

SEEDS = range(6)


async def verdict(desk: Desk, answer: str, *, strict: bool = True):
    check = await Citations(strict=strict).examine(desk.propose(answer))
    return [] if check is None else check.problems


async def test_all_planted_false_citations_are_caught(tmp_path: Path):
    missed, count, kinds = [], 0, set()
    for seed in SEEDS:
        lib = library(tmp_path, seed)
        for kind, answer in false_answers(lib):
            count += 1
            kinds.add(kind)
            if not await verdict(lib.desk, answer):
                missed.append((kind, answer))
    assert missed == []
    assert count >= 300
    assert len(kinds) >= 50


async def test_no_true_citation_is_refused(tmp_path: Path):
    refused, count = [], 0
    for seed in SEEDS:
        lib = library(tmp_path, seed)
        for kind, answer in true_answers(lib):
            count += 1
            if problems := await verdict(lib.desk, answer):
                refused.append((kind, answer, problems))
    assert refused == []
    assert count >= 200


async def test_a_page_that_was_changed_on_the_disk_is_no_source(tmp_path: Path):
    desk = Desk(tmp_path)
    page = desk.page("https://a.example/x", "The tower is 40 m high.")
    assert await verdict(desk, f"“The tower is 40 m high” [{page}].") == []
    file = next((tmp_path / "evidence").iterdir())
    file.write_text(file.read_text().replace("40", "90"))
    (problem, *_) = await verdict(desk, f"“The tower is 90 m high” [{page}].")
    assert "not what was retrieved" in problem
    file.unlink()
    assert await verdict(desk, f"The tower is high [{page}].")


async def test_an_id_of_another_run_is_no_source(tmp_path: Path):
    other = Desk(tmp_path / "other").page("https://a.example/x", "Words.")
    desk = Desk(tmp_path / "own")
    desk.page("https://a.example/y", "Other words.")
    assert await verdict(desk, f"Words [{other}].")


async def test_without_sources_in_the_task_addresses_of_the_person_may_be_named(tmp_path: Path):
    desk = Desk(tmp_path, "Is http://localhost:8000 up?")
    desk.output("bash", "404 from http://localhost:8000/health")
    said = "http://localhost:8000 is up, http://localhost:8000/health is not."
    assert await verdict(desk, said, strict=False) == []
    # An address of advice cannot be shown to be wrong: it is noted. Where sources are the point
    # of the answer, it is refused.
    other = "See https://example.com/made-up and [source code](https://x.example), ev: an event."
    assert await verdict(desk, other, strict=False) == []
    assert (await Citations().examine(desk.propose(other))).outcome == "noted"
    assert await verdict(desk, other)
    assert await verdict(desk, "It is so (ev:00c0ffee).", strict=False)


async def test_what_holds_no_citation_is_not_judged(tmp_path: Path):
    desk = Desk(tmp_path)
    assert await Citations().examine(desk.propose("Plain words.")) is None
    code = "```python\nx = '[ev:00c0ffee]'  # \"words\"\n```"
    assert await Citations().examine(desk.propose(code)) is None


async def test_only_the_answer_needs_no_citation(tmp_path: Path):
    desk = Desk(tmp_path, "What is its length? Answer with the number only.")
    desk.page("https://a.example/x", "Its length is 40 km.")
    assert await verdict(desk, "40") == []
    asking = Desk(tmp_path / "b", "What is its length?")
    asking.page("https://a.example/x", "Its length is 40 km.")
    assert "cites nothing" in (await verdict(asking, "40 km."))[0]


FEW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

# --- quotations, for any text ---------------------------------------------------------------------

WORDS = st.lists(
    st.text(string.ascii_letters + string.digits + "éß", min_size=1, max_size=8),
    min_size=4,
    max_size=30,
)
SPACES = st.sampled_from([" ", "\n", "  ", "\u00a0", " \n ", "\u2009"])


@FEW
@given(WORDS, st.data())
def test_any_run_of_words_stands_in_its_text_whatever_the_spaces(words, data):
    start = data.draw(st.integers(0, len(words) - 1))
    end = data.draw(st.integers(start + 1, len(words)))
    gaps = [data.draw(SPACES) for _ in words]
    text = "".join(word + gap for word, gap in zip(words, gaps, strict=True))
    assert stands_in(" ".join(words[start:end]), text)


@FEW
@given(WORDS, st.data())
def test_a_changed_word_is_seen(words, data):
    place = data.draw(st.integers(0, len(words) - 1))
    new = data.draw(st.text(string.ascii_letters + string.digits, min_size=1, max_size=8))
    changed = [*words[:place], new, *words[place + 1 :]]
    quote = " ".join(changed)
    text = " ".join(words)
    assert stands_in(quote, text) == (f" {even(quote)} " in f" {even(text)} ")


@FEW
@given(WORDS, st.data())
def test_dropping_inserting_or_swapping_words_is_seen(words, data):
    text = " ".join(words)
    place = data.draw(st.integers(1, len(words) - 2))
    for changed in (
        words[:place] + words[place + 1 :],
        [*words[:place], "indeed", *words[place:]],
        [*words[: place - 1], words[place], words[place - 1], *words[place + 1 :]],
    ):
        quote = " ".join(changed)
        assert stands_in(quote, text) == (f" {quote} " in f" {text} ")


@FEW
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_number_is_not_found_within_another(one, other):
    assert stands_in(f"it has {one}", f"it has {other} boats") == (one == other)
    assert not stands_in(f"has {one}", f"it has {one}.5 boats")
    assert not stands_in(f"has {one}", f"it has {one},500 boats")


MARKS = st.sampled_from(["“{}”", '"{}"', "„{}“", "«{}»", "‘{}’"])


@FEW
@given(words=WORDS, mark=MARKS, data=st.data())
async def test_any_quotation_in_any_marks(tmp_path_factory, words, mark, data):
    desk = Desk(tmp_path_factory.mktemp("desk"))
    page = desk.page("https://a.example/x", f"It is said: {' '.join(words)}. And so on.")
    true = f"It says {mark.format(' '.join(words))} [{page}]."
    assert await verdict(desk, true) == []
    place = data.draw(st.integers(0, len(words) - 1))
    false = [*words[:place], "zzzzzzzzz", *words[place + 1 :]]
    assert await verdict(desk, f"It says {mark.format(' '.join(false))} [{page}].")


@FEW
@given(st.text(max_size=300))
async def test_any_text_can_be_judged(tmp_path_factory, text):
    desk = Desk(tmp_path_factory.getbasetemp() / "any")
    page = desk.page("https://a.example/x", "Words of a page.")
    problems = await verdict(desk, f"{text} [{page}]")
    assert all(isinstance(problem, str) for problem in problems)


@pytest.mark.parametrize("repeat", ["“", '"', "'", "[", "[ev:", "> ", "a'b", "(", "1,", "**"])
async def test_long_strange_texts_do_not_hang(tmp_path: Path, repeat: str):
    desk = Desk(tmp_path)
    page = desk.page("https://a.example/x", "Words of a page.")
    await verdict(desk, f"{repeat * 4000} [{page}]")
