"""`perilune train`: the recipe, stage by stage."""

from __future__ import annotations

import typer

from perilune.cli.train_episodes import episodes

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Make training data, and train a model."
)
app.command("episodes")(episodes)


@app.callback()
def root() -> None:
    """Keeps `episodes` a verb of its own while it is the only one."""
