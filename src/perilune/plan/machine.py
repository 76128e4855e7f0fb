"""A machine as the planner sees it: memories with their speeds, how many, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from perilune.plan.figure import Figure


class Kind(StrEnum):
    """A memory that can hold weights; computing happens where they are, except on drives."""

    VRAM = "VRAM"
    UNIFIED = "unified memory"
    RAM = "RAM"
    DISK = "disk"


class Split(StrEnum):
    """How several machines share a model: layers one after the other, or every matrix."""

    PIPELINE = "pipeline"
    TENSOR = "tensor"


@dataclass(frozen=True, slots=True)
class Tier:
    """One kind of memory of one machine: `count` devices of `memory` bytes each.

    bandwidth: bytes per second of one device. usable: share of the memory that weights, cache and
    work space may take together.
    """

    kind: Kind
    memory: float
    bandwidth: Figure
    count: int = 1
    usable: float = 1.0
    operations: Figure | None = None  # a second, of one device, reached in prefill

    @property
    def capacity(self) -> float:
        """Bytes of all devices that may be used."""
        return self.memory * self.count * self.usable


@dataclass(frozen=True, slots=True)
class Link:
    """Between machines. Seconds of one message of 14 KB, and of one all-reduce (None: unknown)."""

    title: str
    latency: Figure
    collective: Figure | None


@dataclass(frozen=True, slots=True)
class Machine:
    """`nodes` equal machines. Tiers are of one node, fastest first. Watts, dollars: of all nodes.

    unpriced: parts of it whose price nobody has given a source for; the price leaves them out.
    rent: dollars per hour, where such a machine is rented.
    """

    name: str
    title: str
    tiers: tuple[Tier, ...]
    nodes: int = 1
    link: Link | None = None
    split: Split = Split.PIPELINE
    bus: Figure | None = None  # bytes per second from RAM to the cards
    watts: Figure | None = None
    price: Figure | None = None
    rent: Figure | None = None
    unpriced: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def tier(self, kind: Kind) -> Tier | None:
        return next((tier for tier in self.tiers if tier.kind is kind), None)

    @property
    def memories(self) -> tuple[Tier, ...]:
        """The tiers that are not drives."""
        return tuple(tier for tier in self.tiers if tier.kind is not Kind.DISK)

    def capacity(self, kind: Kind) -> float:
        """Usable bytes of a kind over all nodes."""
        tier = self.tier(kind)
        return 0.0 if tier is None else tier.capacity * self.nodes
