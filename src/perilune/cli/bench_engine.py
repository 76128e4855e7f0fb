"""`perilune bench decode|prefill|batch`: how fast a model runs here, and how close to the limit."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perilune.cli.engine_option import DEVICE, Device

if TYPE_CHECKING:
    from perilune.engine.bench import Figure
    from perilune.engine.engine import Engine

Model = Annotated[
    Path | None,
    typer.Option(
        envvar="PERILUNE_MODEL",
        help="Checkpoint folder. Default: a small random K2 of 159 M parameters.",
    ),
]
Exact = Annotated[bool, typer.Option(help="Float activations instead of int8 and bfloat16.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON list instead of a table.")]

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.command()
def decode(
    model: Model = None,
    tokens: Annotated[int, typer.Option(min=8, help="Number of steps to measure.")] = 64,
    context: Annotated[
        int, typer.Option(min=1, help="Tokens of the prompt that comes before.")
    ] = 64,
    exact: Exact = False,
    device: Device = DEVICE,
    as_json: AsJson = False,
) -> None:
    """One answer alone: tokens per second, and the share of the memory bandwidth."""
    from perilune.engine.bench import bench_decode

    engine = _engine(model, exact, device, context + tokens + 64)
    _show([bench_decode(engine, context=context, steps=tokens)], as_json)


@app.command()
def prefill(
    model: Model = None,
    tokens: Annotated[int, typer.Option(min=8, help="Tokens of the prompt.")] = 512,
    exact: Exact = False,
    device: Device = DEVICE,
    as_json: AsJson = False,
) -> None:
    """One prompt to its first token: tokens per second."""
    from perilune.engine.bench import bench_prefill

    engine = _engine(model, exact, device, 2 * tokens + 128)
    _show([bench_prefill(engine, tokens=tokens)], as_json)


@app.command()
def batch(
    model: Model = None,
    streams: Annotated[
        int, typer.Option(min=1, help="Maximum number of answers at the same time.")
    ] = 16,
    tokens: Annotated[int, typer.Option(min=8, help="Number of steps to measure.")] = 32,
    context: Annotated[
        int, typer.Option(min=1, help="Tokens of the prompt that comes before each.")
    ] = 64,
    exact: Exact = False,
    device: Device = DEVICE,
    as_json: AsJson = False,
) -> None:
    """Several answers side by side, 1, 2, 4 and so on: tokens per second of all together."""
    from perilune.engine.bench import bench_decode

    counts = [2**i for i in range(streams.bit_length()) if 2**i < streams] + [streams]
    engine = _engine(model, exact, device, streams * (context + tokens + 128))
    _show([bench_decode(engine, streams=n, context=context, steps=tokens) for n in counts], as_json)


def _engine(model: Path | None, exact: bool, device: str, cache_tokens: int) -> Engine:
    from perilune.engine.bench import small_model
    from perilune.engine.load import EngineOptions, load_engine

    options = EngineOptions(exact=exact, device=device, cache_tokens=cache_tokens)
    return load_engine(model or small_model(), options)


def _show(figures: list[Figure], as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(figure) for figure in figures], indent=2))
        return
    print(f"{'':8} {'streams':>7} {'context':>8} {'tokens/s':>10} {'GB/s':>8} {'of limit':>9}")
    for figure in figures:
        rate = "" if figure.bytes is None else f"{figure.bytes / 1e9:.1f}"
        share = "" if figure.share is None else f"{figure.share:.0%}"
        print(
            f"{figure.what:8} {figure.streams:7} {figure.context:8} {figure.tokens:10.1f} "
            f"{rate:>8} {share:>9}"
        )
    print(f"limit: {figures[-1].bandwidth / 1e9:.1f} GB/s read from memory by all threads")
