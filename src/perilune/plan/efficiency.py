"""What kinds of engines reach of a machine's bandwidth: read from data, chosen by placement."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from functools import cache

from perilune.errors import UsageError
from perilune.plan.figure import Case
from perilune.plan.hit_rate import HitRate, read_hit_rate
from perilune.plan.machine import Kind, Machine, Split
from perilune.plan.reading import DATA, Entry, read_toml

CHUNK = 512  # tokens of a prompt computed at once, unless the data say otherwise


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Of one kind of engine: t = fixed + sum of bytes / (bandwidth x share), seconds per step.

    low, high: factors on the shares at the ends of the interval (they divide `fixed`);
    disk_low, disk_high on that of a drive.
    joined: cards read side by side. copied: each card holds and reads the latents of all.
    fixed_layer: seconds per layer, where they were measured apart.
    """

    name: str
    title: str
    share: float
    latent_share: float
    disk_share: float
    fixed: float
    low: float
    high: float
    joined: bool
    copied: bool
    chunk: int
    free: tuple[str, ...]
    fit: tuple[str, ...]
    source: str
    date: str
    fixed_layer: float = 0.0
    disk_low: float = 1.0
    disk_high: float = 1.0

    def factor(self, case: Case) -> float:
        """On the shares of memories; 1 in the expected case."""
        return {Case.SLOW: self.low, Case.EXPECTED: 1.0, Case.FAST: self.high}[case]

    def disk_factor(self, case: Case) -> float:
        """On the share of a drive."""
        return {Case.SLOW: self.disk_low, Case.EXPECTED: 1.0, Case.FAST: self.disk_high}[case]

    def with_values(self, values: dict[str, float]) -> Efficiency:
        return replace(self, **values)  # type: ignore[arg-type]


@cache
def efficiencies() -> dict[str, Efficiency]:
    """All of `data/efficiencies.toml`. Raises UsageError for a file that makes no sense."""
    top = read_toml(DATA / "efficiencies.toml")
    found = {}
    for name, values in top["class"].items():
        entry = Entry(values, f"[class.{name}]")
        share = entry.number("share", above=1e-3)
        found[name] = Efficiency(
            name,
            entry.text("title"),
            share,
            entry.number("latent_share", share, above=1e-3),
            entry.number("disk_share", 0.0),
            entry.number("fixed", 0.0),
            entry.number("low", above=1e-2),
            entry.number("high", above=1.0),
            entry.one_of("cards", ("joined", "serial"), "serial") == "joined",
            entry.one_of("latents", ("copied", "shared"), "shared") == "copied",
            entry.count("chunk", CHUNK, most=2**20),
            tuple(entry.names("free")),
            tuple(entry.names("fit")),
            entry.text("source"),
            entry.text("date"),
            disk_low=entry.number("disk_low", 1.0, above=1e-2),
            disk_high=entry.number("disk_high", 1.0, above=1.0),
        )
        entry.done()
    return found


@cache
def hit_rate() -> HitRate:
    return read_hit_rate(Entry(read_toml(DATA / "efficiencies.toml")["hits"], "[hits]"))


def efficiency(name: str) -> Efficiency:
    """Raises UsageError for an unknown kind of engine."""
    known = efficiencies()
    if name not in known:
        near = difflib.get_close_matches(name, known, 2, 0.4)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(f"engine {name!r} is not known", remedy=f"{hint}Known: {', '.join(known)}")
    return known[name]


def usual_efficiency(machine: Machine, in_ram: bool) -> Efficiency:
    """The kind of engine that such a machine is run with. `in_ram`: some experts are in RAM."""
    if machine.tier(Kind.UNIFIED) is not None:
        clustered = machine.nodes > 1 and machine.split is Split.TENSOR
        return efficiency("apple-cluster" if clustered else "apple")
    if machine.tier(Kind.VRAM) is None:
        return efficiency("cpu")
    return efficiency("llama.cpp" if in_ram else "tensor-parallel")


def with_disk(chosen: Efficiency) -> Efficiency:
    """The same engine reading drives as those that were measured do, where it has no figure."""
    if chosen.disk_share > 0:
        return chosen
    ssd = efficiency("ssd")
    return replace(
        chosen, disk_share=ssd.disk_share, disk_low=ssd.disk_low, disk_high=ssd.disk_high
    )
