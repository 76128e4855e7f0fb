"""`perilune plan`: what a machine will do with a model, and what it costs; compare; buy."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perilune.cli.option_groups import Only, Without, with_option_groups
from perilune.cli.plan_flags import (
    DEFAULT_MODEL,
    NO_DEMAND,
    NO_MONEY,
    NO_WEIGHTS,
    AsJson,
    DemandFlags,
    Hardware,
    Model,
    MoneyFlags,
    Own,
    WeightFlags,
)
from perilune.errors import UsageError

if TYPE_CHECKING:
    from perilune.plan.catalogue import Catalogue
    from perilune.plan.machine import Machine
    from perilune.plan.model_size import ModelSize
    from perilune.plan.planner import Plan, Request

app = typer.Typer(
    add_completion=False, help="Say what a machine will do with a model, and what it costs."
)


@app.callback(invoke_without_command=True)
@with_option_groups
def plan(
    ctx: typer.Context,
    model: Model = DEFAULT_MODEL,
    hardware: Hardware = "this",
    demand: DemandFlags = NO_DEMAND,
    weights: WeightFlags = NO_WEIGHTS,
    catalogue: Own = None,
    price: Annotated[
        float | None, typer.Option(help="Price of the whole machine in US dollars.")
    ] = None,
    watts: Annotated[
        float | None, typer.Option(help="Power of the whole machine at work in watts.")
    ] = None,
    money: MoneyFlags = NO_MONEY,
    subscription: Annotated[
        float | None,
        typer.Option(help="US dollars per month of the subscription that it would replace."),
    ] = None,
    list_names: Annotated[bool, typer.Option("--list", help="Print the names and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """One model on one machine: does it fit, how fast, energy and money per million tokens.

    Exits with 1 where the model does not fit.
    """
    if ctx.invoked_subcommand is not None:
        return
    from perilune.cli.plan_tables import print_names, print_plan
    from perilune.plan.catalogue import read_catalogue
    from perilune.plan.planner import with_price

    known = read_catalogue(catalogue)
    if list_names:
        print_names(known)
        return
    size = weights.sized(model)
    request = demand.request(size, money.terms(), subscription)
    if hardware == "this":
        found = _here(size, model, request, price, watts)
    else:
        from perilune.plan.catalogue import read_machine
        from perilune.plan.planner import plan as make

        found = make(size, with_price(read_machine(hardware, known), price, watts), request)
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        print_plan(found)
    if not found.fits:
        raise typer.Exit(1)


@app.command("compare")
@with_option_groups
def compare_command(
    model: Annotated[
        list[str] | None, typer.Option(help="Name or folder; more than once for several.")
    ] = None,
    hardware: Annotated[
        list[str] | None, typer.Option(help="Name or file; more than once. Default: all.")
    ] = None,
    demand: DemandFlags = NO_DEMAND,
    weights: WeightFlags = NO_WEIGHTS,
    catalogue: Own = None,
    money: Annotated[MoneyFlags, Without("cached")] = NO_MONEY,
    picture: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw price against speed: SVG and PNG.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rows of machines for a model, or of models for a machine; * is on the Pareto front."""
    from perilune.cli.plan_tables import print_compared
    from perilune.plan.catalogue import read_catalogue, read_machine
    from perilune.plan.compare import Compared, compare
    from perilune.plan.picture import draw

    known = read_catalogue(catalogue)
    sizes = [weights.sized(name) for name in model or [DEFAULT_MODEL]]
    machines = [read_machine(name, known) for name in hardware or list(known.machines)]
    terms = money.terms()
    parts = [compare([size], machines, demand.request(size, terms)) for size in sizes]
    plans = tuple(each for part in parts for each in part.plans)
    compared = Compared(plans, tuple(best for part in parts for best in part.front))
    if as_json:
        print(json.dumps(compared.as_json(), indent=2))
    else:
        print_compared(compared)
    if picture is not None:
        for file in draw(compared, picture):
            if not as_json:
                print(file)


