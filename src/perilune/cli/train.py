"""`perilune train`: the recipe, stage by stage. Each command runs one stage of a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perilune.cli.format_option import FORMAT_HELP, FORMAT_NAMES, parse_format
from perilune.cli.train_episodes import episodes
from perilune.errors import UsageError
from perilune.formats import StorageFormat
from perilune.formats.int4 import INT4

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Make training data, and train a model."
)
app.command("episodes")(episodes)

Config = Annotated[Path, typer.Option("--config", help="The run's TOML file.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Minutes = Annotated[
    float | None, typer.Option(min=0, help="Minutes after which to stop with a checkpoint.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per step.")]


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
def rl(
    config: Config,
    device: Device = "cpu",
    minutes: Minutes = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Learn from rewards that a program can check: [stages.rl]."""
    _run(config, "rl", device, minutes, resume, as_json)


@app.command()
def parl(
    config: Config,
    device: Device = "cpu",
    minutes: Minutes = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Learn when to split a task among frozen sub-agents: [stages.parl]."""
    _run(config, "parl", device, minutes, resume, as_json)


@app.command("all")
def all_stages(
    config: Config,
    device: Device = "cpu",
    minutes: Minutes = None,
    as_json: AsJson = False,
) -> None:
    """Run every stage of the file in its order, from wherever each is.

    What is finished is passed over, what was begun goes on; --minutes is for all together.
    """
    import time

    from perilune.train.config import read_run_config
    from perilune.train.stages.stage import is_finished

    run = read_run_config(config)
    started = time.monotonic()
    for stage in run.stages:
        if is_finished(run, stage):
            continue
        left = None if minutes is None else minutes - (time.monotonic() - started) / 60
        if left is not None and left <= 0:
            break
        if _run(config, stage, device, left, True, as_json) != "finished":
            break


@app.command()
def plot(
    config: Config,
    to: Annotated[Path | None, typer.Option(help="Folder. Default: the run's.")] = None,
) -> None:
    """Draw loss, accuracy, balance, clipping and rates of all stages, as PNG and SVG."""
    from perilune.train.config import read_run_config
    from perilune.train.plot import plot_run

    for file in plot_run(read_run_config(config), to):
        print(file)


@app.command()
def tokenizer(
    out: Annotated[Path, typer.Option(help="The folder to write to.")],
    vocabulary: Annotated[
        int, typer.Option(min=512, help="Size of the vocabulary, with the 256 reserved ids.")
    ] = 2048,
    texts: Annotated[
        list[Path] | None, typer.Argument(help="Text files. Default: nano's episodes.")
    ] = None,
    episodes: Annotated[
        int, typer.Option(min=1, help="Number of nano's episodes, when no file is given.")
    ] = 4000,
    questions: Annotated[
        bool, typer.Option(help="Half of the episodes over question forms in five languages.")
    ] = False,
) -> None:
    """Learn a byte-level BPE vocabulary and write it as the family's tiktoken.model."""
    from perilune.nano.training.vocabulary import train_vocabulary
    from perilune.train.tokenizer import read_texts, train_bpe, write_tokenizer

    out.mkdir(parents=True, exist_ok=True)
    if texts:
        write_tokenizer(out, train_bpe(read_texts(texts), vocabulary - 256))
    else:
        train_vocabulary(out, vocabulary, episodes, questions=questions)
    print(out)


@app.command()
def export(
    config: Config,
    to: Annotated[Path, typer.Option(help="The folder to make.")],
    stage: Annotated[str, typer.Option(help="Of which stage.")] = "qat",
    storage: Annotated[
        StorageFormat,
        typer.Option(parser=parse_format, metavar=FORMAT_NAMES, help=FORMAT_HELP),
    ] = INT4,
    average: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STAGE=SHARE", help="Share of another stage in every weight: STAGE=SHARE."
        ),
    ] = None,
) -> None:
    """Write the last checkpoint of a stage in the published layout, for `--model`."""
    from perilune.train.config import read_run_config
    from perilune.train.export import export_stage

    shares = dict(_share(text) for text in average or ())
    print(export_stage(read_run_config(config), stage, to, storage=storage, average=shares))


def _share(text: str) -> tuple[str, float]:
    stage, _, share = text.partition("=")
    try:
        return stage, float(share)
    except ValueError:
        raise UsageError(
            f"--average {text!r} is not STAGE=SHARE", remedy="For example --average sft=0.35"
        ) from None


def _run(
    config: Path, stage: str, device: str, minutes: float | None, resume: bool, as_json: bool
) -> str:
    """Run a stage and show it; returns how it ended."""
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
    return outcome.ended
