"""Comparing and buying: the front, the picture, and the cheapest that does it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perilune.errors import UsageError
from perilune.plan.buy import buy, candidates
from perilune.plan.catalogue import Catalogue, read_catalogue
from perilune.plan.compare import compare, on_front
from perilune.plan.figure import Figure
from perilune.plan.picture import draw
from perilune.plan.placement import Demand
from perilune.plan.planner import Request, plan
from tests.plan.machines import machine, ram, small

REQUEST = Request(Demand(100))


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return read_catalogue()


def priced(bandwidth: float, price: float | None) -> object:
    there = machine(ram(1e12, bandwidth))
    return replace(there, price=None if price is None else Figure.exactly(price))


@given(st.lists(st.tuples(st.floats(1e6, 1e12), st.floats(1, 1e6)), min_size=1, max_size=8))
def test_the_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    plans = [plan(small(), priced(b, p), REQUEST) for b, p in points]  # type: ignore[arg-type]
    front = [each for each in plans if on_front(each, plans)]
    assert front
    for each in plans:
        assert each.decode is not None and each.machine.price is not None
        as_good = [
            f for f in front
            if f.decode is not None and f.machine.price is not None
            and f.decode.value >= each.decode.value
            and f.machine.price.value <= each.machine.price.value
        ]  # fmt: skip
        assert as_good  # everything is on the front, or something there is no worse


def test_without_a_price_a_machine_is_in_the_table_and_not_on_the_front() -> None:
    compared = compare([small()], [priced(1e9, None), priced(1e8, 5)], REQUEST)  # type: ignore[list-item]
    assert compared.front == (False, True)
    assert [row["pareto"] for row in compared.as_json()] == [False, True]


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    machines = [
        replace(priced(b, p), name=n)
        for b, p, n in ((1e9, 100.0, "cheap"), (1e10, 200.0, "fast"), (1e8, 300.0, "neither"))  # type: ignore[type-var]
    ]
    compared = compare([small()], machines, REQUEST)  # type: ignore[arg-type]
    svg, png = draw(compared, tmp_path)
    text = svg.read_text("utf-8")
    assert text.lstrip().startswith("<?xml") and png.read_bytes()[:4] == b"\x89PNG"
    for word in ("cheap", "fast", "neither", "tokens per second", "US dollars"):
        assert word in text
    again = draw(compared, tmp_path / "again")[0]
    assert again.read_bytes() == svg.read_bytes()  # nothing in it but the plans
    with pytest.raises(UsageError, match="nothing to draw"):
        draw(compare([small()], [priced(1e9, None)], REQUEST), tmp_path)  # type: ignore[list-item]


def test_the_cheapest_that_does_it(catalogue: Catalogue) -> None:
    found = buy(small(), catalogue, REQUEST, 1e5, 100)
    assert found.found and found.tried > 500
    costs = [p.machine.price.value for p in found.found if p.machine.price is not None]
    assert costs == sorted(costs) and costs[-1] <= 1e5
    for each in found.found:
        assert each.decode is not None and each.decode.value >= 100
    assert found.cheapest is found.found[0]
    assert found.whole is not None and not found.whole.machine.unpriced
    # A larger budget never costs more, a higher speed never less.
    richer = buy(small(), catalogue, REQUEST, 1e6, 100)
    assert richer.found[0].machine.price == found.found[0].machine.price
    assert found.fastest is not None and found.fastest.decode is not None
    hopeless = buy(small(), catalogue, REQUEST, costs[0] / 2, 100)
    assert not hopeless.found and hopeless.cheapest is not None
    limit = found.fastest.decode.value
    assert not buy(small(), catalogue, REQUEST, 1e5, limit * 1.01).found


def test_every_candidate_is_a_machine_of_its_own(catalogue: Catalogue) -> None:
    names = [each.name for each in candidates(catalogue)]
    assert len(names) == len(set(names))
    assert set(catalogue.machines) <= set(names)


@pytest.mark.parametrize("budget, speed", [(0, 1), (-1, 1), (float("nan"), 1), (1, 0), (1, -1),
                                           (1, float("inf")), (float("inf"), 1)])  # fmt: skip
def test_nonsense_is_refused(catalogue: Catalogue, budget: float, speed: float) -> None:
    with pytest.raises(UsageError):
        buy(small(), catalogue, REQUEST, budget, speed)
