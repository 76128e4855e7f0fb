"""Predicted against published: which rows set the efficiencies, and how the others come out.

The rows are `data/measurements.toml`; the split into those that fit and those that judge is fixed
there. `fit` solves for the free numbers of one kind of engine from its own rows, so that
`data/efficiencies.toml` can be checked against them.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from perilune.errors import UsageError
from perilune.plan.catalogue import Catalogue, read_catalogue
from perilune.plan.efficiency import Efficiency, efficiencies, efficiency
from perilune.plan.figure import Figure
from perilune.plan.machine import Kind, Machine
from perilune.plan.model_size import ModelSize, model_at_bits, named_model
from perilune.plan.placement import Demand, place
from perilune.plan.reading import DATA, Entry, read_toml
from perilune.plan.step import decode_rate, decode_step


@dataclass(frozen=True, slots=True)
class Row:
    """One published speed. `decode`: tokens per second of all streams."""

    id: str
    split: str  # "fit" or "judge"
    engine: str
    model: str
    bits: float
    latent_bits: float
    hardware: dict[str, Any]
    demand: Demand
    vram_experts: float | None
    disk_bytes: float
    decode: Figure
    source: str
    date: str
    note: str


@dataclass(frozen=True, slots=True)
class Judged:
    """A row beside what the planner says. error: predicted / published - 1."""

    row: Row
    predicted: Figure

    @property
    def error(self) -> float:
        return self.predicted.value / self.row.decode.value - 1

    @property
    def inside(self) -> bool:
        """The published spread and the predicted one meet."""
        return (
            self.predicted.low <= self.row.decode.high
            and self.row.decode.low <= self.predicted.high
        )


@cache
def published_rows() -> tuple[Row, ...]:
    """All rows. Raises UsageError for a file that makes no sense, or an id that comes twice."""
    top = read_toml(DATA / "measurements.toml")
    rows = tuple(
        _row(Entry(values, f"measurements.toml: row {i}")) for i, values in enumerate(top["row"], 1)
    )
    if len({row.id for row in rows}) != len(rows):
        raise UsageError("measurements.toml: an id comes twice")
    return rows


def predict(
    row: Row, engine: Efficiency | None = None, catalogue: Catalogue | None = None
) -> Figure:
    """Tokens per second, with the interval. `engine`: other numbers than those of the row's
    kind.
    """
    engine = engine or efficiency(row.engine)
    machine = _machine(row, catalogue or read_catalogue())
    if row.disk_bytes:
        disk = machine.tier(Kind.DISK)
        assert disk is not None
        rate = disk.bandwidth.value * engine.disk_share / row.disk_bytes
        return Figure(rate, rate * engine.disk_low, rate * engine.disk_high)
    model = _model(row)
    placement = place(model, machine, row.demand, engine, row.vram_experts)
    step = decode_step(model, machine, placement, row.demand, engine)
    return decode_rate(machine, row.demand, step)


def judge(split: str = "judge") -> list[Judged]:
    """Every row of a split beside its prediction."""
    catalogue = read_catalogue()
    return [
        Judged(row, predict(row, None, catalogue)) for row in published_rows() if row.split == split
    ]


def median_error(judged: list[Judged]) -> float:
    """Median of the absolute relative errors."""
    return statistics.median(abs(each.error) for each in judged)


def record(engine: str) -> tuple[int, float] | None:
    """How many rows have judged a kind of engine, and their median error; None: none has."""
    own = [each for each in _judged() if each.row.engine == engine]
    return (len(own), median_error(own)) if own else None


@cache
def _judged() -> tuple[Judged, ...]:
    return tuple(judge())


def fit(name: str) -> dict[str, float]:
    """The free numbers of a kind of engine, solved from its own fitting rows.

    A step is linear in (fixed, 1/share, 1/latent_share); as many rows as free numbers.
    """
    engine = efficiencies()[name]
    rows = [row for row in published_rows() if row.id in engine.fit]
    if len(rows) != len(engine.fit) or any(row.split != "fit" for row in rows):
        raise UsageError(
            f"{name}: some of its fitting rows are missing, or are used for judging too"
        )
    if not engine.free:
        return {}
    catalogue = read_catalogue()
    matrix, right = [], []
    for row in rows:
        parts = _seconds_at_share_one(row, engine, catalogue)
        known = sum(
            seconds if key == "other" else seconds * _weight(engine, key)
            for key, seconds in parts.items()
            if key not in engine.free
        )
        matrix.append([parts.get(key, 0.0) for key in engine.free])
        rows_of = row.demand.streams
        right.append(rows_of / row.decode.value - known)
    solved = _solve(matrix, right)
    values = {}
    for key, value in zip(engine.free, solved, strict=True):
        values[key] = value if key == "fixed" else 1 / value
    if "share" in values and "latent_share" not in values:
        values["latent_share"] = values["share"]
    return values


def _weight(engine: Efficiency, key: str) -> float:
    if key == "fixed":
        return engine.fixed
    return 1 / getattr(engine, key)  # type: ignore[no-any-return]


def _seconds_at_share_one(row: Row, engine: Efficiency, catalogue: Catalogue) -> dict[str, float]:
    """Seconds of a step by the number that they are divided by."""
    machine = _machine(row, catalogue)
    if row.disk_bytes:
        disk = machine.tier(Kind.DISK)
        assert disk is not None
        return {"disk_share": row.disk_bytes / disk.bandwidth.value}
    plain = replace(engine, share=1.0, latent_share=1.0, disk_share=1.0, fixed=0.0)
    model = _model(row)
    placement = place(model, machine, row.demand, plain, row.vram_experts)
    found = {"fixed": 1.0, "share": 0.0, "latent_share": 0.0, "other": 0.0}
    together = "latent_share" not in engine.free and engine.latent_share == engine.share
    for term in decode_step(model, machine, placement, row.demand, plain).terms:
        if term.what.startswith(("weights", "experts")):
            found["share"] += term.seconds
        elif term.what.startswith("latent"):
            found["share" if together else "latent_share"] += term.seconds
        else:
            found["other"] += term.seconds
    if together:
        del found["latent_share"]
    return found


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Gauss elimination of a small square system."""
    size = len(right)
    if any(len(line) != size for line in matrix):
        raise UsageError("at least as many fitting rows as free parameters are needed")
    work = [[*line, value] for line, value in zip(matrix, right, strict=True)]
    for i in range(size):
        pivot = max(range(i, size), key=lambda j: abs(work[j][i]))
        work[i], work[pivot] = work[pivot], work[i]
        for j in range(size):
            if j != i:
                factor = work[j][i] / work[i][i]
                work[j] = [a - factor * b for a, b in zip(work[j], work[i], strict=True)]
    return [work[i][size] / work[i][i] for i in range(size)]


def _machine(row: Row, catalogue: Catalogue) -> Machine:
    return catalogue.assemble(row.id, row.hardware)


def _model(row: Row) -> ModelSize:
    model = model_at_bits(row.model, row.bits) if row.bits else named_model(row.model)
    return model.with_latent_bits(row.latent_bits)


def _row(entry: Entry) -> Row:
    decode = entry.figure("decode", sourced=False)
    if decode is None:
        raise entry.wrong("decode", "is missing")
    vram = entry.number("vram_experts", -1.0)
    row = Row(
        entry.text("id"),
        entry.one_of("split", ("fit", "judge"), "judge"),
        efficiency(entry.text("class")).name,
        entry.text("model", ""),
        entry.number("bits", 0.0),
        entry.number("latent_bits", 16.0),
        dict(entry.take("hardware") or {}),
        Demand(max(1, int(entry.number("context", 0.0))), entry.count("streams", 1)),
        None if vram < 0 else vram,
        entry.number("disk_bytes", 0.0),
        decode,
        entry.text("source"),
        entry.text("date"),
        entry.text("note", ""),
    )
    entry.done()
    return row


__all__ = [
    "Judged", "Row", "fit", "judge", "median_error", "predict", "published_rows", "record",
]  # fmt: skip
