"""Tests that a run changes: asked to, by a renaming, or to gain by it; and `trace apply`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perilune.agent.checks.renaming import asks_for_tests, renamed, with_names
from perilune.agent.models.scripted import Call, Reply
from perilune.agent.permissions.permissions import PermissionAnswer
from perilune.agent.recipes.recipe import load_recipe
from perilune.cli.trace import app
from tests.agent.recipes.test_code_recipe import (  # noqa: F401  (fixtures)
    agent_for,
    checks_of,
    edited,
    place,
    pytest_inside,
    rewrite,
)
from tests.agent.tools.conftest import opened_sandbox  # noqa: F401  (a fixture)

SLOW = pytest.mark.slow
"""For the further cases of what one always-run test looks at: each plays a run in a sandbox."""

BILL = "def split_bill(total, people):\n    return total / people\n"
TEST = (
    "from bill import split_bill\n\n\ndef test_split_bill():\n    assert split_bill(30, 3) == 10\n"
)
DOCS = "# Bills\n\nCall `split_bill(30, 3)`.\n"


@pytest.fixture
def bills(place: Path) -> Path:  # noqa: F811
    folder = place / "workspace"
    (folder / "bill.py").write_text(BILL)
    (folder / "test_bill.py").write_text(TEST)
    (folder / "README.md").write_text(DOCS)
    return folder


def once():
    """The recipe, without revisions: the first verdict counts."""
    recipe = load_recipe("code")
    return dataclasses.replace(recipe, budget=dataclasses.replace(recipe.budget, revisions=0))


def shared(text: str) -> str:
    return text.replace("split_bill", "share_bill")


RENAME = [
    rewrite(shared(BILL), "bill.py"),
    rewrite(shared(TEST), "test_bill.py"),
    rewrite(shared(DOCS), "README.md"),
    Reply("Renamed."),
]


@pytest.mark.parametrize(
    "task",
    [
        "Rename split_bill to share_bill everywhere, tests included.",
        pytest.param("Rename split_bill to share_bill in this repository.", marks=SLOW),
        pytest.param(
            "split_bill soll share_bill heißen, bitte in allen Modulen umbenennen.", marks=SLOW
        ),
    ],
)
def test_a_renaming_takes_the_tests_with_it(place, bills, opened_sandbox, task):  # noqa: F811
    result = agent_for(place, RENAME, opened_sandbox, recipe=once()).run(task)
    assert (result.reason, checks_of(result)["tests"]) == ("done", "passed"), result
    assert edited(bills)["test_bill.py"] == shared(TEST)
    assert result.changes.applied


@pytest.mark.slow
def test_a_renaming_is_no_way_to_weaken_tests(place, bills, opened_sandbox):  # noqa: F811
    """The old tests are run under the new names, whatever the new ones say."""
    wrong = "def share_bill(total, people):\n    return total\n"
    weaker = "from bill import share_bill\n\n\ndef test_share_bill():\n    assert share_bill\n"
    tape = [rewrite(wrong, "bill.py"), rewrite(weaker, "test_bill.py"), Reply("Renamed.")]
    result = agent_for(place, tape, opened_sandbox, recipe=once()).run(
        "Rename split_bill to share_bill."
    )
    assert (result.reason, result.changes.applied) == ("unverified", False)
    assert edited(bills)["bill.py"] == BILL


@pytest.mark.slow
def test_moved_modules_and_tests(place, bills, opened_sandbox):  # noqa: F811
    moved = TEST.replace("from bill ", "from money.bills ")
    commands = "mkdir -p money tests && git mv bill.py money/bills.py 2>/dev/null || mv bill.py "
    commands += "money/bills.py; touch money/__init__.py; rm test_bill.py"
    tape = [
        Reply(calls=[Call("bash", {"command": commands})]),
        rewrite(moved, "test_bills.py"),
        Reply("Moved."),
    ]
    result = agent_for(place, tape, opened_sandbox, recipe=once()).run(
        "Move bill.py to money/bills.py."
    )
    assert result.reason == "done", result
    assert "money/bills.py" in edited(bills)


ROUNDED = "def split_bill(total, people):\n    return -(-total // people)\n"
NEW_TEST = TEST.replace("split_bill(30, 3) == 10", "split_bill(31, 3) == 11").replace(
    "def test_split_bill", "def test_it_rounds_up"
)
CHANGED = TEST.replace("== 10", "== 12")
OTHER = "def split_bill(total, people):\n    return total / people * 1.2\n"


@pytest.mark.slow
def test_new_tests_are_always_fine(place, bills, opened_sandbox):  # noqa: F811
    both = TEST + NEW_TEST.partition("\n\n\n")[2]
    tape = [rewrite(ROUNDED, "bill.py"), rewrite(both, "test_bill.py"), Reply("Rounds up now.")]
    result = agent_for(place, tape, opened_sandbox, recipe=once()).run("split_bill rounds up")
    assert result.reason == "done", result


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(
            "Add 20 % tip in split_bill, and change the expected value in the tests.", marks=SLOW
        ),
        pytest.param("split_bill adds a tip of 20 %; update test_bill.py accordingly.", marks=SLOW),
        "split_bill adds 20 % tip. Adapt the tests, too.",
    ],
)
def test_an_expected_value_that_the_person_wants_changed(place, bills, opened_sandbox, task):  # noqa: F811
    tape = [rewrite(OTHER, "bill.py"), rewrite(CHANGED, "test_bill.py"), Reply("Done.")]
    result = agent_for(place, tape, opened_sandbox, recipe=once()).run(task)
    assert (result.reason, result.changes.applied) == ("done", True), result


@pytest.mark.slow
def test_a_person_is_asked_and_answers(place, bills, opened_sandbox):  # noqa: F811
    asked = []

    async def approve(request):
        asked.append(request.subject)
        return PermissionAnswer(allow=True)

    tape = [rewrite(OTHER, "bill.py"), rewrite(CHANGED, "test_bill.py"), Reply("Done.")]
    result = agent_for(place, tape, opened_sandbox, recipe=once(), approver=approve).run(
        "fix the tip in split_bill"
    )
    assert (result.reason, len(asked)) == ("done", 1), result
    assert "test_bill.py" in asked[0]


@pytest.mark.parametrize(
    "weaker",
    [
        TEST.replace(" == 10", ""),
        pytest.param(TEST.replace("assert split_bill(30, 3) == 10", "assert True"), marks=SLOW),
    ],
)
def test_asked_for_or_not_a_test_demands_no_less(place, bills, opened_sandbox, weaker):  # noqa: F811
    """`assert f()` instead of `assert f() == 10` is as many asserts, so it counts only where the
    task asks for other tests; `assert True` never does."""
    tape = [
        rewrite("def split_bill(*a):\n    return 1\n", "bill.py"),
        rewrite(weaker, "test_bill.py"),
    ]
    result = agent_for(place, [*tape, Reply("Done.")], opened_sandbox, recipe=once()).run(
        "fix split_bill"
    )
    assert (result.reason, result.changes.applied) == ("unverified", False)


def unasked(place, bills, sandbox):  # noqa: F811
    """A run that changed an expected value on its own: refused, and kept."""
    tape = [rewrite(OTHER, "bill.py"), rewrite(CHANGED, "test_bill.py"), Reply("Done.")]
    result = agent_for(place, tape, sandbox, recipe=once()).run("fix split_bill")
    assert (result.reason, result.changes.applied) == ("unverified", False)
    assert f"perilune trace apply {result.run}" in result.detail
    assert edited(bills)["bill.py"] == BILL
    return result


@pytest.fixture
def trace(place: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    monkeypatch.setenv("PERILUNE_HOME", str(place / "home"))
    return lambda *arguments: CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_what_was_refused_can_be_applied_and_undone(place, bills, opened_sandbox, trace):  # noqa: F811
    before = edited(bills)
    result = unasked(place, bills, opened_sandbox)
    shown = trace("apply", result.run, "--dry-run")
    assert (shown.exit_code, "+    return total / people * 1.2" in shown.stdout) == (0, True)
    assert edited(bills) == before
    done = trace("apply", result.run, "--json")
    assert json.loads(done.stdout)["applied"] == ["bill.py", "test_bill.py"]
    assert edited(bills) == before | {"bill.py": OTHER, "test_bill.py": CHANGED}
    assert trace("undo", result.run).exit_code == 0
    assert edited(bills) == before


@pytest.mark.slow
def test_it_does_not_need_the_copy_any_more(place, bills, opened_sandbox, trace):  # noqa: F811
    import shutil

    result = unasked(place, bills, opened_sandbox)
    for copy in (*place.glob("perilune-copy-*"), place / "home" / "runs" / result.run / "copy"):
        shutil.rmtree(copy, ignore_errors=True)
    assert trace("apply", result.run).exit_code == 0
    assert edited(bills)["bill.py"] == OTHER


@pytest.mark.slow
def test_a_conflict_is_left_alone_and_its_patch_written(place, bills, opened_sandbox, trace):  # noqa: F811
    result = unasked(place, bills, opened_sandbox)
    (bills / "bill.py").write_text("# mine\n" + BILL)
    done = trace("apply", result.run, "--json")
    said = json.loads(done.stdout)
    assert (done.exit_code, said["applied"], said["conflicts"]) == (1, [], ["bill.py"])
    assert "* 1.2" in Path(said["conflicts_diff"]).read_text()
    assert edited(bills)["test_bill.py"] == TEST
    done = trace("apply", result.run, "--partial")
    assert (done.exit_code, "test_bill.py" in done.stdout) == (1, True)
    assert edited(bills)["bill.py"].startswith("# mine")
    assert edited(bills)["test_bill.py"] == CHANGED


def test_names_of_a_change():
    old = {"a.py": "def f(x, tip):\n    return x + tip\n", "b.py": "class Old:\n    pass\n"}
    new = {"a.py": "def g(x, rate):\n    return x + rate\n", "c.py": "class New:\n    pass\n"}
    assert renamed(old, new) == {"f": "g", "tip": "rate", "b": "c"} | (
        {"Old": "New"} if "Old" in renamed(old, new) else {}
    )
    assert with_names("from pkg.b import f\nf('pkg.b.f')\n", {"pkg.b": "other.c", "f": "g"}) == (
        "from other.c import g\ng('other.c.g')\n"
    )


@pytest.mark.parametrize(
    ("task", "asks"),
    [
        ("Update the tests accordingly.", True),
        ("Rename it, tests included.", True),
        ("change the expected value to 12", True),
        ("Passe den Code an, Tests inklusive.", True),
        ("Fix the failing test.", False),
        ("Make the tests pass.", False),
        ("Find it and repair it, without changing the tests.", False),
        ("Correct the package; leave the tests as they are.", False),
        ("fix double", False),
        ("A test fails. Don't change the tests.", False),
    ],
)
def test_whether_a_task_asks_for_other_tests(task: str, asks: bool):
    assert asks_for_tests([task]) == asks
