"""`perilune recipes`: which there are, and what is in one."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="List and show recipes for kinds of tasks."
)


@app.command("ls")
def list_recipes() -> None:
    """List all recipes, the built-in ones and your own."""
    from rich.console import Console
    from rich.table import Table

    from perilune.agent.recipes.recipe import BUILTIN, load_recipes, recipes_folder

    table = Table("recipe", "from", "what it does", box=None, pad_edge=False)
    for recipe in load_recipes().values():
        built_in = recipe.folder is not None and recipe.folder.parent == BUILTIN
        table.add_row(recipe.name, "built in" if built_in else "yours", recipe.line)
    console = Console()
    console.print(table, highlight=False)
    console.print(f"Your own: {recipes_folder()}/NAME/recipe.yaml and prompt.md", highlight=False)


@app.command()
def show(name: Annotated[str, typer.Argument(help="A recipe's name.")]) -> None:
    """Show a recipe: its files as they are."""
    from perilune.agent.recipes.recipe import load_recipe

    recipe = load_recipe(name)
    assert recipe.folder is not None
    print(f"# {recipe.folder}")
    for file in sorted(recipe.folder.iterdir(), key=lambda each: each.name != "recipe.yaml"):
        if file.suffix in (".yaml", ".md"):
            print(f"\n## {file.name}\n\n{file.read_text('utf-8').strip()}")


@app.command()
def choose(
    task: Annotated[str, typer.Argument(help="A task.")],
) -> None:
    """Say which recipe `perilune run` would choose for a task here, and why."""
    from pathlib import Path

    from perilune.agent.recipes.choose import choose as choice_for

    choice = choice_for(task, Path.cwd())
    print(f"{choice.name}: {choice.why}")
