"""Recipes: read, chosen by a fixed rule, a user's own; and what is said of bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from perilune.agent.budgets import Budget
from perilune.agent.effort import EFFORTS, budget_for, effort_named
from perilune.agent.models.scripted import Reply, ScriptedModel
from perilune.agent.recipes.choose import choose
from perilune.agent.recipes.recipe import Recipe, load_recipe, load_recipes, recipes_folder
from perilune.errors import UsageError


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("PERILUNE_CORPUS", "PERILUNE_SEARXNG_URL", "BRAVE_API_KEY", "TAVILY_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return recipes_folder()


def write(folder: Path, name: str, fields: str, prompt: str = "Do it well.") -> Path:
    place = folder / name
    place.mkdir(parents=True)
    (place / "recipe.yaml").write_text(fields)
    (place / "prompt.md").write_text(prompt)
    return place


def test_the_four_competences_are_there():
    assert list(load_recipes()) == ["code", "reason", "search", "ui", "write"]
    for recipe in load_recipes().values():
        assert recipe.line
        assert recipe.tools
        assert recipe.verifiers()
        assert recipe.budget.steps and recipe.budget.thinking_tokens
        assert len(recipe.prompt.splitlines()) <= 30
    assert load_recipe("code").works_on_copy


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("Fix the bug in parser.py: a test fails.", "code"),
        ("One of the tests of balun fails. Correct the package; leave the tests.", "code"),
        ("Which of these files changed the exit code, and why?", "code"),
        ("Write a short report on Tavor and Biken. For each, state the length.", "write"),
        ("Write a few sentences on Gonuzen that state the seat city.", "write"),
        ("Draft a briefing for the council.", "write"),
        ("Tell me the line of trade of Gonuzen.", "search"),
        ("Who is the mayor of Diba? Cite your sources.", "search"),
        ("Prove that there is no largest prime.", "reason"),
        ("In how many ways, at what probability? Solve the puzzle.", "reason"),
        ("write hi into a.txt", "none"),
        ("Hello!", "none"),
        ("", "none"),
    ],
)
def test_the_task_chooses(tmp_path: Path, task: str, name: str):
    (tmp_path / "x.py").write_text("x = 1\n")
    choice = choose(task, tmp_path, searchable=True)
    assert choice.name == name, choice.why
    assert choice == choose(task, tmp_path, searchable=True)
    assert choice.why


def test_a_recipe_whose_needs_are_not_met_is_not_chosen(tmp_path: Path):
    choice = choose("Fix the failing test.", tmp_path, searchable=True)
    assert (choice.name, "no code here" in choice.why) == ("none", True)
    assert choose("Who was the first mayor?", tmp_path, searchable=False).name == "none"


def test_a_users_own_recipe(own_folder: Path, tmp_path: Path):
    fields = (
        "line: translate\ntools: [files]\nchecks: [numbers]\nbudget: {steps: 7, cost: 0.5}\n"
        "words: [translate, translat*]\n"
    )
    write(own_folder, "translator", fields, "Keep the tone.")
    recipe = load_recipe("translator")
    assert (recipe.budget.steps, recipe.budget.cost) == (7, 0.5)
    assert choose("A translation of this, translate it", tmp_path).name == "translator"
    assert "Keep the tone." in recipe.prompt_after("Base.")
    # One with a built-in's name takes its place.
    write(own_folder, "reason", "line: mine\n")
    assert load_recipe("reason").line == "mine"
    assert load_recipes()["reason"].line == "mine"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("lines: typo\n", "unknown field 'lines'"),
        ("- a list\n", "holds no fields"),
        ("line: [\n", "cannot be read"),
        ("tools: [no_such_tool]\n", "no tool set called"),
        ("checks: [no_such_check]\n", "no check called"),
        ("budget: {stops: 3}\n", "the fields of budget are"),
        ("budget: {steps: many}\n", "must be a number"),
        ("budget: {steps: true}\n", "must be a number"),
        ("workspace: moon\n", "direct or copy"),
        ("needs: luck\n", "code or search"),
        ("words: {a: b}\n", "list of words"),
        ("prompt: nowhere.md\n", "nowhere.md cannot be read"),
        ("!!python/object/apply:os.system ['true']\n", "cannot be read"),
    ],
)
def test_a_bad_recipe_is_refused_with_its_file(own_folder: Path, fields: str, words: str):
    write(own_folder, "mine", fields)
    with pytest.raises(UsageError, match="mine") as caught:
        load_recipe("mine")
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["nothing", "../code", "Code", "none", ""])
def test_there_is_no_such_recipe(name: str):
    with pytest.raises(UsageError, match="no recipe called"):
        load_recipe(name)


def test_a_recipe_gives_defaults_and_what_is_given_wins(make_agent):
    recipe = Recipe("mine", "", "Be brief.", tools=("note",), budget=Budget(steps=9))
    agent = make_agent([Reply("ok")], recipe=recipe)
    assert [tool.name for tool in agent.tools] == ["note"]
    assert agent.budget.steps == 9
    assert agent.system_prompt.endswith("Be brief.")
    other = make_agent([Reply("ok")], ["plan"], recipe=recipe, budget=Budget(steps=3))
    assert ([tool.name for tool in other.tools], other.budget.steps) == (["plan"], 3)
    result = agent.run("t")
    assert (result.recipe, result.ok) == ("mine", True)


def test_efforts_are_shares_of_the_budget():
    whole = Budget(steps=120, thinking_tokens=48_000)
    steps = [budget_for(EFFORTS[name], whole).steps for name in EFFORTS]
    thinking = [budget_for(EFFORTS[name], whole).thinking_tokens for name in EFFORTS]
    assert steps == [20, 60, 120, 120]
    assert thinking == [3000, 12_000, 48_000, 48_000]
    assert [each.trajectories for each in EFFORTS.values()] == [1, 1, 1, 8]
    assert budget_for(EFFORTS["low"], Budget(steps=None)).steps is None
    with pytest.raises(UsageError, match="low, medium, high, heavy"):
        effort_named("huge")


def test_no_revision_is_asked_for_when_the_steps_are_spent(make_agent):
    """The answer is given with its problems, and not lost."""
    agent = make_agent([Reply("It is so [ev:00c0ffee].")], budget=Budget(steps=2))
    result = agent.run("t")
    assert (result.reason, result.steps) == ("unverified", 2)
    assert result.answer.startswith("It is so")
    assert result.verdict is not None and not result.verdict.passed
    assert [check.name for check in result.verdict.checks] == ["citations"]
    assert isinstance(agent.model, ScriptedModel)


def test_revisions_are_part_of_the_budget(make_agent):
    for revisions in (0, 1, 4):
        agent = make_agent([Reply("")], budget=Budget(revisions=revisions))
        assert agent.run("t").steps == revisions + 1
