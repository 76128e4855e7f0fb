"""`perilune plan`: what a machine will do with a model, and what it costs; compare; buy."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perilune.errors import UsageError

if TYPE_CHECKING:
    from perilune.plan.catalogue import Catalogue
    from perilune.plan.machine import Machine
    from perilune.plan.model_size import ModelSize
    from perilune.plan.planner import Plan, Request

app = typer.Typer(
    add_completion=False, help="Say what a machine will do with a model, and what it costs."
)

DEFAULT_MODEL = "k2-thinking"
DEFAULT_CONTEXT = 8192

Model = Annotated[str, typer.Option(help="Name (see --list) or checkpoint folder.")]
Hardware = Annotated[str, typer.Option(help="Name, a file of your own (.toml), or: this.")]
Context = Annotated[
    int | None, typer.Option(help="Tokens of context per stream. Default: 8,192 or the model's.")
]
Streams = Annotated[int, typer.Option(help="Answers side by side.")]
Prompt = Annotated[int | None, typer.Option(help="Tokens of prompt until the first token.")]
Engine = Annotated[str | None, typer.Option(help="Kind of engine (see --list). Default: usual.")]
Bits = Annotated[float | None, typer.Option(help="Bits per weight, as GGUF files have. All parts.")]
Dense = Annotated[str | None, typer.Option(help="int8 or int4: dense layers quantised at load.")]
LatentBits = Annotated[float, typer.Option(help="Bits of a cached value: 16, or 8.")]
Own = Annotated[
    Path | None, typer.Option("--catalogue", help="Your own entries; they replace ours.")
]
Years = Annotated[float, typer.Option(help="Years of use.")]
Utilisation = Annotated[float, typer.Option(help="Share of the time that it works, 0 to 1.")]
Kwh = Annotated[float, typer.Option("--kwh-price", help="US dollars per kWh.")]
InputRatio = Annotated[float, typer.Option(help="Tokens of prompt for one of the answer.")]
Cached = Annotated[float, typer.Option(help="Share of the prompt that a provider has cached.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@dataclass(frozen=True, slots=True)
class _Model:
    """How the weights and the cache are held."""

    bits: float | None
    dense: str | None
    latent_bits: float

    def sized(self, name: str) -> ModelSize:
        from perilune.plan.model_size import model_at_bits, named_model

        if not 1 <= self.latent_bits <= 32:
            raise UsageError(f"{self.latent_bits:g} bits of a cached value", remedy="16 or 8")
        if self.bits is not None and self.dense is not None:
            raise UsageError("--bits is of all parts, --dense of some: give one of them")
        model = named_model(name) if self.bits is None else model_at_bits(name, self.bits)
        if self.dense is not None:
            model = model.with_dense(self.dense)
        return model.with_latent_bits(self.latent_bits)


@app.callback(invoke_without_command=True)
def plan(
    ctx: typer.Context,
    model: Model = DEFAULT_MODEL,
    hardware: Hardware = "this",
    context: Context = None,
    streams: Streams = 1,
    prompt: Prompt = None,
    engine: Engine = None,
    bits: Bits = None,
    dense: Dense = None,
    latent_bits: LatentBits = 16,
    catalogue: Own = None,
    price: Annotated[float | None, typer.Option(help="US dollars of the whole machine.")] = None,
    watts: Annotated[float | None, typer.Option(help="Watts of the whole machine.")] = None,
    kwh_price: Kwh = 0.20,
    years: Years = 3.0,
    utilisation: Utilisation = 0.5,
    input_ratio: InputRatio = 3.0,
    cached: Cached = 0.0,
    subscription: Annotated[
        float | None, typer.Option(help="US dollars a month that it would replace.")
    ] = None,
    list_names: Annotated[bool, typer.Option("--list", help="Print the names and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """One model on one machine: does it fit, how fast, energy and money a million tokens.

    Exits with 1 where the model does not fit.
    """
    if ctx.invoked_subcommand is not None:
        return
    from perilune.cli.plan_tables import print_names, print_plan
    from perilune.plan.catalogue import read_catalogue
    from perilune.plan.money import Terms
    from perilune.plan.planner import with_price

    known = read_catalogue(catalogue)
    if list_names:
        print_names(known)
        return
    size = _Model(bits, dense, latent_bits).sized(model)
    terms = Terms(years, utilisation, kwh_price, input_ratio, cached)
    request = _request(size, context, streams, prompt, engine, terms, subscription)
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
def compare_command(
    model: Annotated[
        list[str] | None, typer.Option(help="Name or folder; more than once for several.")
    ] = None,
    hardware: Annotated[
        list[str] | None, typer.Option(help="Name or file; more than once. Default: all.")
    ] = None,
    context: Context = None,
    streams: Streams = 1,
    prompt: Prompt = None,
    engine: Engine = None,
    bits: Bits = None,
    dense: Dense = None,
    latent_bits: LatentBits = 16,
    catalogue: Own = None,
    kwh_price: Kwh = 0.20,
    years: Years = 3.0,
    utilisation: Utilisation = 0.5,
    input_ratio: InputRatio = 3.0,
    picture: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw price against speed: SVG and PNG.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rows of machines for a model, or of models for a machine; * is on the Pareto front."""
    from perilune.cli.plan_tables import print_compared
    from perilune.plan.catalogue import read_catalogue, read_machine
    from perilune.plan.compare import Compared, compare
    from perilune.plan.money import Terms
    from perilune.plan.picture import draw

    known = read_catalogue(catalogue)
    how = _Model(bits, dense, latent_bits)
    sizes = [how.sized(name) for name in model or [DEFAULT_MODEL]]
    machines = [read_machine(name, known) for name in hardware or list(known.machines)]
    terms = Terms(years, utilisation, kwh_price, input_ratio)
    parts = [
        compare([s], machines, _request(s, context, streams, prompt, engine, terms)) for s in sizes
    ]
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
def buy_command(
    budget: Annotated[str, typer.Option(help="The most to pay: 20000EUR or 20000USD; plain: EUR.")],
    speed: Annotated[float, typer.Option(help="Tokens per second of one stream, at least.")],
    model: Model = DEFAULT_MODEL,
    context: Context = None,
    streams: Streams = 1,
    bits: Bits = None,
    dense: Dense = None,
    latent_bits: LatentBits = 16,
    catalogue: Own = None,
    usd_per_eur: Annotated[
        float | None, typer.Option(help="US dollars for a euro. Default: the catalogue's, dated.")
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
    size = _Model(bits, dense, latent_bits).sized(model)
    found = buy(size, known, _request(size, context, streams, None, None, Terms()), dollars, speed)
    if as_json:
        print(json.dumps({**found.as_json(), "budget": said}, indent=2))
    else:
        print_bought(found, said, rows)
    if not found.found:
        raise typer.Exit(1)


def _request(
    size: ModelSize,
    context: int | None,
    streams: int,
    prompt: int | None,
    engine: str | None,
    terms: object,
    subscription: float | None = None,
) -> Request:
    from perilune.plan.efficiency import efficiency
    from perilune.plan.money import Terms
    from perilune.plan.placement import Demand
    from perilune.plan.planner import Request

    assert isinstance(terms, Terms)
    if engine is not None:
        efficiency(engine)  # an unknown name is said before anything is measured
    if context is None:
        context = min(DEFAULT_CONTEXT, size.text.max_position_embeddings)
    return Request(Demand(context, streams), prompt, engine, terms, subscription)


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
    """US dollars of `20000EUR`, and how it was reckoned. Raises UsageError."""
    match = re.fullmatch(r"\s*([0-9][0-9_,]*(?:\.[0-9]+)?)\s*(EUR|USD)?\s*", text, re.IGNORECASE)
    if match is None:
        raise UsageError(f"a budget of {text!r}", remedy="For example 20000EUR or 20000USD")
    amount = float(match[1].replace(",", "").replace("_", ""))
    if (match[2] or "EUR").upper() == "USD":
        return amount, f"{amount:,.0f} USD"
    if usd_per_eur is not None and not 0.1 <= usd_per_eur <= 10:
        raise UsageError(f"{usd_per_eur:g} US dollars for a euro", remedy="About 1")
    rate, source = usd_per_eur, "as given"
    if rate is None:
        if known.usd_per_eur is None:
            raise UsageError("no rate of the euro is known", remedy="Give --usd-per-eur RATE")
        rate = known.usd_per_eur.value
        source = f"{known.usd_per_eur.source}, {known.usd_per_eur.date}; --usd-per-eur overrides"
    return amount * rate, f"{amount:,.0f} EUR = {amount * rate:,.0f} USD at {rate:g} ({source})"
