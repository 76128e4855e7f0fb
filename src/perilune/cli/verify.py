"""`perilune verify`: does a server, ours or another, keep the contract of its APIs?"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

WIDTH = 140  # columns of the report in a file or a pipe

app = typer.Typer(add_completion=False)


@app.command()
def verify(
    base_url: Annotated[
        str, typer.Option(envvar="OPENAI_BASE_URL", help="URL of the server, with /v1 or without.")
    ] = "http://127.0.0.1:8000",
    api_key_env: Annotated[
        str, typer.Option(help="Name of the environment variable that holds the key.")
    ] = "OPENAI_API_KEY",
    model: Annotated[
        str | None, typer.Option(help="Model to ask for. Default: the first that it lists.")
    ] = None,
    api: Annotated[str, typer.Option(help="Checks of this API: openai, anthropic, all.")] = "all",
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only checks whose id matches, e.g. chat.stream.*; repeatable."),
    ] = None,
    fail_on: Annotated[
        str,
        typer.Option(
            help="Exit with 1 when a rule up to this level is broken: required, recommended, kimi."
        ),
    ] = "required",
    kimi_strict: Annotated[
        bool, typer.Option(help="Check only whether it pins parameters as Moonshot's own API does.")
    ] = False,
    schemas: Annotated[int, typer.Option(min=1, help="Random tool schemas to try.")] = 24,
    seed: Annotated[int, typer.Option(help="Of the schemas and the samples.")] = 0,
    samples: Annotated[
        int, typer.Option(min=1, help="Requests with tools for --record and --reference.")
    ] = 200,
    record: Annotated[
        Path | None, typer.Option(help="Write where this server calls tools: a reference.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Compare with the record of another server (see --record).")
    ] = None,
    parallel: Annotated[
        int, typer.Option(min=1, max=64, help="Checks that run at the same time.")
    ] = 4,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for one answer.")] = 120.0,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    show_all: Annotated[bool, typer.Option("--all", help="Show passed checks too.")] = False,
    list_checks: Annotated[bool, typer.Option("--list", help="List the checks and exit.")] = False,
) -> None:
    """Check a server against the contract of the OpenAI and Anthropic APIs, and Kimi's rules.

    Exits with 1 when a rule of the chosen level is broken.
    """
    from rich.console import Console

    from perilune.errors import UsageError
    from perilune.exam.contract.check import Level
    from perilune.exam.contract.report import as_json as to_json
    from perilune.exam.contract.report import as_junit, show
    from perilune.exam.contract.runner import Result, failed, run_checks, select
    from perilune.exam.contract.target import Settings, Target
    from perilune.exam.contract.trigger import compare, decide, read_decisions, write_decisions

    if api not in ("openai", "anthropic", "all"):
        raise UsageError(f"--api {api!r} is not openai, anthropic or all")
    if fail_on not in list(Level):
        raise UsageError(f"--fail-on {fail_on!r} is not required, recommended or kimi")
    # A server that pins its parameters refuses what the other checks ask.
    checks = select(api, only or (["kimi-strict.*"] if kimi_strict else []))
    if not kimi_strict:
        checks = [check for check in checks if not check.id.startswith("kimi-strict.")]
    if not checks:
        raise UsageError("no check has such an id", remedy="See `perilune verify --list`")
    if list_checks:
        for check in checks:
            print(f"{check.id:<40} {check.level.value:<12} {check.priority:<3} {check.rule}")
        return
    expected = read_decisions(reference) if reference else None
    target = Target.connect(
        base_url,
        model=model,
        api_key=os.environ.get(api_key_env),
        settings=Settings(schemas=schemas, seed=seed, kimi_strict=kimi_strict),
        timeout=timeout,
    )
    progress = Console(stderr=True)
    done = 0

    def tell(result: Result) -> None:
        nonlocal done
        done += 1
        if progress.is_terminal and not as_json:
            progress.print(
                f"{done:>4}/{len(checks)}  {result.check.id:<44}", end="\r", highlight=False
            )

    results = run_checks(target, checks, parallel=parallel, on_result=tell)
    similarity = None
    if record or expected is not None:
        decisions = decide(target, samples, seed, parallel)
        if record:
            write_decisions(decisions, record)
        if expected is not None:
            similarity = compare(decisions, expected)
    if junit:
        junit.write_text(as_junit(results, f"{base_url} {target.model}"), "utf-8")
    if as_json:
        about = {"base_url": base_url, "model": target.model}
        report = to_json(results, about)
        if similarity is not None:
            from dataclasses import asdict

            report["tool_calls"] = asdict(similarity)
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        console = Console(width=None if sys.stdout.isatty() else WIDTH)
        console.print(f"{base_url}, model {target.model}: {len(checks)} checks", highlight=False)
        show(console, results, similarity, passed_too=show_all)
    if failed(results, Level(fail_on)):
        raise typer.Exit(1)
