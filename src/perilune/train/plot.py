"""The curves of a run: loss, accuracy, balance, clipping and learning rate over tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perilune.errors import PeriluneError, UsageError
from perilune.train.config import RunConfig
from perilune.train.metrics import FILE, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = tuple[str, Callable[[dict[str, Any]], float | None]]

POINTS = 400  # a curve is averaged down to so many

Panel = tuple[str, bool, tuple[Curve, ...]]
"""Title, whether the axis is logarithmic, curves."""

PANELS: tuple[Panel, ...] = (
    ("loss (nats a token)", True, (("trained", lambda m: m.get("loss")),)),
    (
        "share right",
        False,
        (
            ("tokens", lambda m: m.get("accuracy")),
            ("reward", lambda m: m.get("reward")),
            ("solved", lambda m: m.get("solved")),
        ),
    ),
    (
        "load balance (MaxVio)",
        False,
        (
            ("worst layer", lambda m: max(m.get("max_violation") or [0.0])),
            ("dead experts", lambda m: m.get("dead_experts")),
        ),
    ),
    (
        "attention scores",
        False,
        (
            ("largest", lambda m: max(m.get("max_logit") or [0.0])),
            ("heads clipped", lambda m: m.get("clipped_heads")),
        ),
    ),
    (
        "update RMS",
        False,
        (
            ("lowest matrix", lambda m: m.get("update_rms_min")),
            ("highest matrix", lambda m: m.get("update_rms_max")),
        ),
    ),
    ("learning rate", False, (("Muon", lambda m: m.get("lr")),)),
)


def _of_parl(width: str, name: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda m: m.get("parl", {}).get(width, {}).get(name)


PARL_PANELS: tuple[Panel, ...] = (
    (
        "sub-agents per episode",
        False,
        tuple((f"width {width}", _of_parl(width, "spawned")) for width in ("1", "4", "8", "12")),
    ),
    (
        "share solved",
        False,
        tuple((f"width {w}", _of_parl(w, "performance")) for w in ("1", "4", "8", "12")),
    ),
    (
        "speed-up and budget",
        False,
        (
            ("serial over critical steps", _of_parl("all", "speed_up")),
            ("share cut off", _of_parl("all", "cut_off")),
            ("spawn entropy (bits)", _of_parl("all", "spawn_entropy")),
        ),
    ),
)
"""Drawn below the others where a stage has them."""


def plot_run(config: RunConfig, folder: Path | None = None) -> list[Path]:
    """Draw all stages of a run one after the other; returns `training.png` and `training.svg`.

    Raises UsageError where nothing was trained yet, PeriluneError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise PeriluneError(
            "matplotlib is not installed", remedy="pip install 'perilune[chart]'"
        ) from None
    stages = {name: list(read_metrics(Path(config.folder) / name / FILE)) for name in config.stages}
    stages = {name: metrics for name, metrics in stages.items() if metrics}
    if not stages:
        raise UsageError(f"{config.folder} has no metrics yet", remedy="Train a stage first")
    panels = PANELS
    if any("parl" in values for metrics in stages.values() for values in metrics):
        panels += PARL_PANELS
    rows = len(panels) // 3
    figure = Figure(figsize=(12, 3.5 * rows), layout="constrained")
    axes: Sequence[Axes] = figure.subplots(rows, 3).flatten().tolist()
    for axis, (title, logarithmic, curves) in zip(axes, panels, strict=True):
        _panel(axis, title, logarithmic, curves, stages)
    out = Path(config.folder) if folder is None else folder
    out.mkdir(parents=True, exist_ok=True)
    files = [out / "training.png", out / "training.svg"]
    for file in files:
        figure.savefig(file, dpi=120)
    return files


def _panel(
    axis: Axes,
    title: str,
    logarithmic: bool,
    curves: Sequence[Curve],
    stages: dict[str, list[dict[str, Any]]],
) -> None:
    axis.set_title(title)
    axis.set_xlabel("million tokens")
    axis.grid(alpha=0.3)
    if logarithmic:
        axis.set_yscale("log")
    for number, (label, value) in enumerate(curves):
        xs: list[float] = []
        ys: list[float] = []
        begin = 0.0
        for metrics in stages.values():
            points = [(m["tokens"], value(m)) for m in metrics]
            known = [(begin + x, y) for x, y in points if y is not None]
            size = max(1, len(known) // POINTS)
            for i in range(0, len(known), size):
                part = known[i : i + size]
                xs.append(part[-1][0] / 1e6)
                ys.append(sum(y for _, y in part) / len(part))
            begin += metrics[-1]["tokens"]
        if xs:
            axis.plot(xs, ys, label=label, color=f"C{number}", linewidth=1.2)
    begin = 0.0
    for name, metrics in stages.items():
        axis.axvline(begin / 1e6, color="grey", linewidth=0.6, linestyle=":")
        axis.annotate(
            name, (begin / 1e6, 1.0), xycoords=("data", "axes fraction"), fontsize=7,
            va="top", color="grey",
        )  # fmt: skip
        begin += metrics[-1]["tokens"]
    if len(curves) > 1:
        axis.legend(fontsize=8)
