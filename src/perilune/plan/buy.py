"""The cheapest machine that does it: every machine that the parts of the catalogue make, priced.

Parts without a price are left out of the sum and named, so a server's sum is its memory, cards and
nothing else until your own file prices the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from perilune.errors import UsageError
from perilune.plan.catalogue import Catalogue
from perilune.plan.machine import Machine
from perilune.plan.model_size import ModelSize
from perilune.plan.planner import Plan, Request, plan

RAM_SIZES = (128e9, 256e9, 384e9, 512e9, 768e9, 1152e9, 1536e9)
CARD_COUNTS = (1, 2, 4, 8)
DRIVE_COUNTS = (0, 1, 2, 4)
BOX_COUNTS = (1, 2, 4)
MOST_SPEED = 1e6


@dataclass(frozen=True, slots=True)
class Bought:
    """found: plans within the budget that reach the speed, cheapest first (equal price: faster).

    sure: those whose slow end reaches it too. fastest: the fastest within the budget whatever its
    speed; cheapest: the cheapest that reaches the speed whatever its price. tried: machines.
    """

    found: tuple[Plan, ...]
    fastest: Plan | None
    cheapest: Plan | None
    tried: int
    budget: float
    speed: float

    @property
    def whole(self) -> Plan | None:
        """The cheapest found whose price leaves nothing out."""
        return next((p for p in self.found if not p.machine.unpriced), None)

    def sure(self, this: Plan) -> bool:
        return this.decode is not None and this.decode.low >= self.speed

    def as_json(self) -> dict[str, Any]:
        return {
            "budget_usd": self.budget,
            "tokens_per_second": self.speed,
            "machines_tried": self.tried,
            "found": [{**p.as_json(), "sure": self.sure(p)} for p in self.found],
            "cheapest_whole_price": None if self.whole is None else self.whole.as_json(),
            "fastest_within_budget": None if self.fastest is None else self.fastest.as_json(),
            "cheapest_at_speed": None if self.cheapest is None else self.cheapest.as_json(),
        }


def buy(
    model: ModelSize, catalogue: Catalogue, request: Request, budget: float, speed: float
) -> Bought:
    """budget: dollars; speed: tokens per second of one stream. Raises UsageError for nonsense."""
    if not 0 < budget <= 1e12:
        raise UsageError(
            f"a budget of {budget:g} dollars buys nothing", remedy="Give a positive sum"
        )
    if not 0 < speed <= MOST_SPEED:
        raise UsageError(
            f"a speed of {speed:g} tokens per second makes no sense", remedy="Give a positive speed"
        )
    plans = [plan(model, machine, request) for machine in candidates(catalogue)]
    priced = sorted((p for p in plans if p.fits and p.machine.price is not None), key=_order)
    fast = [p for p in priced if _speed(p) >= speed]
    within = [p for p in priced if _price(p) <= budget]
    return Bought(
        tuple(p for p in fast if _price(p) <= budget),
        max(within, key=_speed, default=None),
        fast[0] if fast else None,
        len(plans),
        budget,
        speed,
    )


def candidates(catalogue: Catalogue) -> Iterator[Machine]:
    """Machines of the catalogue by name, and every sensible sum of its priced parts."""
    seen: set[tuple[Any, ...]] = set()
    for name, spec in [*catalogue.machines.items(), *_sums(catalogue)]:
        key = tuple(sorted((k, str(v)) for k, v in spec.items() if k != "title"))
        if key not in seen:
            seen.add(key)
            yield catalogue.assemble(name, spec)


def _sums(catalogue: Catalogue) -> Iterator[tuple[str, dict[str, Any]]]:
    cards = [n for n, part in catalogue.parts["cards"].items() if part.price is not None]
    drives = list(catalogue.parts["drives"])
    for memory, part in catalogue.parts["memory"].items():
        if part.price_per_gb is None:
            continue
        for sockets in (1,) if part.most is not None and part.most.value < 1e12 else (1, 2):
            for ram in RAM_SIZES:
                if part.most is not None and ram > part.most.value * sockets:
                    continue
                for extra, card in _cards(cards):
                    for more, drive in _drives(drives):
                        name = f"{memory}-{ram / 1e9:.0f}" + ("-x2" if sockets > 1 else "")
                        spec = {"memory": memory, "sockets": sockets, "ram": ram}
                        title = f"{sockets} x {part.title}, {ram / 1e9:.0f} GB"
                        spec |= {"title": title + card[0] + drive[0]} | extra | more
                        yield name + card[1] + drive[1], spec
    for name, box in catalogue.parts["boxes"].items():
        for count in BOX_COUNTS:
            spec = {"box": name, "title": f"{count} x {box.title}"}
            if count > 1 and "thunderbolt-rdma" in catalogue.links:
                spec |= {"nodes": count, "link": "thunderbolt-rdma", "split": "tensor"}
            elif count > 1:
                continue
            yield f"{count}x-{name}", spec


def _cards(names: list[str]) -> Iterator[tuple[dict[str, Any], tuple[str, str]]]:
    yield {}, ("", "")
    for name in names:
        for count in CARD_COUNTS:
            yield (
                {"cards": {name: count}, "bus": "pcie4"},
                (f", {count} x {name}", f"-{count}{name}"),
            )


def _drives(names: list[str]) -> Iterator[tuple[dict[str, Any], tuple[str, str]]]:
    yield {}, ("", "")
    for name in names:
        for count in DRIVE_COUNTS[1:]:
            yield {"drives": {name: count}}, (f", {count} x {name}", f"-{count}{name}")


def _price(this: Plan) -> float:
    assert this.machine.price is not None
    return this.machine.price.value


def _speed(this: Plan) -> float:
    """Of one stream."""
    assert this.decode is not None
    return this.decode.value / this.request.demand.streams


def _order(this: Plan) -> tuple[float, float]:
    return _price(this), -_speed(this)
