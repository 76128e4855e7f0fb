"""Which recipe fits a task: a fixed rule over its words, so the same task has the same recipe.

Each recipe has words that speak for it; the one with the most of them in the task wins, the
earlier one in a tie (code, write, search, reason, then a user's own by name). A recipe whose needs
are not met cannot be chosen. Without any word the task is worked on with no recipe.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from perilune.agent.recipes.recipe import Recipe, load_recipes

ORDER = ("code", "write", "search", "reason")
_MOST_FILES = 2000


@dataclass(frozen=True, slots=True)
class Choice:
    """A recipe (None: no recipe) and why, in words for the person."""

    recipe: Recipe | None
    why: str

    @property
    def name(self) -> str:
        return self.recipe.name if self.recipe else "none"


def choose(
    task: str,
    workspace: Path,
    *,
    recipes: Mapping[str, Recipe] | None = None,
    searchable: bool | None = None,
) -> Choice:
    """The recipe for a task. `searchable` None: whether the environment has something to search."""
    known = load_recipes() if recipes is None else recipes
    words = _words(task)
    best: tuple[int, Recipe, list[str]] | None = None
    unmet: list[str] = []
    for recipe in sorted(known.values(), key=_place):
        said = [each for each in recipe.words if _stands(each, words)]
        if not said:
            continue
        if not _met(recipe.needs, workspace, searchable):
            unmet.append(recipe.name)
        elif best is None or len(said) > best[0]:
            best = (len(said), recipe, said)
    if best is None:
        why = "no word of the task speaks for a recipe"
        if unmet:
            why = f"{unmet[0]} would fit the words, but there is no {known[unmet[0]].needs} here"
        return Choice(None, why)
    _, recipe, said = best
    return Choice(recipe, f"the task says {', '.join(map(repr, said[:4]))}")


def _place(recipe: Recipe) -> tuple[int, str]:
    known = recipe.name in ORDER
    return (ORDER.index(recipe.name) if known else len(ORDER), recipe.name)


def _words(task: str) -> str:
    words = " ".join(re.findall(r"[^\W_]+", task.casefold()))
    return f" {words} "


def _stands(word: str, words: str) -> bool:
    """Whether a word (with `*` at its end: the beginning of one) or phrase stands in the task."""
    if word.endswith("*"):
        return f" {word[:-1]}" in words
    return f" {word} " in words


def _met(needs: str, workspace: Path, searchable: bool | None) -> bool:
    if needs == "code":
        return any(_python_files(workspace))
    if needs == "search" and searchable is None:
        return _can_search()
    return needs != "search" or bool(searchable)


def _python_files(workspace: Path) -> Iterable[Path]:
    from perilune.agent.workspace.workspace import SKIPPED

    seen = 0
    for folder, names, files in os.walk(workspace):
        names[:] = [each for each in sorted(names) if each not in SKIPPED]
        for name in files:
            seen += 1
            if name.endswith(".py"):
                yield Path(folder, name)
        if seen > _MOST_FILES:
            return


def _can_search() -> bool:
    """Whether the `search` tool would find anything to search in."""
    from perilune.errors import UsageError
    from perilune.search.providers import default_provider

    try:
        return default_provider() is not None
    except UsageError:
        return False
