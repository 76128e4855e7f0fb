"""The Pareto picture: price against speed of compared machines, as SVG and PNG."""

from __future__ import annotations

from pathlib import Path

from perilune.errors import PeriluneError, UsageError
from perilune.plan.compare import Compared


def draw(compared: Compared, folder: Path, name: str = "plan") -> list[Path]:
    """Write NAME.svg and NAME.png; machines without a price or that do not fit are left out.

    Raises UsageError where none is left, PeriluneError without matplotlib.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise PeriluneError(
            "matplotlib is not installed", remedy="pip install 'perilune[chart]'"
        ) from None
    points = [
        (each, best)
        for each, best in zip(compared.plans, compared.front, strict=True)
        if each.decode is not None and each.machine.price is not None
    ]
    if not points:
        raise UsageError("no machine here fits and has a price: there is nothing to draw")
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.svg", folder / f"{name}.png"]
    # The same picture to the byte on every run: no random ids, no date.
    with rc_context({"svg.hashsalt": "perilune", "svg.fonttype": "none"}):
        figure = Figure(figsize=(9, 5.5), layout="constrained")
        axis = figure.subplots()
        for each, best in points:
            assert each.decode is not None and each.machine.price is not None
            rate, price = each.decode, each.machine.price
            axis.errorbar(
                price.value,
                rate.value,
                xerr=[[price.value - price.low], [price.high - price.value]],
                yerr=[[rate.value - rate.low], [rate.high - rate.value]],
                fmt="o",
                color="C0" if best else "C7",
                capsize=3,
                alpha=1.0 if best else 0.7,
            )
            several = len({point.model.name for point, _ in points}) > 1
            axis.annotate(
                f"{each.machine.name}, {each.model.name}" if several else each.machine.name,
                (price.value, rate.value),
                xytext=(6, 5),
                textcoords="offset points",
                fontsize=8,
            )
        front = sorted(
            (each.machine.price.value, each.decode.value)
            for each, best in points
            if best and each.machine.price is not None and each.decode is not None
        )
        axis.step(*zip(*front, strict=True), where="post", color="C0", linewidth=1, alpha=0.6)
        demand = points[0][0].request.demand
        models = ", ".join(dict.fromkeys(each.model.name for each, _ in points))
        axis.set_title(
            f"{models}: decode, {demand.streams} stream(s), {demand.context:,} tokens of context"
        )
        axis.set_xscale("log")
        axis.margins(x=0.15)
        axis.set_yscale("log")
        axis.set_xlabel("price (US dollars; parts without a published price left out)")
        axis.set_ylabel("tokens per second")
        axis.grid(alpha=0.3, which="both")
        figure.savefig(files[0], metadata={"Date": None})
        figure.savefig(files[1], dpi=120)
    return files
