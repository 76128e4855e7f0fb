"""The planner's answers as tables: a unit in every column, a spread beside every prediction."""

from __future__ import annotations

from perilune.plan.buy import Bought
from perilune.plan.catalogue import Catalogue
from perilune.plan.compare import Compared
from perilune.plan.efficiency import efficiencies
from perilune.plan.figure import Figure
from perilune.plan.model_size import NAMED
from perilune.plan.money import Owning
from perilune.plan.planner import Plan
from perilune.weights.format_bytes import gigabytes

SHOWN_APIS = 8


def digits(value: float) -> str:
    """Three figures, with separators: 1,330 or 22.1 or 0.543."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def spread(figure: Figure | None, nothing: str = "not known") -> str:
    """`22.1 (15.2 to 28.3)`."""
    if figure is None:
        return nothing
    if figure.low == figure.high:
        return digits(figure.value)
    return f"{digits(figure.value)} ({digits(figure.low)} to {digits(figure.high)})"


def print_names(catalogue: Catalogue) -> None:
    print(f"models: {', '.join(NAMED)}; or a checkpoint folder\n")
    print("hardware: this, or a .toml file of your own, or")
    for name, spec in catalogue.machines.items():
        print(f"  {name:<24} {spec.get('title', '')}")
    print("\nengines:")
    for name, kind in efficiencies().items():
        print(f"  {name:<24} {kind.title}")


def print_plan(plan: Plan) -> None:
    demand = plan.request.demand
    print(f"{plan.model.name} ({plan.model.storage}) on {plan.machine.title}")
    print(f"  {demand.streams} stream(s), {demand.context:,} tokens of context each\n")
    if plan.refusal is not None:
        print(f"does NOT fit: {plan.refusal.message}")
        print(f"  remedy: {plan.refusal.remedy}\n")
    else:
        _print_placement(plan)
        _print_speed(plan)
    _print_money(plan)
    if plan.machine.sources:
        print("\nfigures of the hardware: " + "; ".join(plan.machine.sources))


def _print_placement(plan: Plan) -> None:
    assert plan.placement is not None
    kinds = [tier.kind for tier in plan.machine.tiers]
    names = list(dict.fromkeys(row.part for row in plan.placement.rows))
    width = max(len(name) for name in [*names, "can be used"])
    print("  bytes" + " " * (width - 5) + "".join(f"{kind.value:>18}" for kind in kinds))
    for name in names:
        cells = []
        for kind in kinds:
            found = [r.bytes for r in plan.placement.rows if r.part == name and r.kind is kind]
            cells.append(gigabytes(int(sum(found))) if found else "")
        print(f"  {name:<{width}}" + "".join(f"{cell:>18}" for cell in cells))
    used = [sum(r.bytes for r in plan.placement.rows if r.kind is kind) for kind in kinds]
    print(f"  {'sum':<{width}}" + "".join(f"{gigabytes(int(n)):>18}" for n in used))
    there = [gigabytes(int(plan.machine.capacity(kind))) for kind in kinds]
    print(f"  {'can be used':<{width}}" + "".join(f"{cell:>18}" for cell in there) + "\n")


def _print_speed(plan: Plan) -> None:
    assert plan.step is not None and plan.decode is not None
    bound = plan.step.bound
    streams = plan.request.demand.streams
    part = f"{bound.what}, {bound.seconds / plan.step.seconds.value:.0%} of a step"
    print(f"  {'':<28}{'expected (interval)':<30}bound by")
    print(f"  {'decode, tokens/s':<28}{spread(plan.decode):<30}{part}")
    if streams > 1:
        print(f"  {'  of one stream, tokens/s':<28}{spread(plan.decode * (1 / streams))}")
    if plan.prefill is None:
        print(f"  {'prefill, tokens/s':<28}not known: no device here has a figure for arithmetic")
    else:
        rate = spread(plan.prefill.rate)
        print(f"  {'prefill, tokens/s':<28}{rate:<30}{plan.prefill.bound}")
        what = f"first token of {plan.prefill.tokens:,}, s"
        print(f"  {what:<28}{spread(plan.first_token)}")
    if plan.hits is not None:
        print(f"  {'experts found in memory':<28}{plan.hits:.0%}")
    print(
        "\n  a step, ms: "
        + ", ".join(f"{term.what} {digits(term.seconds * 1e3)}" for term in plan.step.terms)
    )
    print(f"  efficiencies: {plan.engine.title}; {plan.engine.source} ({plan.engine.date})")
    if plan.record is not None:
        rows, error = plan.record
        print(f"  judged by {rows} published row(s): median error {error:.0%}")
    print()


def _print_money(plan: Plan) -> None:
    own, terms = plan.owning, plan.request.terms
    assert own is not None
    print(f"  {'price, USD':<36}{spread(own.capital)}")
    if plan.machine.unpriced:
        print(f"  {'  without, for lack of a source':<36}{', '.join(plan.machine.unpriced)}")
    if plan.machine.rent is not None:
        print(f"  {'rent, USD per hour':<36}{spread(plan.machine.rent)}")
    if own.kwh_per_year is None or own.power_per_year is None:
        print(f"  {'power':<36}not known")
    else:
        assert plan.machine.watts is not None
        print(f"  {'power at work, kW':<36}{digits(plan.machine.watts.value / 1e3)}")
        print(f"  {'  working all year, kWh':<36}{own.kwh_per_year:,.0f}")
        print(
            f"  {'  working all year, USD':<36}{own.power_per_year:,.0f} "
            f"({own.power_per_year / 12:,.0f} per month, at {terms.kwh:g} per kWh)"
        )
    if plan.fits:
        _print_millions(plan, own)
    if plan.request.subscription is not None:
        months = plan.subscription_months
        said = "never" if months is None else f"{months:,.0f} months ({months / 12:.1f} years)"
        label = f"paid back by {plan.request.subscription:g} USD per month"
        print(f"  {label:<36}{said}")
        if not plan.fits:
            print("  (which would be of no use: the model does not fit)")


def _print_millions(plan: Plan, own: Owning) -> None:
    terms = plan.request.terms
    reckoned = f"{terms.years:g} years, {terms.utilisation:.0%} of the time"
    print(f"  {'energy, kWh per million tokens':<36}{spread(own.kwh_per_million)}")
    print(f"  {'power, USD per million tokens':<36}{spread(own.power_per_million)}")
    print(
        f"  {'capital, USD per million tokens':<36}{spread(own.capital_per_million)} ({reckoned})"
    )
    print(f"  {'both, USD per million tokens':<36}{spread(own.per_million)}")
    if own.input_ratio:
        print(f"  {'':<36}of answer, each with {own.input_ratio:g} tokens of prompt computed")
    else:
        print(f"  {'':<36}of answer; prompts left out")
    most = own.most_per_month
    print(f"  {'can give, million tokens per month':<36}{spread(most)}")
    if not plan.against:
        print("\n  no break-even: price or power is not known")
        return
    print(f"\n  {'against':<26}{'USD/M tokens':>14}{'owning is cheaper from, M tokens/month':>42}")
    order = sorted(plan.against, key=lambda each: each.api_per_million)
    for each in order[:SHOWN_APIS]:
        if each.per_month is None:
            said = "never: power alone costs more"
        elif not each.reachable:
            said = f"{digits(each.per_month)}: more than it can give"
        else:
            said = digits(each.per_month)
        print(f"  {each.api.name:<26}{each.api_per_million:>14.2f}{said:>42}")
    cheaper = [each for each in order if each.reachable]
    if not cheaper:
        print("  The API is cheaper, whichever of them, at any use of this machine.")
    source = order[0].api
    print(f"  prices: {source.source} ({source.date}); {len(order)} in all with --json")


def print_compared(compared: Compared) -> None:
    head = (
        f"  {'hardware':<24}{'model':<14}{'USD':>10}{'kW':>7}{'decode, tokens/s':>26}"
        f"{'prefill, tok/s':>16}{'USD/M tokens':>15}  bound by"
    )
    print(head)
    for plan, best in zip(compared.plans, compared.front, strict=True):
        price, watts = plan.machine.price, plan.machine.watts
        cost = "" if price is None else f"{price.value:,.0f}"
        power = "" if watts is None else digits(watts.value / 1e3)
        mark, name = "*" if best else " ", plan.machine.name
        start = f"{mark} {name:<24}{plan.model.name:<14}{cost:>10}{power:>7}"
        if plan.step is None or plan.refusal is not None:
            assert plan.refusal is not None
            short = plan.refusal.needed - plan.refusal.there
            print(f"{start}  does not fit: {gigabytes(int(short))} short")
            continue
        prefill = "" if plan.prefill is None else digits(plan.prefill.rate.value)
        own = plan.owning
        million = "" if own is None or own.per_million is None else digits(own.per_million.value)
        print(f"{start}{spread(plan.decode):>26}{prefill:>16}{million:>15}  {plan.step.bound.what}")
    print("  * nothing here that costs no more is faster. Prices leave out what has no source.")


def print_bought(bought: Bought, budget: str, rows: int) -> None:
    print(
        f"budget {budget}; at least {bought.speed:g} tokens/s a stream; "
        f"{bought.tried} machines tried\n"
    )
    if not bought.found:
        print("none does it.")
        if bought.fastest is not None:
            print(f"  fastest within the budget: {_one(bought.fastest)}")
        if bought.cheapest is not None:
            print(f"  cheapest at that speed:    {_one(bought.cheapest)}")
        else:
            print("  no machine of the catalogue's parts reaches that speed")
        return
    print(f"  {'USD':>8}{'tokens/s a stream (interval)':>34}  {'sure':<6}machine")
    for plan in bought.found[:rows]:
        assert plan.decode is not None and plan.machine.price is not None
        rate = spread(plan.decode * (1 / plan.request.demand.streams))
        sure = "yes" if bought.sure(plan) else "no"
        print(f"  {plan.machine.price.value:>8,.0f}{rate:>34}  {sure:<6}{plan.machine.title}")
    best = bought.found[0]
    print(f"\n  cheapest: {_one(best)}")
    if best.machine.unpriced:
        print(f"  not in its price, for lack of a source: {', '.join(best.machine.unpriced)}")
        whole = "none" if bought.whole is None else _one(bought.whole)
        print(f"  cheapest whose price leaves nothing out: {whole}")
    print("  sure: the slow end of the interval reaches the speed too")


def _one(plan: Plan) -> str:
    assert plan.decode is not None and plan.machine.price is not None
    rate = plan.decode * (1 / plan.request.demand.streams)
    return f"{plan.machine.title}, {plan.machine.price.value:,.0f} USD, {spread(rate)} tokens/s"
