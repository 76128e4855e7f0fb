"""Facts: a value is that of the entity and attribute that were asked for, and whole."""

from __future__ import annotations

import random
import zlib

import pytest

from perilune.agent.checks.facts import Facts
from perilune.agent.checks.records import of_output, of_source
from tests.agent.checks.replay import advice_problems, problems_of, proposal_of, read_runs
from tests.agent.checks.wrong_copies import KINDS, planted


def lookup(query: str, *lines: str) -> dict:
    result = "\n".join(f"{line} [ev:{zlib.crc32(line.encode()):08x}]" for line in lines)
    return {"name": "lookup", "arguments": {"query": query}, "result": result or "Not found."}


def python(code: str, output: str) -> dict:
    return {"name": "python", "arguments": {"code": code}, "result": output}


def run(question: str, answer: str, *calls: dict) -> dict:
    sources = []
    for call in calls:
        for line in call["result"].splitlines() if call["name"] == "lookup" else ():
            text, _, id_ = line.rpartition(" [")
            if id_:
                entity = text.partition(".")[0]
                sources.append(
                    {
                        "id": id_.rstrip("]"),
                        "source": f"almanac:x/{entity}",
                        "title": entity,
                        "text": text,
                    }
                )
    return {"question": question, "answer": answer, "calls": list(calls), "sources": sources}


UGANDA = lookup("Uganda population", "Uganda.population = 51384894 people (2025)")
KENYA = lookup("Kenya population", "Kenya.population = 55751717 people (2025)")
DENVER = lookup(
    "the elevation of Denver", "Senador Petrônio Portela Airport.elevation = 67 m (2026)"
)
LUSAKA = lookup("Lusaka currency", "Lusaka.country = Zambia (2026)")
ZURICH = lookup(
    "the airport code of Zurich", "Senador Petrônio Portela Airport.IATA code = THE (2026)"
)


@pytest.mark.parametrize(
    "wrong",
    [
        run(
            "Which has more people, Uganda or Kenya?",
            "Uganda",
            UGANDA,
            KENYA,
            python("max((51384894, 'Uganda'), (557517, 'Kenya'))", "(51384894, 'Uganda')"),
        ),
        run("What is the elevation of Denver?", "67 m", DENVER),
        run("What is the currency of Lusaka?", "Zambia", LUSAKA),
        run("What is the airport code of Zurich?", "THE", ZURICH),
        run("What is the population of Kenya?", "557517 people", KENYA),
        run("What is the population of Kenya?", "55751717 km", KENYA),
        run("What is the population of Kenya?", "51384894 people", UGANDA, KENYA),
        run(
            "What is the capital of Kenya?", "Unknown: no source says it.", lookup("Uganda capital")
        ),
        run("Which has fewer people, Uganda or Kenya?", "Kenya", UGANDA, KENYA),
        run("How many people do Uganda and Kenya have together?", "4366823", UGANDA, KENYA),
        run(
            "Tell me about Kenya and Uganda.",
            "Kenya is the larger one of the two by far, as its people will tell you.\n\n"
            "Uganda has 55,751,717 people.",
            UGANDA,
            KENYA,
        ),
        run(
            "Make a table.",
            "| country | population |\n| --- | --- |\n| Uganda | 55751717 |\n| Kenya | 51384894 |",
            UGANDA,
            KENYA,
        ),
    ],
)
async def test_wrong_answers_are_caught(wrong):
    assert await problems_of(wrong)


