"""The option that names a storage format: `--format`, `--to`."""

from __future__ import annotations

from typing import Any

import typer

from perilune.formats import FORMATS, StorageFormat

FORMAT_HELP = "Storage format of the large weights."
FORMAT_NAMES = f"[{'|'.join(FORMATS)}]"


def parse_format(value: Any) -> StorageFormat:
    """A name of the command line -> the format; every registered one, also a later one."""
    found = value if isinstance(value, StorageFormat) else FORMATS.get(str(value))
    if found is None:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(map(repr, FORMATS))}.")
    return found
