"""A recipe: a prompt in Markdown, and a YAML file with tools, checks, budget and when to choose it.

Built-in ones are folders beside this file (`code/recipe.yaml`, `code/prompt.md`); a user's own are
folders of the same form in `$XDG_CONFIG_HOME/perilune/recipes`, and one with a built-in's name
takes its place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perilune.agent.budgets import Budget
from perilune.agent.checks.check import Check, Verifier
from perilune.agent.checks.usual import NonEmptyAnswer, PlanClosed
from perilune.errors import UsageError

NAME = re.compile(r"[a-z][a-z0-9_-]{0,40}")
NONE = "none"
AUTO = "auto"
BUILTIN = Path(__file__).parent
_LARGEST = 200_000
_FIELDS = frozenset(
    {"line", "tools", "checks", "budget", "workspace", "words", "needs", "prompt", "rubric"}
    | {"similarity"}
)
_NEEDS = frozenset({"code", "search"})
_BUDGET = frozenset({"steps", "tokens", "thinking_tokens", "seconds", "cost", "revisions"})


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to go about a kind of task.

    `tools` are names of tools and tool sets, `checks` names of `CHECKS`. `words` speak for the
    recipe when they stand in a task, `needs` is what must be there for it: "code" (Python files in
    the workspace) or "search" (something to search in). `similarity` is what the check `ui` asks
    for. `folder` is where it was read from.
    """

    name: str
    line: str
    prompt: str
    tools: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    budget: Budget = field(default_factory=Budget)
    works_on_copy: bool = False
    words: tuple[str, ...] = ()
    needs: str = ""
    rubric: str = ""
    similarity: float = 0.95
    folder: Path | None = None

    def prompt_after(self, system_prompt: str) -> str:
        """The whole system prompt."""
        return f"{system_prompt}\n\n# How to go about this task: {self.name}\n{self.prompt}"

    def verifiers(self) -> tuple[Verifier | Check, ...]:
        """The checks of the verification phase; empty answers and open plans never pass."""
        return (NonEmptyAnswer(), PlanClosed(), *(make_check(each, self) for each in self.checks))


def make_check(name: str, recipe: Recipe) -> Check:
    """A check by its name in recipes. Raises `UsageError` for an unknown one."""
    from perilune.agent.checks.argument import Argument
    from perilune.agent.checks.citations import Citations
    from perilune.agent.checks.code import Code
    from perilune.agent.checks.facts import Facts
    from perilune.agent.checks.numbers import Numbers
    from perilune.agent.checks.report import Report
    from perilune.agent.checks.rubric import Rubric
    from perilune.agent.checks.tests import Tests
    from perilune.agent.checks.ui import Ui

    if name == "rubric":
        return Rubric(recipe.rubric)
    made: dict[str, Check] = {
        "facts": Facts(),
        "numbers": Numbers(),
        "numbers-strict": Numbers(strict=True),
        "citations": Citations(),
        "citations-strict": Citations(strict=True),
        "code": Code(),
        "code-parses": Code(run=False),
        "tests": Tests(),
        "argument": Argument(),
        "report": Report(),
        "ui": Ui(recipe.similarity),
    }
    if name not in made:
        raise UsageError(
            f"recipe {recipe.name}: there is no check called {name!r}",
            remedy=f"Checks: {', '.join((*made, 'rubric'))}.",
        )
    return made[name]


