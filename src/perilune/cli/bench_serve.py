"""`perilune bench serve`: load on a server, ours or another."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from perilune.exam.load.report import LoadReport, Percentiles


def serve(
    base_url: Annotated[
        str, typer.Option(envvar="OPENAI_BASE_URL", help="URL of the server, with /v1 or without.")
    ] = "http://127.0.0.1:8000",
    api_key_env: Annotated[
        str, typer.Option(help="Name of the environment variable that holds the key.")
    ] = "OPENAI_API_KEY",
    model: Annotated[
        str | None, typer.Option(help="Model to ask for. Default: the first that it lists.")
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="Total number of requests.")] = 64,
    concurrency: Annotated[
        int,
        typer.Option(
            min=1, help="Closed loop: number of users, each asking one question after another."
        ),
    ] = 8,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="Open loop: requests per second, at random moments."),
    ] = None,
    prompt_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens per prompt, roughly; no two prompts are alike.")
    ] = 64,
    output_tokens: Annotated[int, typer.Option(min=1, help="Of each answer.")] = 64,
    ttft_slo: Annotated[
        float, typer.Option(help="Most milliseconds to the first token for an answer in time.")
    ] = 1000.0,
    token_slo: Annotated[
        float, typer.Option(help="Most milliseconds per token for an answer in time.")
    ] = 100.0,
    warmup: Annotated[
        int, typer.Option(min=0, help="Requests before the measurement, not counted.")
    ] = 1,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for one answer.")] = 600.0,
    seed: Annotated[int, typer.Option(help="Of the prompts and the arrivals.")] = 0,
    any_host: Annotated[
        bool, typer.Option("--any-host", help="Allow a server that is not on this machine.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Load on a server: first token, time between tokens, tokens per second, answers in time.

    Exits with 1 when a request fails.
    """
    import asyncio

    from perilune.exam.load.plan import LoadPlan, check_host
    from perilune.exam.load.report import report_of
    from perilune.exam.load.run import first_model, run_load

    check_host(base_url, any_host)
    key = os.environ.get(api_key_env)
    plan = LoadPlan(
        base_url=base_url,
        model=model or asyncio.run(first_model(base_url, key)),
        requests=requests,
        concurrency=concurrency,
        rate=rate,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        warmup=warmup,
        seed=seed,
        timeout=timeout,
        ttft_slo=ttft_slo / 1e3,
        token_slo=token_slo / 1e3,
    )
    records, seconds = asyncio.run(run_load(plan, key))
    report = report_of(plan, records, seconds)
    if as_json:
        print(json.dumps({"plan": asdict(plan), "report": asdict(report)}, indent=2))
    else:
        _show(plan.model, rate, concurrency, report)
    if report.errors:
        raise typer.Exit(1)


def _show(model: str, rate: float | None, concurrency: int, report: LoadReport) -> None:
    load = f"{concurrency} users" if rate is None else f"{rate:g} requests per second"
    print(
        f"{model}, {report.loop} loop, {load}: {report.completed} of {report.requests} answered "
        f"in {report.seconds:.1f} s, {report.prompt_tokens:.0f} + {report.output_tokens:.0f} tokens"
    )
    print(f"{'milliseconds':16} {'p50':>9} {'p95':>9} {'p99':>9} {'mean':>9}")
    for name, row in (
        ("first token", report.ttft_ms),
        ("between tokens", report.inter_token_ms),
        ("per token", report.per_token_ms),
        ("whole answer", report.total_ms),
    ):
        print(f"{name:16} {_cells(row)}")
    print(
        f"{report.requests_per_second:.2f} requests/s, "
        f"{report.output_tokens_per_second:.1f} tokens/s, goodput {report.goodput:.2f} requests/s "
        f"({report.good_share:.0%} within {report.ttft_slo_ms:g} ms + {report.token_slo_ms:g} ms "
        "a token)"
    )
    for kind, count in report.errors.items():
        print(f"failed: {count} times {kind}")


def _cells(row: Percentiles) -> str:
    values = (row.p50, row.p95, row.p99, row.mean)
    return " ".join(f"{'' if value is None else f'{value:.2f}':>9}" for value in values)