@pytest.mark.parametrize(
    "right",
    [
        run("Which has more people, Uganda or Kenya?", "Kenya", UGANDA, KENYA),
        run(
            "Which has more people, Uganda or Kenya?",
            "Kenya, with 55.75 million people.",
            UGANDA,
            KENYA,
        ),
        run("What is the population of Kenya?", "55,751,717 people", KENYA),
        run("What is the population of Kenya?", "about 56 million", KENYA),
        run("How many people do Uganda and Kenya have together?", "107136611", UGANDA, KENYA),
        run(
            "What is the currency of the country of Lusaka?",
            "Zambian Kwacha",
            LUSAKA,
            lookup("Zambia currency", "Zambia.currency = Zambian Kwacha (2025)"),
        ),
        run("In which country is Lusaka?", "Zambia", LUSAKA),
        run(
            "What is the capital of Kenya?", "Unknown: no source says it.", lookup("Kenya capital")
        ),
        run(
            "Make a table.",
            "| country | population |\n| --- | --- |\n| Uganda | 51384894 |\n| Kenya | 55751717 |",
            UGANDA,
            KENYA,
        ),
        run(
            "Compare Kenya and Uganda for me.",
            "Kenya has 55,751,717 people, Uganda 51,384,894, so Kenya has about 4.4 million more.\n"
            "Both were under British rule until the 1960s.",
            UGANDA,
            KENYA,
        ),
        run(
            "How large is the Netherlands?",
            "Holland has 41543 km2.",
            lookup("Holland area", "Netherlands.area = 41543 km2 (2025)"),
        ),
        run(
            "How far is it in miles: the length of the Tavor?",
            "62.1 miles",
            lookup("Tavor length", "Tavor.length = 100 km"),
        ),
    ],
)
async def test_right_answers_pass(right):
    check = await Facts().examine(proposal_of(right))
    assert check is None or check.problems == []


async def test_the_problem_says_what_is_wrong_and_whose_the_value_is():
    wrong = run("What is the population of Kenya?", "51384894 people", UGANDA, KENYA)
    found = " ".join(await problems_of(wrong))
    assert "Kenya.population = 55751717 people" in found


def test_records_are_read_from_lines_articles_tables_and_objects():
    (line,) = of_output("Niger.area = 1267000 km2 (2025) [ev:cf5a]", "Niger area", {})
    assert (line.entity, line.attribute, line.number, line.unit, line.year, line.id) == (
        "Niger",
        "area",
        1267000,
        "km2",
        "2025",
        "ev:cf5a",
    )
    (article,) = of_source("Sand.\n\narea = 5 km2 (2025, Atlas)", "Niger (country)", "ev:1", "a")
    assert (article.entity, article.value, article.year) == ("Niger", "5 km2", "2025")
    table = "| town | people |\n| --- | --- |\n| Tavor | 4120 |"
    (cell,) = of_output(table, "", {})
    assert (cell.entity, cell.attribute, cell.number) == ("Tavor", "people", 4120)
    (comma,) = of_output("town,people\nTavor,4120", "", {})
    (thing,) = of_output('[{"name": "Tavor", "people": 4120}]', "", {})
    assert (comma, thing) == (cell, cell)


# --- the sets -------------------------------------------------------------------------------------


async def test_right_runs_are_not_refused():
    runs = read_runs()
    refused = [each for each in runs if await problems_of(each)]
    assert len(runs) >= 300
    assert len(refused) <= len(runs) / 100, [(e["question"], e["answer"]) for e in refused]


@pytest.mark.parametrize("seed", [0, 11])
async def test_wrong_copies_are_caught(seed: int):
    """The stored seed and another."""
    await _wrong_copies_are_caught(seed)


@pytest.mark.slow
async def test_wrong_copies_of_a_random_seed_are_caught():
    """A draw that nobody has seen; the failure names the seed."""
    await _wrong_copies_are_caught(random.SystemRandom().randrange(10**6))


async def _wrong_copies_are_caught(seed: int) -> None:
    bad = list(planted(read_runs(), 300, seed))
    missed = [(kind, e["question"], e["answer"]) for kind, e in bad if not await problems_of(e)]
    assert len(bad) == 300
    assert {kind for kind, _ in bad} == set(KINDS)
    assert len(missed) <= 15, (seed, missed)


async def test_ordinary_answers_raise_no_alarm():
    runs = read_runs("advice.jsonl")
    assert len({each["answer"] for each in runs}) == len(runs) >= 300
    refused = [e["answer"] for e in runs if any((await advice_problems(e)).values())]
    assert len(refused) <= len(runs) / 100, refused
