"""Numbers: what stands somewhere or is computed passes; what does not is seen."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.agent.checks.equations import compute, equations
from perilune.agent.checks.numbers import Numbers, constants, figures
from tests.agent.checks.desk import Desk

FEW = settings(max_examples=40, deadline=None)
PAGE = "Tavor has 4,120 people, 12.6 km of walls and a debt of 4.1193 million crowns (−5 in 1990)."


async def judge(
    folder: Path,
    answer: str,
    *,
    page: str = PAGE,
    output: str = "",
    task: str = "?",
    strict: bool = True,
):
    desk = Desk(folder, task)
    name = desk.page("https://a.example/tavor", page)
    desk.output("fetch", page)
    if output:
        desk.output("python", output)
    check = Numbers(strict=strict)
    return await check.examine(desk.propose(answer.replace("[P]", f"[{name}]")))


@pytest.mark.parametrize(
    "answer",
    [
        "It has 4120 people.", "It has 4,120 people [P].", "It has 4 120 people.",
        "It has 4.12 thousand people.", "It has about 4100 people.", "It has 4.1 thousand people.",
        "Its walls are 12.6 km long.", "Its walls are 13 km long.", "Walls: 12.6km.",
        "The debt was 4.12M crowns, or 4119k.",
        "The debt was 4.12 million crowns.", "The debt was 4119300 crowns.", "It was -5 in 1990.",
        "1. It has 4120 people.\n2. It was so in 1990.", "## 3. Tavor\nStep 2: 4120 people.",
        "4120 + 1990 = 6110 people.", "The share is 1990 / 4120 = 48.3 %.",
        "(4120 - 20) * 3 = 12300", "- a\n- b\n- c\n\nThese are 3 things.",
        "| town | people |\n| --- | --- |\n| Tavor | 4120 |\n\n1 row.", "It is item 7 of `x[99]`.",
        "See https://a.example/99 for 4120.", "Tavor, K2 and a12 have no number.",
    ],
)  # fmt: skip
async def test_grounded_numbers_pass(tmp_path: Path, answer: str):
    check = await judge(tmp_path, answer)
    assert check is None or check.problems == []


@pytest.mark.parametrize(
    "answer",
    [
        "It has 4121 people.", "It has 412 people.", "It has 41,200 people.", "It has 4100 people.",
        "It has 4.2 thousand people.", "Walls of 12.7 km.", "Walls of 12.65 km.", "1991.",
        "The debt was 4.2 million crowns.",
        "4120 + 1990 = 6111", "2 * 3 = 7", "The share is 1990 / 4120 = 49 %.",
        "It has about 4300 people.", "They are 6110 in all.", "x ```y``` 77", "| Tavor | 4125 |",
    ],
)  # fmt: skip
async def test_numbers_without_ground_are_seen(tmp_path: Path, answer: str):
    check = await judge(tmp_path, answer)
    assert check is not None
    assert check.outcome == "failed", check


async def test_a_cited_page_must_hold_the_number(tmp_path: Path):
    desk = Desk(tmp_path)
    one = desk.page("https://a.example/1", "Tavor has 4120 people.")
    two = desk.page("https://a.example/2", "Biken has 999 people.")
    desk.output("python", "5119")
    good = f"Tavor has 4120 people [{one}], with Biken 5119 [{one}, {two}]."
    assert (await Numbers().examine(desk.propose(good))).problems == []
    (problem,) = (await Numbers().examine(desk.propose(f"Tavor has 999 people [{one}]."))).problems
    assert f"it stands in {two}" in problem
    both = f"Tavor has 4120 people [{one}], and Biken 999 [{two}]."
    assert (await Numbers().examine(desk.propose(both))).problems == []
    led = f"According to [{one}], 4120 people, and according to [{two}], 999."
    assert (await Numbers().examine(desk.propose(led))).problems == []
    exchanged = f"Tavor has 4120 people [{two}], and Biken 999 [{one}]."
    assert len((await Numbers().examine(desk.propose(exchanged))).problems) == 2


async def test_what_the_model_wrote_itself_is_no_ground(tmp_path: Path):
    for tool in ("plan", "note", "argue", "write_file"):
        desk = Desk(tmp_path / tool)
        desk.output(tool, "The answer is 77.")
        desk.output("search", "nothing found")
        strict = Numbers(strict=True)
        assert (await strict.examine(desk.propose("It is 77."))).outcome == "failed"
        assert (await Numbers().examine(desk.propose("It is 77."))).outcome == "noted"


async def test_what_code_that_ran_computes_with_is_a_ground(tmp_path: Path):
    """Its comments and texts are none, and code that failed neither."""
    assert constants("n = 77 * 2.5  # 99\nprint('98', -3)") == {Decimal(77), Decimal("2.5"), 3}
    assert constants("n = (") == set()
    desk = Desk(tmp_path)
    desk.output("python", "done", {"code": "x = 77  # 99"})
    assert (await Numbers().examine(desk.propose("It is 77."))).outcome == "passed"
    strict = Numbers(strict=True)
    assert (await strict.examine(desk.propose("It is 99."))).outcome == "failed"


@pytest.mark.parametrize(
    "answer",
    [
        "Set the timeout to 30 seconds, retry 4 times, port 8443.", "It has 4121 people.",
        "Bake for 35 minutes at 180 °C.", "Use Python 3.12 and at least 16 GB.", "1.234,5 or ½",
        "In Python 2, 7 / 2 = 3.", "x - 2 * 3 = 0 gives x = 6.", "512 * 1024 = 512 KB",
        "60 * 60 = 1 hour", "0.1 + 0.2 = 0.30000000000000004", "5 ^ 3 = 6", "1 + 1 = 10 in binary",
        "10 / 4 = 2,5", "100 - 20% = 80", "6/8 = 3/4", "8:15 + 45 = 9:00", "22/7 ≈ 3.14",
        "You wrote 17 * 3 = 52, which is wrong.", "250 + 10 = 4 (mod 256)", "rows 10-12 = 3 rows",
        "2024-05-01 = May Day", "1 1/2 + 1/2 = 2", "√16 + 2 = 6", "2 500 + 300 = 2 800",
    ],
)  # fmt: skip
async def test_advice_is_noted_and_never_refused(tmp_path: Path, answer: str):
    check = await judge(tmp_path, answer, strict=False)
    assert check is None or check.problems == []


@pytest.mark.parametrize(
    "answer", ["17 * 3 = 52", "4120 + 1990 = 6111", "2 * 3 = 7 in all", "12.5 + 3 = 16.5"]
)
async def test_a_false_equation_is_shown_to_be_false(tmp_path: Path, answer: str):
    assert (await judge(tmp_path, answer, strict=False)).outcome == "failed"


@pytest.mark.parametrize("copy", ["557517", "5575171", "55751177", "5575171700", "55757117"])
async def test_a_long_number_is_copied_whole(tmp_path: Path, copy: str):
    desk = Desk(tmp_path)
    desk.page("https://a.example/k", "Kenya has 55751717 people.")
    (problem,) = (await Numbers().examine(desk.propose(f"It has {copy} people."))).problems
    assert "55751717" in problem
    right = "It has 55,751,717 people, about 55.8 million, or 56 million; in 1990 23000000."
    assert (await Numbers().examine(desk.propose(right))).problems == []


async def test_where_nothing_was_looked_at_numbers_are_noted(tmp_path: Path):
    desk = Desk(tmp_path)
    check = await Numbers().examine(desk.propose("Water boils at 100 degrees."))
    assert (check.outcome, check.problems, len(check.notes)) == ("noted", [], 1)
    strict = await Numbers(strict=True).examine(desk.propose("Water boils at 100 degrees."))
    assert strict.outcome == "failed"
    # A false equation is false whatever was looked at.
    assert (await Numbers().examine(desk.propose("17 * 3 = 52"))).outcome == "failed"


async def test_the_evidence_says_where_each_number_stands(tmp_path: Path):
    check = await judge(tmp_path, "4120 people; 6110 in all; 4120 * 2 = 8240", output="6110")
    assert "6110: python" in check.evidence
    assert "computed: 4120 * 2 = 8240" in check.evidence
    assert any(each.startswith("4120: ") for each in check.evidence)


@FEW
@given(st.integers(0, 10**9), st.integers(0, 10**9), st.sampled_from("+-*"))
def test_equations_are_computed_exactly(one, other, sign):
    value = {"+": one + other, "-": one - other, "*": one * other}[sign]
    (found,) = equations(f"so {one:,} {sign} {other} = {value}.")
    assert found.value == value
    assert compute(f"({one}{sign}{other})/7") == Decimal(value) / Decimal(7)


@pytest.mark.parametrize(
    "text",
    ["2**9999999", "9^9^9^9", "(((((1", "1/0 = 5", "()", "a + b = 3", "1+" * 300 + "1", "one"],
)
def test_what_is_no_arithmetic_is_not_computed(text: str):
    assert compute(text) is None


@FEW
@given(st.decimals(min_value=0, max_value=10**8, places=4))
def test_any_rounding_of_what_stands_there_passes(value):
    for places in (1, 2, 3):
        shown = f"{value:.{places}f}"
        (figure,) = figures(f"it is {shown} m")
        assert abs(figure.value - value) <= Decimal(1) / (2 * 10**places)
        assert figure.fits(Decimal(str(value)))
