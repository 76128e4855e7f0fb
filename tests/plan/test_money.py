"""Energy and money: what scales, what the seeds reckoned, and when owning is cheaper."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perilune.errors import UsageError
from perilune.plan.catalogue import read_catalogue
from perilune.plan.figure import Figure
from perilune.plan.model_size import named_model
from perilune.plan.money import (
    Api,
    Terms,
    break_even,
    months_against_subscription,
    owning,
    read_apis,
)
from perilune.plan.placement import Demand
from perilune.plan.planner import Request, plan, with_price

RATES = st.floats(0.01, 1e5)
WATTS = st.floats(1, 1e5)
PRICES = st.floats(1, 1e7)


def exactly(value: float) -> Figure:
    return Figure.exactly(value)


@given(rate=RATES, watts=WATTS, price=PRICES, factor=st.floats(1.01, 100))
def test_money_scales(rate: float, watts: float, price: float, factor: float) -> None:
    terms = Terms()
    base = owning(exactly(rate), None, exactly(watts), exactly(price), terms)
    faster = owning(exactly(rate * factor), None, exactly(watts), exactly(price), terms)
    hungry = owning(exactly(rate), None, exactly(watts * factor), exactly(price), terms)
    dearer = owning(exactly(rate), None, exactly(watts), exactly(price * factor), terms)
    rarely = Terms(utilisation=0.5 / factor)
    idle = owning(exactly(rate), None, exactly(watts), exactly(price), rarely)
    assert base.per_million and faster.per_million and hungry.power_per_million
    assert base.power_per_million and base.capital_per_million and dearer.capital_per_million
    assert faster.per_million.value == pytest.approx(base.per_million.value / factor)
    assert hungry.power_per_million.value == pytest.approx(base.power_per_million.value * factor)
    assert dearer.capital_per_million.value == pytest.approx(
        base.capital_per_million.value * factor
    )
    assert idle.capital_per_million and idle.power_per_million
    assert idle.capital_per_million.value == pytest.approx(base.capital_per_million.value * factor)
    assert idle.power_per_million.value == pytest.approx(base.power_per_million.value)


def test_the_formula_by_hand() -> None:
    """8 RTX PRO 6000 at 1,330 tokens/s, 5 kW, $0.20 a kWh, $90,000 over 3 years at half use."""
    own = owning(exactly(1330), None, exactly(5000), exactly(90_000), Terms())
    assert own.power_per_million and own.capital_per_million
    assert own.power_per_million.value == pytest.approx(0.21, abs=0.005)
    assert own.capital_per_million.value == pytest.approx(1.43, abs=0.01)
    alone = owning(exactly(88), None, exactly(5000), exactly(90_000), Terms())
    assert alone.power_per_million and alone.capital_per_million
    assert alone.power_per_million.value == pytest.approx(3.1, abs=0.1)
    assert alone.capital_per_million.value == pytest.approx(21, abs=1)
    desktop = owning(exactly(1), None, exactly(200), None, Terms())
    assert desktop.power_per_million and desktop.per_million is None
    assert desktop.power_per_million.value == pytest.approx(11, abs=0.2)


@given(rate=RATES, prefill=RATES, ratio=st.floats(0, 100))
def test_prompts_cost_too(rate: float, prefill: float, ratio: float) -> None:
    terms = Terms(input_ratio=ratio)
    with_prompts = owning(exactly(rate), exactly(prefill), exactly(500), exactly(1e4), terms)
    without = owning(exactly(rate), None, exactly(500), exactly(1e4), terms)
    assert with_prompts.per_million and without.per_million
    assert with_prompts.per_million.value >= without.per_million.value * (1 - 1e-9)
    assert with_prompts.most_per_month.value <= without.most_per_month.value * (1 + 1e-9)


@given(rate=RATES, watts=WATTS, price=PRICES, output=st.floats(0.01, 100))
def test_break_even_is_where_both_cost_the_same(
    rate: float, watts: float, price: float, output: float
) -> None:
    terms = Terms(input_ratio=0)
    own = owning(exactly(rate), None, exactly(watts), exactly(price), terms)
    found = break_even(own, Api("x", "x", 0, 0, output, "me", "2026-11"), terms)
    assert found is not None and own.power_per_million is not None
    if found.per_month is None:
        assert own.power_per_million.value >= output
        return
    monthly = price / (terms.years * 12)
    assert monthly + found.per_month * own.power_per_million.value == pytest.approx(
        found.per_month * output
    )
    assert found.reachable == (found.per_month <= own.most_per_month.value)


def test_the_seeds_arithmetic_in_one_plan_with_what_it_left_out() -> None:
    """25,000 dollars for a card, 0.7 kW, 1,080 dollars per year, 90 per month, 200 of
    subscription.
    """
    card = with_price(read_catalogue().machine("h200"), 25_000, None)
    request = Request(Demand(8192), terms=Terms(kwh=0.1761), subscription=200)
    found = plan(named_model("k2-thinking"), card, request)
    assert found.owning is not None and card.watts is not None
    assert card.watts.value == 700
    assert found.owning.kwh_per_year == pytest.approx(6132)
    assert found.owning.power_per_year == pytest.approx(1080, abs=1)
    assert found.owning.power_per_year / 12 == pytest.approx(90, abs=0.1)
    assert found.owning.capital == Figure.exactly(25_000)
    assert found.subscription_months == pytest.approx(25_000 / 110, rel=0.01)
    # What was left out: one card does not hold the model.
    assert not found.fits and found.refusal is not None
    assert found.refusal.needed > 4 * found.refusal.there
    assert "4 more of these cards" in found.refusal.remedy


def test_a_subscription_that_pays_less_than_the_power_never_pays_back() -> None:
    own = owning(exactly(10), None, exactly(700), exactly(25_000), Terms(kwh=0.1761))
    assert months_against_subscription(own, 89) is None
    assert months_against_subscription(own, 91) is not None
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError):
            months_against_subscription(own, bad)


@pytest.mark.parametrize(
    "terms",
    [{"years": 0}, {"years": -1}, {"years": float("nan")}, {"utilisation": 0},
     {"utilisation": 1.1}, {"kwh": -0.1}, {"kwh": float("inf")}, {"kwh": 1e6},
     {"input_ratio": -1}, {"cached": 2}],
)  # fmt: skip
def test_terms_that_make_no_sense(terms: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="it must be between"):
        Terms(**terms)


@pytest.mark.parametrize("value", [0.0, -5.0, float("nan"), float("inf")])
def test_prices_that_make_no_sense(value: float) -> None:
    machine = read_catalogue().machine("h200")
    with pytest.raises(UsageError):
        with_price(machine, value, None)
    with pytest.raises(UsageError):
        with_price(machine, None, value)


def test_the_api_is_said_to_be_cheaper_where_it_is() -> None:
    found = plan(
        named_model("k2-thinking"), read_catalogue().machine("epyc-768"), Request(Demand(8192))
    )
    against = {each.api.name: each for each in found.against}
    assert set(against) == set(read_apis())
    assert not against["k2"].reachable


def test_what_has_no_price_has_no_break_even() -> None:
    found = plan(
        named_model("k2-thinking"), read_catalogue().machine("h200-x8"), Request(Demand(8192))
    )
    assert found.fits and found.against == () and found.owning is not None
    assert found.owning.capital_per_million is None and found.owning.power_per_million is not None
