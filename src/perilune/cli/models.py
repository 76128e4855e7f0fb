"""`perilune models`: show, verify and make checkpoints."""

from __future__ import annotations

import dataclasses
import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perilune.cli.format_option import FORMAT_HELP, FORMAT_NAMES, parse_format
from perilune.config import Family
from perilune.errors import UsageError
from perilune.formats import StorageFormat
from perilune.formats.bf16 import BF16

if TYPE_CHECKING:
    from perilune.weights.verify import Report

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Show, verify and make checkpoints."
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A checkpoint folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
MAX_FINDINGS = 20


class Scale(StrEnum):
    TINY = "tiny"
    SLICE = "slice"


@app.command()
def show(folder: Folder, as_json: AsJson = False) -> None:
    """Say what a checkpoint is: family, parameters, bytes by part, context, memory.

    A folder that holds only config.json is enough.
    """
    from perilune.runner.placement import place_checkpoint
    from perilune.weights.checkpoint import stored_config
    from perilune.weights.describe import describe
    from perilune.weights.format_bytes import gigabytes

    config = stored_config(folder)
    what, memory = describe(config), place_checkpoint(config).nbytes()
    files = sorted(folder.glob("*.safetensors"))
    on_disk = sum(file.stat().st_size for file in files)
    if as_json:
        values: dict[str, Any] = {
            "family": config.family.value,
            "format": config.storage.name,
            **dataclasses.asdict(what),
            "stored": what.stored,
            "per_token": what.per_token,
            "memory": memory,
            "latent_full_context": what.latent_full_context,
            "layers": config.text.num_hidden_layers,
            "eos_token_ids": list(config.eos_token_ids),
            "files": len(files),
            "bytes_in_files": on_disk,
        }
        print(json.dumps(values, indent=2))
        return
    text = config.text
    print(f"{folder}")
    print(f"  family          {config.family.value}")
    print(f"  format          {config.storage.name}")
    print(f"  text parameters {what.parameters:,}")
    print(
        f"    a token uses  {what.active_parameters:,} "
        f"({what.active_without_lookup:,} without the embedding table)"
    )
    print(
        f"  layers          {text.num_hidden_layers}, {text.n_routed_experts} experts, "
        f"{text.num_experts_per_tok} per token"
    )
    print(f"  context         {what.context:,} tokens")
    print()
    print(f"  {'part':<24}{'tensors':>9}{'on disk':>12}{'read/token':>15}")
    for part in what.parts:
        print(
            f"  {part.part.value:<24}{part.tensors:>9,}{gigabytes(part.stored):>12}"
            f"{gigabytes(part.per_token):>15}"
        )
    tensors = sum(part.tensors for part in what.parts)
    print(f"  {'sum':<24}{tensors:>9,}{gigabytes(what.stored):>12}{gigabytes(what.per_token):>15}")
    print()
    print(f"  memory: {gigabytes(memory)} for the weights")
    print(
        f"        + {what.latent_per_token:,} B per cached token "
        f"({gigabytes(what.latent_full_context)} for the full context)"
    )
    found = f"{len(files)} files, {gigabytes(on_disk)}" if files else "none here"
    print(f"  safetensors: {found}")
    if config.vision is None and config.raw.get("vision_config"):
        print("  no vision: config.json describes a tower that the files do not hold")


@app.command()
def verify(
    folder: Folder,
    as_json: AsJson = False,
    headers_only: Annotated[
        bool,
        typer.Option(
            "--headers-only",
            help="Check the headers only, and read no tensor: takes seconds at any size.",
        ),
    ] = False,
    record: Annotated[
        bool, typer.Option("--record", help="Write a manifest of sha256 if there is none.")
    ] = False,
) -> None:
    """Check a checkpoint: headers, tensors, scales, and hashes where there is a manifest.

    Exit code 0 if it can be loaded, 1 if not. Nothing in the folder is executed.
    """
    from perilune.weights.progress import progress_bar
    from perilune.weights.verify import verify_checkpoint

    with progress_bar(f"Verifying {folder.name}", minimum=10**9) as progress:
        report = verify_checkpoint(
            folder, headers_only=headers_only, record=record, progress=progress
        )
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        _print_report(report, headers_only)
    if not report.ok:
        raise typer.Exit(1)


