"""What lies where, and whether it fits: decided before anything else, refused with numbers.

Weights outside the experts, the latent cache and the work space of a step go together into the
fastest memory that takes them. Experts fill what is left, fastest memory first; the rest stays on
drives, and memory is then a cache of them. Cache and work space are the engine's own plan
(`perilune.engine.load.plan_memory`), to the byte.
"""

from __future__ import annotations

from dataclasses import dataclass

from perilune.engine.load import EngineOptions, MemoryPlan, plan_memory
from perilune.errors import OutOfMemoryError, UsageError
from perilune.formats import Part
from perilune.plan.efficiency import Efficiency
from perilune.plan.machine import Kind, Machine, Split
from perilune.plan.model_size import LATENT_BITS, ModelSize
from perilune.runner.cache import PAGE_SIZE, pages_for
from perilune.weights.format_bytes import gigabytes

MOST_STREAMS = 65_536


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of the model. context: tokens that one stream has before the next one."""

    context: int
    streams: int = 1


@dataclass(frozen=True, slots=True)
class Placed:
    """Bytes of one part in one kind of memory."""

    part: str
    kind: Kind
    bytes: float


@dataclass(frozen=True, slots=True)
class Placement:
    """rows: the table by part and tier. experts: share of all experts in each kind; sums to 1.

    home: where the weights outside the experts lie. cache, workspace, weights: the engine's plan.
    """

    rows: tuple[Placed, ...]
    home: Kind
    experts: dict[Kind, float]
    cache: float
    workspace: float
    weights: int

    @property
    def on_disk(self) -> float:
        """Share of the experts that no memory holds."""
        return self.experts.get(Kind.DISK, 0.0)

    @property
    def needed(self) -> float:
        return sum(row.bytes for row in self.rows)


class DoesNotFitError(OutOfMemoryError):
    """The machine cannot run the model; `needed` and `there` in bytes."""

    code = "does_not_fit"

    def __init__(self, message: str, needed: float, there: float, remedy: str) -> None:
        self.needed = needed
        self.there = there
        super().__init__(message, remedy=remedy)


def check_demand(model: ModelSize, demand: Demand) -> None:
    """Raises UsageError for a context or a number of streams that cannot be."""
    most = model.text.max_position_embeddings
    if not 1 <= demand.context <= most:
        raise UsageError(
            f"a context of {demand.context:,} tokens; {model.name} has 1 to {most:,}",
            remedy=f"Give --context {most} or less",
        )
    if not 1 <= demand.streams <= MOST_STREAMS:
        raise UsageError(
            f"{demand.streams:,} streams are out of range",
            remedy=f"Give 1 to {MOST_STREAMS:,} answers side by side",
        )


def engine_memory(model: ModelSize, demand: Demand) -> MemoryPlan:
    """The engine's plan for so many full contexts at once. Raises UsageError as `check_demand`."""
    check_demand(model, demand)
    options = EngineOptions(
        cache_tokens=demand.streams * pages_for(demand.context) * PAGE_SIZE,
        max_context=demand.context,
        max_sequences=demand.streams,
    )
    return plan_memory(model.text, model.stored, options, None)


def place(
    model: ModelSize,
    machine: Machine,
    demand: Demand,
    engine: Efficiency,
    vram_experts: float | None = None,
) -> Placement:
    """Where everything lies. `vram_experts`: this share of the experts on the cards, not more.

    Raises DoesNotFitError with the numbers, UsageError for an impossible demand.
    """
    plan = engine_memory(model, demand)
    latent_scale = model.latent / (
        model.text.num_hidden_layers * model.text.latent_dim * LATENT_BITS / 8
    )
    cache = plan.cache * latent_scale
    home = _home(model, machine, engine, cache, plan.workspace)
    rows: list[Placed] = []
    left: dict[Kind, float] = {}
    for tier in machine.memories:
        left[tier.kind] = machine.capacity(tier.kind)
    copies = _copies(machine, engine, home)
    for part, count in model.parts.items():
        if part is not Part.ROUTED_EXPERTS:
            rows.append(Placed(part.value, home, count))
    label = f"latent cache ({demand.streams} x {demand.context:,} tokens)"
    rows.append(Placed(label, home, cache * copies))
    rows.append(Placed("work space", home, plan.workspace))
    left[home] -= model.trunk + cache * copies + plan.workspace
    experts = _experts(model, machine, left, vram_experts)
    for kind, share in experts.items():
        if share > 0:
            rows.append(Placed(Part.ROUTED_EXPERTS.value, kind, share * model.experts_stored))
    return Placement(tuple(rows), home, experts, cache, plan.workspace, plan.weights)