def recipes_folder() -> Path:
    """Where a user's own recipes are: `$XDG_CONFIG_HOME/perilune/recipes`."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "perilune" / "recipes"


def load_recipes() -> dict[str, Recipe]:
    """All recipes by name: the built-in ones first, then the user's by name.

    Raises `UsageError` for one that cannot be read.
    """
    found: dict[str, Recipe] = {}
    for place in (BUILTIN, recipes_folder()):
        for file in sorted(place.glob("*/recipe.yaml")):
            found[file.parent.name] = read_recipe(file.parent)
    return found


def load_recipe(name: str) -> Recipe:
    """A recipe by name. Raises `UsageError` when there is none."""
    own, builtin = recipes_folder() / name, BUILTIN / name
    for folder in (own, builtin):
        if NAME.fullmatch(name) and (folder / "recipe.yaml").is_file():
            return read_recipe(folder)
    known = ", ".join((*load_recipes(), NONE))
    raise UsageError(
        f"there is no recipe called {name!r}",
        remedy=f"Recipes: {known}. Your own are folders in {recipes_folder()}.",
    )


def read_recipe(folder: Path) -> Recipe:
    """Read a recipe's folder. Raises `UsageError` that names the file and what is wrong in it."""
    file = folder / "recipe.yaml"
    name = folder.name
    if not NAME.fullmatch(name) or name in (NONE, AUTO):
        raise UsageError(
            f"{folder}: the name of a recipe must be in lower case, and neither none nor auto"
        )
    fields = _fields(file)
    texts = {
        key: _text(folder, str(fields.get(key, default)))
        for key, default in (("prompt", "prompt.md"), ("rubric", "rubric.md"))
        if key == "prompt" or key in fields
    }
    workspace = fields.get("workspace", "direct")
    if workspace not in ("direct", "copy"):
        raise UsageError(f"{file}: workspace must be direct or copy, not {workspace!r}")
    needs = str(fields.get("needs", ""))
    if needs and needs not in _NEEDS:
        raise UsageError(f"{file}: needs must be code or search, not {needs!r}")
    recipe = Recipe(
        name=name,
        line=str(fields.get("line", "")).strip(),
        prompt=texts["prompt"],
        tools=_words(file, fields, "tools"),
        checks=_words(file, fields, "checks"),
        budget=_budget(file, fields.get("budget") or {}),
        works_on_copy=workspace == "copy",
        words=tuple(each.casefold() for each in _words(file, fields, "words")),
        needs=needs,
        rubric=texts.get("rubric", ""),
        similarity=_similarity(file, fields.get("similarity", 0.95)),
        folder=folder,
    )
    recipe.verifiers()
    from perilune.agent.tools import load_tools

    try:
        load_tools(recipe.tools)
    except UsageError as error:
        raise UsageError(f"{file}: {error.message}", remedy=error.remedy) from None
    return recipe


def _fields(file: Path) -> Mapping[str, Any]:
    import yaml

    try:
        text = file.read_text("utf-8")
        if len(text) > _LARGEST:
            raise UsageError(f"{file} is not a recipe: it has {len(text)} characters")
        fields = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{file} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(fields, dict):
        raise UsageError(f"{file} holds no fields", remedy=f"Fields: {', '.join(sorted(_FIELDS))}.")
    unknown = sorted(set(map(str, fields)) - _FIELDS)
    if unknown:
        raise UsageError(
            f"{file}: unknown field {unknown[0]!r}", remedy=f"Fields: {', '.join(sorted(_FIELDS))}."
        )
    return fields


def _text(folder: Path, name: str) -> str:
    file = folder / name
    try:
        text = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None
    if not text or len(text) > _LARGEST:
        raise UsageError(f"{file} is empty or far too long")
    return text


def _words(file: Path, fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = fields.get(name) or []
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list) or not all(isinstance(each, str | int) for each in value):
        raise UsageError(f"{file}: {name} must be a list of words")
    return tuple(str(each).strip() for each in value)


def _similarity(file: Path, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise UsageError(f"{file}: similarity is a number above 0 and up to 1, not {value!r}")
    return float(value)


def _budget(file: Path, fields: object) -> Budget:
    if not isinstance(fields, dict) or not set(map(str, fields)) <= _BUDGET:
        raise UsageError(f"{file}: the fields of budget are {', '.join(sorted(_BUDGET))}")
    for name, value in fields.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise UsageError(f"{file}: the budget's {name} must be a number, not {value!r}")
    return Budget(**fields)
