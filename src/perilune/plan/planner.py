"""One model on one machine: does it fit, how fast, what does it cost. A `Plan` is the answer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from perilune.errors import UsageError
from perilune.plan.efficiency import Efficiency, efficiency, usual_efficiency, with_disk
from perilune.plan.figure import Figure
from perilune.plan.machine import Kind, Machine
from perilune.plan.model_size import ModelSize
from perilune.plan.money import (
    BreakEven,
    Owning,
    Terms,
    break_even,
    months_against_subscription,
    owning,
    read_apis,
)
from perilune.plan.placement import (
    Demand,
    DoesNotFitError,
    Placement,
    check_demand,
    place,
)
from perilune.plan.prefill import Prefill, prefill
from perilune.plan.published import record
from perilune.plan.step import Step, decode_rate, decode_step, hits

PROMPT = 1024  # tokens of the prompt whose first token is timed, unless told otherwise


@dataclass(frozen=True, slots=True)
class Request:
    """What to plan for. prompt: tokens until the first token; engine: a kind, or the usual one."""

    demand: Demand
    prompt: int | None = None
    engine: str | None = None
    terms: Terms = field(default_factory=Terms)
    subscription: float | None = None  # dollars per month, to compare with

    @property
    def prompt_tokens(self) -> int:
        return min(PROMPT, self.demand.context) if self.prompt is None else self.prompt


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer. Where the model does not fit, `refusal` says why and the speeds are None.

    engine: the efficiencies that were used; record: how many published rows have judged them and
    their median error. hits: share of expert uses found in memory, where drives hold the rest.
    """

    model: ModelSize
    machine: Machine
    request: Request
    engine: Efficiency
    placement: Placement | None
    refusal: DoesNotFitError | None
    step: Step | None = None
    decode: Figure | None = None
    prefill: Prefill | None = None
    first_token: Figure | None = None
    hits: float | None = None
    owning: Owning | None = None
    against: tuple[BreakEven, ...] = ()
    subscription_months: float | None = None
    record: tuple[int, float] | None = None

    @property
    def fits(self) -> bool:
        return self.refusal is None

    def as_json(self) -> dict[str, Any]:
        """Plain numbers with their units in the keys, for `--json` and the page."""
        return _as_json(self)


def plan(
    model: ModelSize, machine: Machine, request: Request, measured: Efficiency | None = None
) -> Plan:
    """Everything about one model on one machine. `measured`: instead of the data's efficiencies.

    Raises UsageError for what makes no sense; a model that does not fit is an answer, not an error.
    """
    check_demand(model, request.demand)
    if not 1 <= request.prompt_tokens <= model.text.max_position_embeddings:
        raise UsageError(
            f"a prompt of {request.prompt_tokens:,} tokens; {model.name} takes 1 to "
            f"{model.text.max_position_embeddings:,}"
        )
    try:
        engine, placement = _placed(model, machine, request, measured)
    except DoesNotFitError as refusal:
        guess = measured or _chosen(machine, request, False)
        bare = owning_of_nothing(machine, request)
        months = _months(bare, request)
        return Plan(
            model, machine, request, guess, None, refusal, owning=bare, subscription_months=months
        )
    step = decode_step(model, machine, placement, request.demand, engine)
    rate = decode_rate(machine, request.demand, step)
    start = prefill(model, machine, placement, engine, request.prompt_tokens)
    own = owning(
        rate, None if start is None else start.rate, machine.watts, machine.price, request.terms
    )
    against = [break_even(own, api, request.terms) for api in read_apis().values()]
    return Plan(
        model,
        machine,
        request,
        engine,
        placement,
        None,
        step,
        rate,
        start,
        None if start is None else start.seconds + step.seconds,
        hits(model, placement) if placement.on_disk else None,
        own,
        tuple(each for each in against if each is not None),
        _months(own, request),
        record(engine.name),
    )


def owning_of_nothing(machine: Machine, request: Request) -> Owning:
    """Price and power of a machine that gives no token: what it costs all the same."""
    year = None if machine.watts is None else machine.watts.value / 1000 * 8760
    none = Figure.exactly(0.0)
    power = None if year is None else year * request.terms.kwh
    return Owning(None, None, None, None, year, power, machine.price, none, 0.0)


def _months(own: Owning, request: Request) -> float | None:
    if request.subscription is None:
        return None
    return months_against_subscription(own, request.subscription)


def _chosen(machine: Machine, request: Request, in_ram: bool) -> Efficiency:
    if request.engine is not None:
        return efficiency(request.engine)
    return usual_efficiency(machine, in_ram)