def _copies(machine: Machine, engine: Efficiency, kind: Kind) -> int:
    """How often the latent cache is held: once per card where they all attend to all of it."""
    tier = machine.tier(kind)
    cards = tier.count if tier is not None and engine.copied else 1
    nodes = machine.nodes if machine.split is Split.TENSOR else 1
    return cards * nodes


def _home(
    model: ModelSize, machine: Machine, engine: Efficiency, cache: float, workspace: float
) -> Kind:
    best = 0.0
    for tier in machine.memories:
        needed = model.trunk + cache * _copies(machine, engine, tier.kind) + workspace
        if needed <= machine.capacity(tier.kind):
            return tier.kind
        best = max(best, machine.capacity(tier.kind))
    needed = model.trunk + cache + workspace
    raise DoesNotFitError(
        f"{model.name} does not fit on {machine.title}: what must be in one memory "
        f"(weights outside the experts {gigabytes(model.trunk)}, latent cache "
        f"{gigabytes(int(cache))}, work space {gigabytes(int(workspace))}) needs "
        f"{gigabytes(int(needed))}, the largest has {gigabytes(int(best))} to use",
        needed,
        best,
        "Give more memory, a smaller --context or fewer --streams",
    )


def _experts(
    model: ModelSize, machine: Machine, left: dict[Kind, float], vram_experts: float | None
) -> dict[Kind, float]:
    """Shares of the experts by kind, in the order of the tiers."""
    total = model.experts_stored
    if not total:
        return {}
    shares: dict[Kind, float] = {}
    rest = 1.0
    for tier in machine.memories:
        share = min(rest, max(left[tier.kind], 0.0) / total)
        if tier.kind is Kind.VRAM and vram_experts is not None:
            share = min(share, vram_experts)
        shares[tier.kind] = share
        rest -= share
    if rest <= 1e-12:
        return shares
    disk = machine.tier(Kind.DISK)
    everything = sum(machine.capacity(tier.kind) for tier in machine.memories)
    needed = everything + rest * total
    short = (
        f"{model.name} does not fit on {machine.title}: it needs {gigabytes(int(needed))} of "
        f"memory, {gigabytes(int(everything))} can be used; {rest:.0%} of the experts "
        f"({gigabytes(int(rest * total))}) have no place"
    )
    if disk is None:
        raise DoesNotFitError(short, needed, everything, _remedy(machine, rest * total))
    if machine.capacity(Kind.DISK) < model.stored:
        raise DoesNotFitError(
            f"{short}, and the drives hold {gigabytes(int(machine.capacity(Kind.DISK)))} of "
            f"{gigabytes(model.stored)}",
            model.stored,
            machine.capacity(Kind.DISK),
            "Give a larger drive",
        )
    if (1 - rest) * total < model.one_token:
        raise DoesNotFitError(
            f"{short}; streaming them from the drives needs room for the experts of one token, "
            f"{gigabytes(int(model.one_token))}",
            needed,
            everything,
            _remedy(machine, model.one_token - (1 - rest) * total),
        )
    shares[Kind.DISK] = rest
    return shares


def _remedy(machine: Machine, short: float) -> str:
    tier = machine.memories[0] if machine.memories else None
    more = f"Give {gigabytes(int(short))} more memory"
    if tier is not None and tier.kind is Kind.VRAM:
        cards = -(-short // (tier.memory * tier.usable))
        more = f"Give {int(cards)} more of these cards, or {gigabytes(int(short))} of RAM"
    return f"{more}, a drive to stream the experts from, or weights of fewer bits"
