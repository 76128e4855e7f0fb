"""Seconds until the first token: the prompt in chunks, each bound by arithmetic or by reading.

A chunk of some hundred tokens touches every expert, so its experts are read once per chunk from
wherever they lie. Experts in RAM of a machine with cards are either computed by the processor or
sent to the cards over the bus, whichever is sooner. Nobody can say how fast arithmetic is from a
bandwidth: where the data have no `operations` for a device, there is no prediction.
"""

from __future__ import annotations

from dataclasses import dataclass

from perilune.plan.efficiency import Efficiency
from perilune.plan.figure import Case, Figure, spread
from perilune.plan.machine import Kind, Machine, Split, Tier
from perilune.plan.model_size import ModelSize
from perilune.plan.placement import Placement
from perilune.plan.step import weights_rate


@dataclass(frozen=True, slots=True)
class Prefill:
    """Of one prompt: seconds, tokens per second, and what bounds it."""

    tokens: int
    seconds: Figure
    bound: str

    @property
    def rate(self) -> Figure:
        s = self.seconds
        return Figure(self.tokens / s.value, self.tokens / s.high, self.tokens / s.low)


def prefill(
    model: ModelSize, machine: Machine, placement: Placement, engine: Efficiency, tokens: int
) -> Prefill | None:
    """None where no device of the machine has a figure for its arithmetic."""
    if not any(tier.operations is not None for tier in machine.memories):
        return None

    fixed = engine.fixed + model.text.num_hidden_layers * engine.fixed_layer

    def total(case: Case) -> float:
        done, seconds = 0, 0.0
        while done < tokens:
            count = min(engine.chunk, tokens - done)
            seconds += max(_chunk(model, machine, placement, engine, count, done, case).values())
            seconds += fixed / engine.factor(case)
            done += count
        return seconds

    first = _chunk(model, machine, placement, engine, min(engine.chunk, tokens), 0, Case.EXPECTED)
    bound = max(first, key=lambda what: first[what])
    return Prefill(tokens, spread(total), bound)


def _chunk(
    model: ModelSize,
    machine: Machine,
    placement: Placement,
    engine: Efficiency,
    count: int,
    before: int,
    case: Case,
) -> dict[str, float]:
    """Seconds of what happens side by side: the longest is the chunk's."""
    home = machine.tier(placement.home)
    assert home is not None
    experts = model.experts_read(count)
    work = model.operations(count, before + count / 2)
    ram = machine.tier(Kind.RAM)
    in_ram = placement.experts.get(Kind.RAM, 0.0) if placement.home is not Kind.RAM else 0.0
    found = {f"weights, {home.kind}": model.fixed / weights_rate(machine, home, engine, case)}
    by_card = _seconds(work, home, machine, case)
    if ram is None or not in_ram:
        if by_card is not None:
            found["arithmetic"] = by_card
    else:
        sent = float("inf")
        if machine.bus is not None and by_card is not None:
            sent = max(by_card, experts * in_ram / machine.bus.at(case))
        by_processor = _seconds(work, ram, machine, case)
        if by_processor is not None and by_processor < sent:
            found["arithmetic, processor"] = by_processor
        elif sent < float("inf"):
            found["experts over the bus"] = sent
    for tier in machine.memories:
        share = placement.experts.get(tier.kind, 0.0)
        if share:
            rate = weights_rate(machine, tier, engine, case)
            found[f"experts, {tier.kind}"] = experts * share / rate
    disk = machine.tier(Kind.DISK)
    if placement.on_disk and disk is not None:
        rate = weights_rate(machine, disk, engine, case)
        found["experts, disk"] = experts * placement.on_disk / rate
    return found


def _seconds(work: float, tier: Tier, machine: Machine, case: Case) -> float | None:
    if tier.operations is None:
        return None
    nodes = machine.nodes if machine.split is Split.TENSOR else 1
    return work / (tier.operations.at(case) * tier.count * nodes)