def _placed(
    model: ModelSize, machine: Machine, request: Request, measured: Efficiency | None
) -> tuple[Efficiency, Placement]:
    """The kind of engine depends on what lies where, and where the cache is copied the other way
    round: first as if all lay on the cards, then as the rest demands.
    """
    engine = measured or _chosen(machine, request, False)
    try:
        placement = place(model, machine, request.demand, engine)
    except DoesNotFitError:
        engine = measured or _chosen(machine, request, True)
        placement = place(model, machine, request.demand, engine)
    on_cards = placement.experts.get(Kind.VRAM, 0.0)
    if machine.tier(Kind.VRAM) is not None and model.experts_stored and on_cards < 1:
        engine = measured or _chosen(machine, request, True)
        placement = place(model, machine, request.demand, engine)
    if placement.on_disk:
        engine = with_disk(engine)
    return engine, placement


def _as_json(this: Plan) -> dict[str, Any]:
    out: dict[str, Any] = {
        "model": this.model.name,
        "storage": this.model.storage,
        "hardware": this.machine.name,
        "title": this.machine.title,
        "context_tokens": this.request.demand.context,
        "streams": this.request.demand.streams,
        "fits": this.fits,
        "engine": {
            "name": this.engine.name,
            "title": this.engine.title,
            "source": this.engine.source,
            "date": this.engine.date,
            "judged_rows": None if this.record is None else this.record[0],
            "median_error": None if this.record is None else this.record[1],
        },
        "weights_bytes": this.model.stored,
        "price_usd": _figure(this.machine.price),
        "unpriced": list(this.machine.unpriced),
        "watts": _figure(this.machine.watts),
        "sources": list(this.machine.sources),
    }
    if this.refusal is not None:
        out["refusal"] = {
            "message": this.refusal.message,
            "remedy": this.refusal.remedy,
            "needed_bytes": this.refusal.needed,
            "there_bytes": this.refusal.there,
        }
    if this.placement is not None:
        out["placement"] = [
            {"part": row.part, "tier": row.kind.value, "bytes": row.bytes}
            for row in this.placement.rows
        ]
        out["expert_hits"] = this.hits
    if this.step is not None and this.decode is not None:
        out["decode"] = {
            "tokens_per_second": _figure(this.decode),
            "tokens_per_second_per_stream": _figure(
                this.decode * (1 / this.request.demand.streams)
            ),
            "step_seconds": _figure(this.step.seconds),
            "bound_by": this.step.bound.what,
            "terms_seconds": {term.what: term.seconds for term in this.step.terms},
        }
    if this.prefill is not None:
        out["prefill"] = {
            "prompt_tokens": this.prefill.tokens,
            "tokens_per_second": _figure(this.prefill.rate),
            "bound_by": this.prefill.bound,
        }
        out["first_token_seconds"] = _figure(this.first_token)
    if this.owning is not None:
        own = this.owning
        out["money"] = {
            "kwh_per_million_tokens": _figure(own.kwh_per_million),
            "power_usd_per_million_tokens": _figure(own.power_per_million),
            "capital_usd_per_million_tokens": _figure(own.capital_per_million),
            "usd_per_million_tokens": _figure(own.per_million),
            "kwh_per_year": own.kwh_per_year,
            "power_usd_per_year": own.power_per_year,
            "million_tokens_per_month": _figure(own.most_per_month),
            "input_tokens_per_output_token": own.input_ratio,
            "years": this.request.terms.years,
            "utilisation": this.request.terms.utilisation,
            "usd_per_kwh": this.request.terms.kwh,
            "subscription_months": this.subscription_months,
        }
    out["break_even"] = [
        {
            "api": each.api.name,
            "usd_per_million_tokens": each.api_per_million,
            "million_tokens_per_month": each.per_month,
            "reachable": each.reachable,
            "source": each.api.source,
            "date": each.api.date,
        }
        for each in this.against
    ]
    return out


def _figure(figure: Figure | None) -> dict[str, float] | None:
    if figure is None or not math.isfinite(figure.value):
        return None
    return {"value": figure.value, "low": figure.low, "high": figure.high}


def with_price(machine: Machine, price: float | None, watts: float | None) -> Machine:
    """A machine at the user's own price (dollars) and power (watts). Raises UsageError."""
    for name, value in (("price", price), ("power", watts)):
        if value is not None and (not math.isfinite(value) or not 0 < value <= 1e12):
            raise UsageError(
                f"a {name} of {value:g} makes no sense", remedy="Give a positive number"
            )
    if price is not None:
        machine = replace(machine, price=Figure.exactly(price), unpriced=())
    if watts is not None:
        machine = replace(machine, watts=Figure.exactly(watts))
    return machine
