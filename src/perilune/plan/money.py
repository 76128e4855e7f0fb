"""Energy and money of a million tokens, and when owning is cheaper than asking somebody else.

    dollars per million tokens = 10^6 / rate x
        (watts x dollars per kWh / 3.6e6 + price / (seconds of life x utilisation))

Power is taken as drawn while the machine works; what it draws idle has no figure here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from perilune.errors import UsageError
from perilune.plan.figure import Figure
from perilune.plan.reading import DATA, Entry, read_toml

HOURS_A_YEAR = 8760.0
SECONDS_A_MONTH = HOURS_A_YEAR * 3600 / 12


@dataclass(frozen=True, slots=True)
class Terms:
    """How owning is calculated. years of use; share of the time that the machine works; $/kWh.

    input_ratio: tokens of prompt for one of the answer; cached: share of them the provider knows.
    """

    years: float = 3.0
    utilisation: float = 0.5
    kwh: float = 0.20
    input_ratio: float = 3.0
    cached: float = 0.0

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("years", self.years, 0.05, 50),
            ("utilisation", self.utilisation, 0.001, 1),
            ("the price of a kWh", self.kwh, 0, 100),
            ("the input ratio", self.input_ratio, 0, 100_000),
            ("the cached share", self.cached, 0, 1),
        ):
            if not math.isfinite(value) or not low <= value <= high:
                raise UsageError(f"{name} is {value:g}; it must be between {low:g} and {high:g}")


@dataclass(frozen=True, slots=True)
class Api:
    """Dollars per million tokens somewhere else."""

    name: str
    title: str
    input: float
    cached: float
    output: float
    source: str
    date: str

    def mixed(self, terms: Terms) -> float:
        """A million tokens of answer with their prompts."""
        prompt = (1 - terms.cached) * self.input + terms.cached * self.cached
        return self.output + terms.input_ratio * prompt


@dataclass(frozen=True, slots=True)
class Owning:
    """Of the whole machine. Dollars per million tokens of answer, its prompts computed too."""

    kwh_per_million: Figure | None
    power_per_million: Figure | None
    capital_per_million: Figure | None
    per_million: Figure | None
    kwh_per_year: float | None  # working all year
    power_per_year: float | None
    capital: Figure | None
    most_per_month: Figure  # million tokens of answer that it can give at this utilisation
    input_ratio: float  # of the terms, or 0 where the prompt's speed is not known


@dataclass(frozen=True, slots=True)
class BreakEven:
    """Against one provider. per_month: million tokens from which owning is cheaper; None: never.

    reachable: the machine can give so many.
    """

    api: Api
    api_per_million: float
    per_month: float | None
    reachable: bool


def owning(
    rate: Figure,
    prefill_rate: Figure | None,
    watts: Figure | None,
    price: Figure | None,
    terms: Terms,
) -> Owning:
    """`rate`: tokens per second of all streams; `prefill_rate` None: prompts are left out."""
    ratio = 0.0 if prefill_rate is None else terms.input_ratio
    second = 1.0 / rate.value + (0.0 if prefill_rate is None else ratio / prefill_rate.value)
    slow = 1.0 / rate.low + (0.0 if prefill_rate is None else ratio / prefill_rate.low)
    fast = 1.0 / rate.high + (0.0 if prefill_rate is None else ratio / prefill_rate.high)
    seconds = Figure(second * 1e6, fast * 1e6, slow * 1e6)  # of a million tokens of answer
    energy = power = capital = None
    if watts is not None:
        energy = _product(seconds, watts) * (1 / 3.6e6)
        power = energy * terms.kwh
    life = terms.years * HOURS_A_YEAR * 3600 * terms.utilisation
    if price is not None:
        capital = _product(seconds, price) * (1 / life)
    both = None if power is None or capital is None else power + capital
    busy = SECONDS_A_MONTH * terms.utilisation
    most = Figure(busy / seconds.value, busy / seconds.high, busy / seconds.low)
    year = None if watts is None else watts.value / 1000 * HOURS_A_YEAR
    return Owning(
        energy,
        power,
        capital,
        both,
        year,
        None if year is None else year * terms.kwh,
        price,
        most,
        ratio,
    )


def break_even(own: Owning, api: Api, terms: Terms) -> BreakEven | None:
    """None where the machine's price or power is not known."""
    if own.capital is None or own.power_per_million is None:
        return None
    terms = Terms(terms.years, terms.utilisation, terms.kwh, own.input_ratio, terms.cached)
    theirs = api.mixed(terms)
    saved = theirs - own.power_per_million.value
    if saved <= 0:
        return BreakEven(api, theirs, None, False)
    months = terms.years * 12
    needed = own.capital.value / months / saved
    return BreakEven(api, theirs, needed, needed <= own.most_per_month.value)


def months_against_subscription(own: Owning, subscription: float) -> float | None:
    """Months until the price has come back from `subscription` dollars per month; None: never.

    The machine draws its power all month. Raises UsageError for a price that makes no sense.
    """
    if not math.isfinite(subscription) or not 0 <= subscription <= 1e6:
        raise UsageError(f"a subscription of {subscription:g} dollars per month makes no sense")
    if own.capital is None or own.power_per_year is None:
        return None
    saved = subscription - own.power_per_year / 12
    return own.capital.value / saved if saved > 0 else None


@cache
def read_apis() -> dict[str, Api]:
    """All of `data/prices.toml`."""
    top = Entry(read_toml(DATA / "prices.toml"), "prices.toml")
    sources = Entry(top.take("sources") or {}, "prices.toml: [sources]").values
    found = {}
    for name, values in Entry(top.take("api"), "prices.toml: [api]").values.items():
        entry = Entry(values, f"prices.toml: [api.{name}]")
        title = entry.text("title")
        price = Entry(entry.take("price"), f"prices.toml: [api.{name}.price]")
        source = price.text("source")
        found[name] = Api(
            name,
            title,
            price.number("input"),
            price.number("cached"),
            price.number("output"),
            str(sources.get(source, source)),
            price.text("date"),
        )
        price.done()
        entry.done()
    top.done()
    return found


def _product(a: Figure, b: Figure) -> Figure:
    return Figure(a.value * b.value, a.low * b.low, a.high * b.high)
