"""A small model and machines around it, for tests of the planner's arithmetic."""

from __future__ import annotations

from functools import cache

from perilune.config import Family
from perilune.formats.int4 import INT4
from perilune.plan.efficiency import Efficiency, efficiency
from perilune.plan.figure import Figure
from perilune.plan.machine import Kind, Link, Machine, Split, Tier
from perilune.plan.model_size import ModelSize, model_size
from perilune.plan.placement import Demand, engine_memory
from perilune.weights.random_weights import random_config

GB = 10**9


@cache
def small() -> ModelSize:
    """A tiny K2 Thinking: 16 experts, 4 per token."""
    return model_size("small", random_config(Family.K2_THINKING, INT4, "tiny"))


def ram(memory: float, bandwidth: float = 1e9, operations: float | None = None) -> Tier:
    work = None if operations is None else Figure.exactly(operations)
    return Tier(Kind.RAM, memory, Figure.exactly(bandwidth), operations=work)


def disk(bandwidth: float = 1e8, count: int = 1) -> Tier:
    return Tier(Kind.DISK, 1e12, Figure.exactly(bandwidth), count)


def cards(memory: float, count: int = 1, bandwidth: float = 1e10) -> Tier:
    return Tier(Kind.VRAM, memory, Figure.exactly(bandwidth), count)


def machine(
    *tiers: Tier, nodes: int = 1, split: Split = Split.PIPELINE, latency: float = 1e-4
) -> Machine:
    link = Link("a link", Figure.exactly(latency), Figure.exactly(latency)) if nodes > 1 else None
    return Machine("made-up", "a made-up machine", tiers, nodes=nodes, link=link, split=split)


def room(demand: Demand, share: float) -> float:
    """Bytes for all but the experts of the small model, and for a share of its experts."""
    plan = engine_memory(small(), demand)
    return small().trunk + plan.cache + plan.workspace + share * small().experts_stored


def streaming() -> Efficiency:
    return efficiency("perilune-cpu")
