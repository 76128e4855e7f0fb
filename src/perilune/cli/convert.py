"""`perilune convert`: a checkpoint in another storage format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perilune.cli.format_option import FORMAT_HELP, FORMAT_NAMES, parse_format
from perilune.formats import StorageFormat

app = typer.Typer(add_completion=False)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A checkpoint folder.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The folder to make.")],
    to: Annotated[
        StorageFormat,
        typer.Option(parser=parse_format, metavar=FORMAT_NAMES, help=FORMAT_HELP),
    ],
) -> None:
    """Convert a checkpoint between storage formats.

    DST appears when it is complete; an interrupted conversion goes on when it is run again.
    """
    from perilune.weights.convert import convert as convert_checkpoint
    from perilune.weights.format_bytes import gigabytes
    from perilune.weights.progress import progress_bar

    with progress_bar(f"Converting {source.name}") as progress:
        convert_checkpoint(source, destination, to, progress=progress)
    written = sum(file.stat().st_size for file in destination.glob("*.safetensors"))
    print(f"{destination}: {to}, {gigabytes(written)}")
