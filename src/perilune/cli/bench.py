"""`perilune bench`: speed beside the machine's limit. Each subject is one command."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from perilune.cli.bench_engine import app as engine_commands
from perilune.cli.bench_serve import serve

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Measure speed, and print it beside this machine's limit.",
)


app.add_typer(engine_commands)
app.command()(serve)


@app.command()
def kernels(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    rows: Annotated[str, typer.Option(help="Rows of activations, comma-separated.")] = "1,4,16,64",
    repetitions: Annotated[
        int, typer.Option(min=1, help="Number of repetitions that a median is taken from.")
    ] = 7,
) -> None:
    """The C kernels at Kimi K2's sizes: GB/s of weights, share of the read bandwidth, TOP/s."""
    from perilune.errors import UsageError
    from perilune.kernels import native
    from perilune.kernels.measure import measure_kernels

    try:
        counts = tuple(int(count) for count in rows.split(","))
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1:
        raise UsageError(f"--rows {rows!r} is not a list of positive numbers")
    native.require()
    results = []
    if not as_json:
        print(f"{native.isa()}, {native.threads()} threads")
        print("         weights  inputs  rows    GB/s   share   TOP/s")
    for m in measure_kernels(counts, repetitions=repetitions):
        results.append(asdict(m))
        if not as_json:
            print(
                f"{m.operation:<8} {m.storage:<8} {m.form:<7} {m.rows:>4} "
                f"{m.bytes_per_second / 1e9:>7.1f} {m.share:>7.2f} "
                f"{m.operations_per_second / 1e12:>7.3f}"
            )
    if as_json:
        print(json.dumps({"isa": native.isa(), "threads": native.threads(), "results": results}))
