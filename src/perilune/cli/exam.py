"""`perilune exam`: put suites of questions to a model or an endpoint."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perilune.cli import agent_flags as flags
from perilune.cli.option_groups import Only, with_option_groups
from perilune.errors import UsageError

if TYPE_CHECKING:
    from perilune.exam.suites.runner import Exam

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Put suites of questions to a model."
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("ls")
def list_suites(as_json: AsJson = False) -> None:
    """List the suites, what they ask, and what is missing to run them."""
    from perilune.exam.suites.catalogue import SUITES, suite_by_name

    found: list[dict[str, Any]] = []
    for name in SUITES:
        suite = suite_by_name(name)
        row: dict[str, Any] = {"suite": name, "about": suite.about, "missing": ""}
        try:
            row["version"] = suite.version()
            if as_json:  # reading all questions takes seconds
                row["categories"] = {each: suite.size(each) for each in suite.categories()}
                row["default"] = list(suite.default_categories())
        except UsageError as error:
            row["missing"] = error.remedy
        found.append(row)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for row in found:
        print(f"{row['suite']:<15}{row['about']}")
        missing = f"not installed. {row['missing']}"
        print(f"{'':<15}{missing if row['missing'] else row['version']}")


@app.command()
@with_option_groups
def run(
    name: Annotated[str, typer.Argument(metavar="SUITE", help="See `perilune exam ls`.")],
    who: Annotated[flags.AgentFlags, Only("model", "endpoint", "api_key_env")] = flags.NO_FLAGS,
    category: Annotated[
        list[str] | None, typer.Option("--category", help="Only this category; repeatable.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, help="Number of questions, taken evenly from the categories."
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            "--seed", min=0, help="Seed of the questions: another seed gives other questions."
        ),
    ] = 0,
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="Answers to each question, for pass@k.")
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the exam; given again, the exam goes on."),
    ] = None,
    parallel: Annotated[
        int, typer.Option("--parallel", min=1, help="Questions asked at the same time.")
    ] = 4,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0, help="Default: the model's own.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="Tokens of one completion.")
    ] = None,
    effort: flags.Effort = None,
    max_steps: Annotated[
        int,
        typer.Option("--max-steps", min=1, help="Maximum turns of the model on a task of `world`."),
    ] = 60,
    context_window: flags.ContextWindow = None,
    sandbox: flags.SandboxKind = None,
    as_json: AsJson = False,
) -> None:
    """Put a suite's questions to a model, and report with 95 % intervals.

    The folder keeps every answer and its transcript; the same command with the same --out goes on
    with an exam that was interrupted.
    """
    from perilune.agent.build import build_model
    from perilune.agent.models.chat_model import Sampling
    from perilune.agent.presets import preset_name
    from perilune.exam.suites import runner
    from perilune.exam.suites.catalogue import suite_by_name
    from perilune.exam.suites.suite import Examinee

    if sandbox not in (None, "bubblewrap", "landlock"):
        raise UsageError(f"--sandbox must be bubblewrap or landlock, not {sandbox!r}")
    if effort not in (None, "low", "medium", "high"):
        raise UsageError(f"--effort must be low, medium or high, not {effort!r}")
    suite = suite_by_name(name)
    settings = flags.settings_of(who).but(context_window=context_window)
    if preset := preset_name(settings):
        raise UsageError(
            f"{preset} knows its own two tools only, and no suite is made for them",
            remedy="Name a model: --endpoint URL, or --model DIR. nano has an examination of its "
            "own, benchmarks/nano_accuracy.py.",
        )
    examined = build_model(settings)
    sampling = Sampling(
        temperature=temperature,
        max_tokens=max_tokens,
        effort=effort,  # type: ignore[arg-type]  # narrowed above
    )

    async def work() -> tuple[Exam, Path]:
        try:
            await examined.prepare()
            manifest = runner.plan(
                suite,
                examined.name,
                categories=category,
                limit=limit,
                seed=seed,
                samples=samples,
                max_steps=max_steps,
            )
            folder = out or _new_folder(name)
            print(f"writing to {folder}", file=sys.stderr)
            exam = await runner.run_exam(
                suite,
                manifest,
                Examinee(examined, sampling),
                folder,
                at_once=parallel,
                sandbox=sandbox or "bubblewrap",  # type: ignore[arg-type]  # narrowed above
                progress=_show if sys.stderr.isatty() else None,
            )
            return exam, folder
        finally:
            await examined.close()

    exam, folder = asyncio.run(work())
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    _write_reports(exam, folder)
    _print(exam, as_json)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of an exam.")],
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the Markdown page.")] = False,
) -> None:
    """Report on the answers that are in an exam's folder, finished or not."""
    from perilune.exam.suites.report import as_markdown
    from perilune.exam.suites.runner import Exam, read_manifest, read_results

    exam = Exam(read_manifest(folder), read_results(folder))
    if markdown:
        print(as_markdown(exam), end="")
    else:
        _print(exam, as_json)


def _print(exam: Exam, as_json: bool) -> None:
    from perilune.exam.suites import report

    print(json.dumps(report.as_json(exam), indent=2) if as_json else report.as_table(exam))


def _write_reports(exam: Exam, folder: Path) -> None:
    from perilune.exam.suites import report

    (folder / "report.md").write_text(report.as_markdown(exam), "utf-8")
    text = json.dumps(report.as_json(exam), indent=2)
    (folder / "report.json").write_text(f"{text}\n", "utf-8")


def _new_folder(name: str) -> Path:
    from perilune.home import data_home

    return data_home() / "exams" / f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"


def _show(done: int, total: int, right: int) -> None:
    print(f"\r{done} of {total} answered, {right} right", end="", file=sys.stderr, flush=True)