def _print_report(report: Report, headers_only: bool) -> None:
    for finding in report.findings[:MAX_FINDINGS]:
        parts = (finding.severity, finding.file, finding.tensor, finding.message)
        print(": ".join(part for part in parts if part))
        if finding.remedy:
            print(f"  remedy: {finding.remedy}")
    hidden = report.errors + report.warnings - len(report.findings[:MAX_FINDINGS])
    if hidden:
        print(f"... and {hidden:,} more (--json lists up to 1,000)")
    verdict = "good" if report.ok else f"{report.errors:,} error{'' if report.errors == 1 else 's'}"
    print(f"{report.folder}: {verdict}")
    hashes = (
        f"{report.files_hashed} files hashed"
        if report.has_manifest and not headers_only
        else "no hashes compared (no manifest)"
    )
    checked = "headers only" if headers_only else f"{report.scales_checked} scales, {hashes}"
    print(f"  {report.tensors:,} tensors in {report.files} files; {checked}")


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    like: Annotated[Family, typer.Option(help="Member of the model family.")] = Family.K2,
    scale: Annotated[Scale, typer.Option(help="Toy width, or real layers but few.")] = Scale.TINY,
    storage: Annotated[
        StorageFormat,
        typer.Option(
            "--format",
            parser=parse_format,
            metavar=FORMAT_NAMES,
            help=FORMAT_HELP,
        ),
    ] = BF16,
    layers: Annotated[int | None, typer.Option(help="Number of layers, dense one first.")] = None,
    experts: Annotated[int | None, typer.Option(help="Routed experts per layer.")] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of the random weights: the same seed gives the same bytes.")
    ] = 0,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Copy tiktoken.model and tokenizer_config.json from here."
        ),
    ] = None,
) -> None:
    """Make a checkpoint with random weights, in the exact on-disk layout. For tests, benchmarks."""
    from perilune.weights.format_bytes import gigabytes
    from perilune.weights.progress import progress_bar
    from perilune.weights.published_config import config_json, generation_config_json
    from perilune.weights.random_weights import RandomWeights, random_config
    from perilune.weights.tensor_table import expected_tensors
    from perilune.weights.write import SHARD_BYTES, write_checkpoint

    config = random_config(like, storage, scale.value, layers=layers, experts=experts)
    raw = config_json(config)
    extra: dict[str, bytes | Path] = {
        **_tokenizer(tokenizer, config.text.vocab_size),
        "generation_config.json": json.dumps(generation_config_json(config), indent=2).encode(),
    }
    specs = list(expected_tensors(config))
    with progress_bar(f"Writing {folder.name}", minimum=10**9) as progress:
        write_checkpoint(
            folder,
            raw,
            specs,
            RandomWeights(seed, config),
            identity=f"random {seed} {json.dumps(raw, sort_keys=True)}",
            extra=extra,
            # Several files even where one would do, so that readers meet an index.
            shard_bytes=SHARD_BYTES if scale is Scale.SLICE else 2**20,
            progress=progress,
        )
    total = sum(spec.nbytes for spec in specs)
    print(f"{folder}: {len(specs):,} tensors, {gigabytes(total)}, random weights of seed {seed}")


def _tokenizer(source: Path | None, vocab_size: int) -> dict[str, bytes | Path]:
    if source is None:
        from perilune.cli.new_tokenizer import tokenizer_files

        return {**tokenizer_files(vocab_size)}
    from perilune.chat.tokenizer import Tokenizer

    found = Tokenizer.from_pretrained(source).vocab_size
    if found != vocab_size:
        raise UsageError(
            f"the tokenizer of {source} has {found} tokens, but the model has {vocab_size}",
            remedy="Leave --tokenizer out: a byte-level one is made",
        )
    names = ("tiktoken.model", "tokenizer.json", "tokenizer_config.json")
    return {name: source / name for name in names if (source / name).is_file()}
