"""The option that names a storage format: `--format`, `--to`."""

from __future__ import annotations

from typing import Any

import click

from perilune.formats import FORMATS, StorageFormat


class FormatType(click.ParamType):
    """A name of the command line -> the format; every registered one, also a later one."""

    name = "format"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> StorageFormat:
        found = value if isinstance(value, StorageFormat) else FORMATS.get(str(value))
        if found is None:
            self.fail(f"{value!r} is not one of {', '.join(map(repr, FORMATS))}.", param, ctx)
        return found

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(FORMATS)}]"
