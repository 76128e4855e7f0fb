"""What a person sees while a stage trains: one line that changes, or JSON lines."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table


class JsonProgress:
    """Every step as one JSON object on standard output."""

    def __call__(self, values: dict[str, Any]) -> None:
        print(json.dumps(values), flush=True)

    def __enter__(self) -> JsonProgress:
        return self

    def __exit__(self, *_: object) -> None:
        return


class ProgressView:
    """A table on a terminal, redrawn each step; elsewhere a line every `every` seconds."""

    def __init__(self, title: str, total_steps: int, *, every: float = 15.0) -> None:
        self._title, self._total, self._every = title, total_steps, every
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False)
        self._last_line = 0.0
        self._eval: dict[str, dict[str, float]] = {}

    def __enter__(self) -> ProgressView:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __call__(self, values: dict[str, Any]) -> None:
        self._eval = values.get("eval", self._eval)
        if self._console.is_terminal:
            self._live.update(self._table(values), refresh=True)
        elif time.monotonic() - self._last_line >= self._every or "eval" in values:
            self._last_line = time.monotonic()
            print(_line(values, self._total), file=sys.stderr, flush=True)
            for name, one in values.get("eval", {}).items():
                print(f"  held out {name}: {_scores(one)}", file=sys.stderr, flush=True)

    def _table(self, values: dict[str, Any]) -> Table:
        table = Table(title=self._title, caption=_line(values, self._total), caption_justify="left")
        for column in ("source", "loss", "tokens right", "documents right", "held out"):
            table.add_column(column, justify="left" if column == "source" else "right")
        for name, one in values["sources"].items():
            table.add_row(
                name, f"{one['loss']:.4f}", f"{one['accuracy']:.1%}", f"{one['exact']:.1%}",
                f"{self._eval[name]['exact']:.1%}" if name in self._eval else "",
            )  # fmt: skip
        return table


def _line(values: dict[str, Any], total: int) -> str:
    left = (total - values["step"]) * values["elapsed"] / values["step"] / 60
    parts = [f"step {values['step']}/{total}", f"{values['tokens'] / 1e6:.2f}M tokens"]
    if "reward" in values:
        parts.append(f"reward {values['reward']:.3f}")
        parts.append(f"solved {values['solved']:.1%}")
    if "loss" in values:
        worst = max(values["max_violation"], default=0.0)
        low, high = values["update_rms_min"], values["update_rms_max"]
        parts += [
            f"loss {values['loss']:.4f}",
            f"right {values['accuracy']:.1%}",
            f"lr {values['lr']:.2e}",
            f"|g| {values['grad_norm']:.2f}",
            f"rms {low:.3f}..{high:.3f}",
            f"MaxVio {worst:.2f}",
            f"dead {values['dead_experts']}",
            f"clipped {values['clipped_heads']}",
        ]
    parts += [f"{values['tokens_per_second']:,.0f} tok/s", f"{left:.0f} min left"]
    return "  ".join(parts)


def _scores(one: dict[str, float]) -> str:
    return f"loss {one['loss']:.4f}, tokens {one['accuracy']:.1%}, documents {one['exact']:.1%}"
