"""The flag that `run` and `worker` share. Its value may hold a password, so it is never kept."""

from __future__ import annotations

from typing import Annotated

import typer

from perilune.errors import UsageError

DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar="PERILUNE_DATABASE_URL",
        metavar="URL",
        help="PostgreSQL of the cluster: postgresql://USER@HOST/DATABASE.",
        show_envvar=True,
    ),
]


def database_url(given: str | None) -> str:
    """The URL, checked. Raises `UsageError`."""
    if given is None:
        raise UsageError(
            "no database was given",
            remedy="Name it with --database, or in PERILUNE_DATABASE_URL.",
        )
    if not given.startswith(("postgresql://", "postgres://")):
        raise UsageError("the database's URL does not begin with postgresql://")
    return given
