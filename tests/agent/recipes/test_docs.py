"""What docs/competences.md says is so: its example, its tables, the tests that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from perilune.agent.effort import EFFORTS
from perilune.agent.recipes.recipe import load_recipe, load_recipes, recipes_folder

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "competences.md").read_text("utf-8")


@pytest.mark.parametrize("name", ["reason", "search", "code", "write"])
def test_each_competence_has_a_transcript_with_a_verdict(name: str):
    shown = PAGE.split(f"<!-- transcript {name} -->")[1].split(f"<!-- end {name} -->")[0]
    assert f"· recipe {name}, for the task says" in shown
    assert "· check: " in shown, "a planted mistake was caught"
    assert "· verdict: " in shown
    assert "/tmp/" not in shown


def test_the_table_says_the_budgets():
    for recipe in load_recipes().values():
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{recipe.name}`"))
        assert f"{recipe.budget.steps} steps, {recipe.budget.thinking_tokens:,}" in row


def test_the_efforts_are_named():
    for name in EFFORTS:
        assert f"\n| {name} |" in PAGE


def test_the_example_recipe_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = recipes_folder() / "mine"
    folder.mkdir(parents=True)
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    (folder / "recipe.yaml").write_text(example)
    (folder / "prompt.md").write_text("Do it.")
    recipe = load_recipe("mine")
    assert (recipe.works_on_copy, recipe.budget.steps) == (True, 40)


def test_what_is_named_exists():
    for name in set(re.findall(r"`(tests/\S+\.py|benchmarks/\S+\.py|scripts/\S+\.py)", PAGE)):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\((competences/\S+)\)", PAGE):
        assert (ROOT / "docs" / name).stat().st_size > 1000, name
    assert not re.search("@@[A-Z]+@@", PAGE)