@app.command("buy")
@with_option_groups
def buy_command(
    budget: Annotated[str, typer.Option(help="The most to pay: 20000EUR or 20000USD; plain: EUR.")],
    speed: Annotated[float, typer.Option(help="Tokens per second of one stream, at least.")],
    model: Model = DEFAULT_MODEL,
    demand: Annotated[DemandFlags, Only("context", "streams")] = NO_DEMAND,
    weights: WeightFlags = NO_WEIGHTS,
    catalogue: Own = None,
    usd_per_eur: Annotated[
        float | None,
        typer.Option(help="US dollars per euro. Default: the catalogue's, with its date."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Machines to show, cheapest first.")] = 5,
    as_json: AsJson = False,
) -> None:
    """The cheapest machine that does it, of all that the catalogue's parts make.

    Exits with 1 where none does.
    """
    from perilune.cli.plan_tables import print_bought
    from perilune.plan.buy import buy
    from perilune.plan.catalogue import read_catalogue
    from perilune.plan.money import Terms

    known = read_catalogue(catalogue)
    dollars, said = _budget(budget, usd_per_eur, known)
    size = weights.sized(model)
    found = buy(size, known, demand.request(size, Terms()), dollars, speed)
    if as_json:
        print(json.dumps({**found.as_json(), "budget": said}, indent=2))
    else:
        print_bought(found, said, rows)
    if not found.found:
        raise typer.Exit(1)


def _here(
    size: ModelSize, model: str, request: Request, price: float | None, watts: float | None
) -> Plan:
    """Measure this machine; where the model fits, also what the engine does here; then plan."""
    from perilune.plan.calibration import calibrate
    from perilune.plan.placement import check_demand
    from perilune.plan.planner import plan as make
    from perilune.plan.planner import with_price
    from perilune.plan.this_machine import calibrated, this_machine

    check_demand(size, request.demand)
    folder = Path(model) if Path(model).is_dir() else Path.cwd()
    machine = with_price(this_machine(folder), price, watts)
    quick = make(size, machine, request)
    if not quick.fits or request.engine is not None or _has_card(machine):
        return quick  # no need to run anything
    found = calibrate().for_bytes(size)
    return make(size, calibrated(machine, found), request, found.efficiency())


def _has_card(machine: Machine) -> bool:
    from perilune.plan.machine import Kind

    return machine.tier(Kind.VRAM) is not None


def _budget(text: str, usd_per_eur: float | None, known: Catalogue) -> tuple[float, str]:
    """US dollars of `20000EUR`, and how it was calculated. Raises UsageError."""
    match = re.fullmatch(r"\s*([0-9][0-9_,]*(?:\.[0-9]+)?)\s*(EUR|USD)?\s*", text, re.IGNORECASE)
    if match is None:
        raise UsageError(
            f"cannot read the budget {text!r}", remedy="Write for example 20000EUR or 20000USD"
        )
    amount = float(match[1].replace(",", "").replace("_", ""))
    if (match[2] or "EUR").upper() == "USD":
        return amount, f"{amount:,.0f} USD"
    if usd_per_eur is not None and not 0.1 <= usd_per_eur <= 10:
        raise UsageError(f"--usd-per-eur {usd_per_eur:g} is out of range", remedy="Give 0.1 to 10")
    rate, source = usd_per_eur, "as given"
    if rate is None:
        if known.usd_per_eur is None:
            raise UsageError(
                "no exchange rate of the euro is known", remedy="Give --usd-per-eur RATE"
            )
        rate = known.usd_per_eur.value
        source = f"{known.usd_per_eur.source}, {known.usd_per_eur.date}; --usd-per-eur overrides"
    return amount * rate, f"{amount:,.0f} EUR = {amount * rate:,.0f} USD at {rate:g} ({source})"
