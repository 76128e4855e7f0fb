"""Tables over the almanac: 300 right ones pass, and a planted wrong cell is found."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from perilune.agent.checks.records import Record, make
from perilune.agent.checks.rows import row_problems
from perilune.search.almanac import open_almanac
from perilune.search.almanac.almanac import Fact
from perilune.search.almanac.language import language
from perilune.search.almanac.questions import pool

COLUMNS = {
    "country": ["population", "area", "capital", "currency", "GDP", "life expectancy", "median age",
                "unemployment", "coastline", "calling code", "highest point", "internet domain"],
    "element": ["symbol", "atomic number", "atomic mass", "density", "melting point", "group"],
    "city": ["country", "population", "latitude", "longitude"],
}  # fmt: skip
HEADS = {
    "population": ["population", "Inhabitants", "Einwohner", "habitants", "población", "人口"],
    "area": ["area", "area (km2)", "Fläche", "superficie", "面积"],
    "capital": ["capital", "Capital city", "Hauptstadt", "首都"],
    "currency": ["currency", "Währung", "monnaie", "moneda"],
}


def facts_of(address: str) -> dict[str, Fact]:
    return {fact.attribute: fact for fact in open_almanac().facts_of(address)}


def records(entities: list[str], columns: list[str]) -> list[Record]:
    return [
        make(
            fact.entity, name, f"{fact.value} {fact.unit}".strip(), str(fact.year), "ev:1", address
        )
        for address in entities
        for name in columns
        if (fact := facts_of(address).get(name))
    ]  # fmt: skip


def drawn(source: random.Random) -> tuple[list[str], list[str]]:
    """Entities and columns of a table that has all its cells."""
    while True:
        kind = source.choice(["country", "country", "element", "city"])
        entities = source.sample(pool(kind, "train"), source.randint(3, 12))
        columns = source.sample(COLUMNS[kind], source.randint(1, 4))
        if all(name in facts_of(each) for each in entities for name in columns):
            return entities, columns


def as_people_write(value: object, source: random.Random) -> str:
    if isinstance(value, int) and value >= 10_000:
        return source.choice([str(value), f"{value:,}", f"{value:,}".replace(",", " ")])
    if isinstance(value, int) and value >= 10**9 and source.random() < 0.3:
        return f"{value / 10**9:.2f} billion"
    return str(value)


def table(
    entities: list[str], columns: list[str], cells: dict[tuple[str, str], str],
    source: random.Random,
) -> str:  # fmt: skip
    heads = ["name", *(source.choice(HEADS.get(name, [name])) for name in columns)]
    local = language("de").local
    rows = []
    for address in entities:
        fact = next(iter(facts_of(address).values()))
        name = fact.entity
        if source.random() < 0.15:
            name = local.get((fact.kind, name), name)
        rows.append([name, *(cells[address, column] for column in columns)])
    if source.random() < 0.5:
        lines = [heads, ["---"] * len(heads), *rows]
        return "Here it is:\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join(", ".join(line) for line in [heads, *rows])


def planted(
    how: str, entities: list[str], columns: list[str], cells: dict[tuple[str, str], str],
    source: random.Random,
) -> dict[tuple[str, str], str] | None:  # fmt: skip
    """The cells with one that is wrong; None where it would be the same, or hardly another."""
    address, column = source.choice(entities), source.choice(columns)
    right = str(facts_of(address)[column].value)
    wrong = right
    if how == "other row":
        wrong = str(facts_of(source.choice(entities))[column].value)
    elif how == "other attribute":
        facts = [fact for name, fact in facts_of(address).items() if name != column]
        wrong = str(source.choice(facts).value)
        if len(wrong) > 30 or "," in wrong:
            return None
    elif how == "other entity":
        kind = address.split(":")[1].split("/")[0]
        other = facts_of(source.choice(pool(kind, "train"))).get(column)
        wrong = str(other.value) if other else right
    elif right.replace(".", "").isdigit() and len(right.split(".")[0]) > 1:
        digits = list(right)
        del digits[source.randrange(len(right.split(".")[0]))]
        wrong = "".join(digits)
    if wrong == right or wrong in right or (right in wrong and how != "digit dropped"):
        return None
    if "," in wrong:
        return None
    return cells | {(address, column): wrong}


@pytest.mark.parametrize("count", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_right_tables_pass_and_planted_cells_are_found(count: int) -> None:
    source = random.Random(4)
    refused, found, tried = 0, Counter[str](), Counter[str]()
    for number in range(count):
        entities, columns = drawn(source)
        known = records(entities, columns)
        cells = {
            (address, name): as_people_write(facts_of(address)[name].value, source).replace(",", "")
            if "," in str(facts_of(address)[name].value)
            else as_people_write(facts_of(address)[name].value, source).replace(",", " ")
            for address in entities
            for name in columns
        }
        problems, _ = row_problems(table(entities, columns, cells, source), known)
        refused += bool(problems)
        assert not problems, problems
        how = ("other row", "other attribute", "digit dropped", "other entity")[number % 4]
        for _ in range(30):
            wrong = planted(how, entities, columns, cells, source)
            if wrong is not None:
                tried[how] += 1
                text = table(entities, columns, wrong, source)
                found[how] += bool(row_problems(text, known)[0])
                break
    assert refused == 0
    assert sum(tried.values()) > 0.7 * count
    assert sum(found.values()) >= 0.99 * sum(tried.values()), (found, tried)


KNOWN = [
    make("Kenya", "population", "55751717 people", "2025", "ev:aa11", "almanac:country/kenya"),
    make("Kenya", "area", "580367 km2", "2025", "ev:aa12", "almanac:country/kenya"),
    make("Kenya", "capital", "Nairobi", "2025", "ev:aa13", "almanac:country/kenya"),
    make(
        "Kenya",
        "languages",
        "English (official), Kiswahili (official)",
        "2025",
        "ev:aa14",
        "almanac:x",
    ),
    make("Uganda", "population", "50863850 people", "2025", "ev:bb11", "almanac:country/uganda"),
    make("Uganda", "area", "241038 km2", "2025", "ev:bb12", "almanac:country/uganda"),
]


WRITTEN = ["55751717", "55,751,717", "55 751 717", "55.8 million", "55.75 M", "~55751717",
           "**55,751,717** [ev:aa11]", "55751717 people (2025)", "55,752,000", "unknown",
           "-"]  # fmt: skip


@pytest.mark.parametrize("cell", WRITTEN)
def test_a_figure_may_be_written_in_many_ways(cell: str) -> None:
    text = f"| country | population |\n| --- | --- |\n| Kenya | {cell} |\n| Uganda | 50863850 |"
    assert row_problems(text, KNOWN)[0] == []


@pytest.mark.parametrize(
    "cell", ["50863850", "5575171", "50.9 million", "580367", "Nairobi", "557517170"]
)
def test_a_figure_of_something_else_is_named(cell: str) -> None:
    text = f"| country | population |\n| --- | --- |\n| Kenya | {cell} |\n| Uganda | 50863850 |"
    (problem,) = row_problems(text, KNOWN)[0]
    assert "row Kenya" in problem and "55751717" in problem


@pytest.mark.parametrize(
    "text",
    [
        "| rank | country | density |\n| --- | --- | --- |\n| 1 | Uganda | 211.0 |\n"
        "| 2 | Kenya | 96.1 |",
        "| country | area (sq mi) |\n| --- | --- |\n| Kenya | 224,081 |",
        "| city | visitors |\n| --- | --- |\n| Paris | 12 |\n| Rome | 9 |",
        "name, population\nKenya, 55751717\nUganda, unknown",
        '[{"country": "Kenya", "population": 55751717, "capital": "Nairobi"}]',
        "| Land | Hauptstadt | Sprachen |\n| --- | --- | --- |\n"
        "| Kenia | Nairobi | English, Kiswahili |",
        "Kenya has 50863850 people.",
        "| a | b |\n| --- | --- |\n| | |",
    ],
)
def test_what_is_computed_or_converted_or_no_table_is_left_alone(text: str) -> None:
    assert row_problems(text, KNOWN)[0] == []


def test_json_and_rows_behind_a_number_are_read() -> None:
    assert row_problems('[{"country": "Kenya", "population": 50863850}]', KNOWN)[0]
    text = "| # | country | population |\n| --- | --- | --- |\n| 1 | Kenya | 50863850 |"
    assert row_problems(text, KNOWN)[0]


def test_any_text_has_a_verdict() -> None:
    source = random.Random(8)
    base = "| country | population |\n| --- | --- |\n| Kenya | 55,751,717 |\nname, a\nKenya, 5"
    for _ in range(300):
        letters = list(base)
        for _ in range(source.randint(1, 12)):
            letters[source.randrange(len(letters))] = source.choice(
                "|,-.\n0123456789 (){}[]\"'%é漢\x00"
            )
        row_problems("".join(letters), KNOWN)
