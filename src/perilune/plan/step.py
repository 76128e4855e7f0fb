"""Seconds of one step of decoding: what is read from which memory, and what bounds it.

    t = fixed + max(sum of bytes / (bandwidth x share), operations / rate) + drives + links

Weights outside the experts are read once per step, of the experts the distinct ones that the rows
touch (uniform routing, as the engine counts), of the cache every stream's context. Experts are
computed where they lie; only those on drives move. In the slow and the expected case a step waits
for its drives after computing, in the fast case both happen at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from perilune.errors import UsageError
from perilune.plan.efficiency import Efficiency, hit_rate
from perilune.plan.figure import Case, Figure, spread
from perilune.plan.machine import Kind, Machine, Split, Tier
from perilune.plan.model_size import ModelSize
from perilune.plan.placement import Demand, Placement

COLLECTIVES_A_LAYER = 2  # all-reduces of tensor parallelism: after attention, after the experts


@dataclass(frozen=True, slots=True)
class Term:
    """One share of a step: what takes the time, and seconds."""

    what: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Step:
    """One step of all streams. terms: the expected case, largest first."""

    seconds: Figure
    terms: tuple[Term, ...]

    @property
    def bound(self) -> Term:
        """What takes most of it."""
        return self.terms[0]


def rows_at_once(machine: Machine, streams: int) -> float:
    """Rows of one pass: several machines in line each work on a share of the streams."""
    in_line = machine.nodes > 1 and machine.split is Split.PIPELINE
    return streams / min(machine.nodes, streams) if in_line else streams


def decode_step(
    model: ModelSize, machine: Machine, placement: Placement, demand: Demand, engine: Efficiency
) -> Step:
    """Seconds of a step with its interval. Raises UsageError where the link lacks a figure."""

    def total(case: Case) -> float:
        return sum(term.seconds for term in _terms(model, machine, placement, demand, engine, case))

    terms = list(_terms(model, machine, placement, demand, engine, Case.EXPECTED))
    ordered = sorted((t for t in terms if t.seconds > 0), key=lambda t: -t.seconds)
    return Step(spread(total), tuple(ordered))


def decode_rate(machine: Machine, demand: Demand, step: Step) -> Figure:
    """Tokens per second of all streams together, from the seconds of a step."""
    rows = rows_at_once(machine, demand.streams)
    in_flight = demand.streams / rows  # passes side by side, one in each part of the line
    tokens = rows * in_flight
    s = step.seconds
    return Figure(tokens / s.value, tokens / s.high, tokens / s.low)


def weights_rate(machine: Machine, tier: Tier, engine: Efficiency, case: Case) -> float:
    """Bytes per second of weights out of a tier of the whole machine."""
    devices = tier.count if engine.joined or tier.kind is Kind.DISK else 1
    nodes = machine.nodes if machine.split is Split.TENSOR else 1
    if tier.kind is Kind.DISK:
        share = engine.disk_share * engine.disk_factor(case)
    else:
        share = engine.share * engine.factor(case)
    return tier.bandwidth.at(case) * devices * nodes * share


def latent_seconds(
    machine: Machine, tier: Tier, engine: Efficiency, read: float, case: Case
) -> float:
    """Seconds to read `read` bytes of latents (of all streams, one copy)."""
    spread_out = engine.joined and not engine.copied
    devices = tier.count if spread_out else 1
    return read / (tier.bandwidth.at(case) * devices * engine.latent_share * engine.factor(case))


def _terms(
    model: ModelSize,
    machine: Machine,
    placement: Placement,
    demand: Demand,
    engine: Efficiency,
    case: Case,
) -> Iterator[Term]:
    layers = model.text.num_hidden_layers
    yield Term("fixed time of a step", engine.fixed / engine.factor(case))
    if engine.fixed_layer:
        yield Term("fixed time of the layers", layers * engine.fixed_layer / engine.factor(case))
    rows = rows_at_once(machine, demand.streams)
    reading = list(_reading(model, machine, placement, demand, engine, rows, case))
    home = machine.tier(placement.home)
    assert home is not None
    if home.operations is not None:
        devices = home.count * (machine.nodes if machine.split is Split.TENSOR else 1)
        rate = home.operations.at(case) * devices
        computing = model.operations(rows, demand.context) / rate
        if computing > sum(term.seconds for term in reading):
            reading = [Term("arithmetic", computing)]
    yield from reading
    yield from _drives(
        model, machine, placement, engine, rows, case, sum(t.seconds for t in reading)
    )
    yield from _links(machine, layers, case)


def _reading(
    model: ModelSize,
    machine: Machine,
    placement: Placement,
    demand: Demand,
    engine: Efficiency,
    rows: float,
    case: Case,
) -> Iterator[Term]:
    """Of the memories; experts that drives hold are counted where they are found or put."""
    home = machine.tier(placement.home)
    assert home is not None
    yield Term(
        f"weights outside the experts, {home.kind}",
        model.fixed / weights_rate(machine, home, engine, case),
    )
    read = rows * demand.context * model.latent
    yield Term(f"latent cache, {home.kind}", latent_seconds(machine, home, engine, read, case))
    wanted = model.experts_read(rows)
    held = 1 - placement.on_disk
    for tier in machine.memories:
        share = placement.experts.get(tier.kind, 0.0)
        if share > 0:
            # What comes from a drive is computed out of memory too: divide by what memory holds.
            bytes_read = wanted * share / held
            yield Term(
                f"experts, {tier.kind}", bytes_read / weights_rate(machine, tier, engine, case)
            )


def _drives(
    model: ModelSize,
    machine: Machine,
    placement: Placement,
    engine: Efficiency,
    rows: float,
    case: Case,
    computing: float,
) -> Iterator[Term]:
    disk = machine.tier(Kind.DISK)
    if placement.on_disk <= 0 or disk is None:
        return
    missing = model.experts_read(rows) * (1 - hits(model, placement, case))
    seconds = missing / weights_rate(machine, disk, engine, case)
    if case is Case.FAST:
        seconds = max(seconds - computing, 0.0)
    yield Term("experts, disk", seconds)


def hits(model: ModelSize, placement: Placement, case: Case = Case.EXPECTED) -> float:
    """Share of expert uses that memory answers."""
    one_token = model.text.num_experts_per_tok / max(1, model.text.n_routed_experts)
    return hit_rate().at(1 - placement.on_disk, one_token, case)


def _links(machine: Machine, layers: int, case: Case) -> Iterator[Term]:
    if machine.nodes == 1 or machine.link is None:
        return
    if machine.split is Split.PIPELINE:
        yield Term(
            "messages between machines", machine.nodes * machine.link.latency.at_falling(case)
        )
        return
    if machine.link.collective is None:
        raise UsageError(
            f"nobody has measured an all-reduce over {machine.link.title}",
            remedy='Use split = "pipeline", or give the link a `collective` in your own file',
        )
    count = COLLECTIVES_A_LAYER * layers
    yield Term("all-reduces", count * machine.link.collective.at_falling(case))
