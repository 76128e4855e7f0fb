"""`perilune train`: the recipe, stage by stage. Each command runs one stage of a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perilune.cli.train_episodes import episodes
from perilune.config import StorageFormat

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Make training data, and train a model."
)
app.command("episodes")(episodes)

Config = Annotated[Path, typer.Option("--config", help="The run's TOML file.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Minutes = Annotated[float | None, typer.Option(min=0, help="Stop with a checkpoint after so long.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a step.")]


@app.command()
def pretrain(
    config: Config,
    device: Device = "cpu",
    minutes: Minutes = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Learn from plain documents: [stages.pretrain]."""
    _run(config, "pretrain", device, minutes, resume, as_json)


@app.command()
def sft(
    config: Config,
    device: Device = "cpu",
    minutes: Minutes = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Learn from solved episodes: [stages.sft]."""
    _run(config, "sft", device, minutes, resume, as_json)


@app.command()
def qat(
    config: Config,
    device: Device = "cpu",
    minutes: Minutes = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Go on with INT4 experts: [stages.qat]."""
    _run(config, "qat", device, minutes, resume, as_json)


@app.command()
def export(
    config: Config,
    to: Annotated[Path, typer.Option(help="The folder to make.")],
    stage: Annotated[str, typer.Option(help="Of which stage.")] = "qat",
    storage: Annotated[StorageFormat, typer.Option(help="int4 or bf16.")] = StorageFormat.INT4,
) -> None:
    """Write the last checkpoint of a stage in the published layout, for `--model`."""
    from perilune.train.config import read_run_config
    from perilune.train.export import export_stage

    print(export_stage(read_run_config(config), stage, to, storage=storage))


def _run(
    config: Path, stage: str, device: str, minutes: float | None, resume: bool, as_json: bool
) -> None:
    from perilune.train.config import read_run_config
    from perilune.train.progress import JsonProgress, ProgressView
    from perilune.train.stages.stage import stage_config, train_stage

    run = read_run_config(config)
    total = stage_config(run, stage).schedule.total_steps
    view = JsonProgress() if as_json else ProgressView(stage, total)
    with view:
        outcome = train_stage(
            run, stage, device=device, minutes=minutes, resume=resume, observe=view
        )
    if not as_json:
        done = outcome.progress
        print(
            f"{stage}: {outcome.ended} after {done.step} of {total} steps, {done.tokens:,} tokens, "
            f"{done.seconds / 60:.1f} minutes; {outcome.checkpoint}"
        )
