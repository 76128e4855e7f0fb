"""The code recipe: works on a copy, is tested by Perilune, and applies only what passes."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from perilune.agent.agent import Agent, RunResult
from perilune.agent.models.scripted import Call, Crash, Reply, ScriptedModel, Tape
from perilune.agent.recipes.recipe import load_recipe
from perilune.agent.workspace.snapshot import SnapshotStore
from perilune.sandbox import Sandbox
from perilune.world import EditFile, ReadFile, RunTests, Seed, Split, generate_task
from tests.agent.tools.conftest import opened_sandbox  # noqa: F401  (a fixture)
from tests.sandbox.conftest import open_folder

WRONG = "def double(x):\n    return x + 1\n"
RIGHT = "def double(x):\n    return 2 * x\n"
TEST = "from lib import double\n\n\ndef test_double():\n    assert double(4) == 8\n"


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for workspace and home; copies that runs leave go with it."""
    with open_folder() as folder:
        (folder / "workspace").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        yield folder


@pytest.fixture
def repository(place: Path) -> Path:
    folder = place / "workspace"
    (folder / "lib.py").write_text(WRONG)
    (folder / "test_lib.py").write_text(TEST)
    return folder


@pytest.fixture(autouse=True, scope="module")
def pytest_inside(opened_sandbox: Sandbox) -> None:  # noqa: F811
    """The sandbox's Python has pytest, which `run_tests` runs."""
    with open_folder() as folder:
        (folder / "w").mkdir()
        argv = [opened_sandbox.python.executable, "-m", "pytest", "--version"]
        if not opened_sandbox.run(argv, workspace=folder / "w").ok:
            pytest.skip("the sandbox's Python has no pytest; PERILUNE_SANDBOX_PYTHON can name one")


def agent_for(place: Path, tape: Tape, sandbox: Sandbox, **options) -> Agent:
    return Agent(
        ScriptedModel(tape),
        recipe=options.pop("recipe", None) or load_recipe("code"),
        workspace=place / "workspace",
        home=place / "home",
        sandbox=sandbox,
        **options,
    )


def rewrite(text: str, path: str = "lib.py") -> Reply:
    return Reply(calls=[Call("write_file", {"path": path, "content": text})])


def edited(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def checks_of(result: RunResult) -> dict[str, str]:
    assert result.verdict is not None
    return {check.name: check.outcome for check in result.verdict.checks}


def test_a_right_patch_is_applied_and_can_be_undone(place, repository, opened_sandbox):  # noqa: F811
    tape = [Reply(calls=[Call("run_tests", {})]), rewrite(RIGHT), Reply("double was wrong.")]
    agent = agent_for(place, tape, opened_sandbox)
    before = edited(repository)
    result = agent.run("fix double")
    assert (result.reason, checks_of(result)["tests"]) == ("done", "passed")
    assert edited(repository) == before | {"lib.py": RIGHT}
    assert result.changes.applied
    assert (result.changes.files, result.changes.added, result.changes.removed) == (
        ["lib.py"],
        1,
        1,
    )
    assert "+    return 2 * x\n" in Path(result.changes.diff).read_text()
    state = _state(agent, result)
    assert not Path(state.copy.folder).exists(), "the copy of a finished run is removed"
    SnapshotStore(agent.home).undo(state.snapshot_before, state.snapshot_after)
    assert edited(repository) == before


def test_a_wrong_patch_is_never_applied(place, repository, opened_sandbox):  # noqa: F811
    before = edited(repository)
    tape = [rewrite("def double(x):\n    return 3 * x\n"), Reply("Fixed!")]
    result = agent_for(place, tape, opened_sandbox).run("fix double")
    assert (result.reason, result.changes.applied) == ("unverified", False)
    assert "do not pass" in result.detail
    assert edited(repository) == before
    assert "3 * x" in Path(result.changes.diff).read_text()


WEAKER = "def test_double():\n    pass\n"


CHEATS = {
    "weakened": [rewrite(WEAKER, "test_lib.py")],
    "removed": [
        Reply(calls=[Call("bash", {"command": "rm test_lib.py; echo 'def test(): 0' > test_x.py"})])
    ],
    "ignored by conftest": [
        rewrite("collect_ignore = ['test_lib.py']\n", "conftest.py"),
        rewrite(WEAKER, "test_y.py"),
    ],
    "by pytest.ini": [
        rewrite("[pytest]\naddopts = --ignore test_lib.py\n", "pytest.ini"),
        rewrite(WEAKER, "test_y.py"),
    ],
    "skipped": [rewrite("import pytest\npytestmark = pytest.mark.skip\n" + TEST, "test_lib.py")],
    "by import": [rewrite("import pytest\npytest.skip('no', allow_module_level=True)\n" + WRONG)],
}
ALWAYS = {"weakened", "by pytest.ini"}  # the others take ten seconds each


@pytest.mark.parametrize(
    "cheat",
    [
        pytest.param(calls, id=name, marks=() if name in ALWAYS else pytest.mark.slow)
        for name, calls in CHEATS.items()
    ],
)
def test_weakening_the_tests_gains_nothing(place, repository, opened_sandbox, cheat):  # noqa: F811
    before = edited(repository)
    recipe = load_recipe("code")
    recipe = dataclasses.replace(recipe, budget=dataclasses.replace(recipe.budget, revisions=0))
    result = agent_for(place, [*cheat, Reply("Done.")], opened_sandbox, recipe=recipe).run("fix it")
    assert (result.reason, result.changes.applied) == ("unverified", False), result
    assert edited(repository) == before


def test_a_conflict_is_refused_and_the_patch_kept(place, repository, opened_sandbox):  # noqa: F811
    def tape(messages, declared):
        if messages[-1]["role"] != "tool":
            return rewrite(RIGHT)
        (repository / "lib.py").write_text("# someone else was here\n" + WRONG)
        (repository / "new.txt").write_text("new")
        return Reply("Fixed.")

    result = agent_for(place, tape, opened_sandbox).run("fix double")
    assert (result.reason, result.ok) == ("conflict", False)
    assert result.changes.conflicts == ["lib.py"]
    assert (repository / "lib.py").read_text().startswith("# someone else")
    assert "2 * x" in Path(result.changes.diff).read_text()


def test_changes_elsewhere_are_no_conflict(place, repository, opened_sandbox):  # noqa: F811
    def tape(messages, declared):
        if messages[-1]["role"] != "tool":
            return rewrite(RIGHT)
        (repository / "notes.txt").write_text("mine")
        return Reply("Fixed.")

    result = agent_for(place, tape, opened_sandbox).run("fix double")
    assert result.ok
    assert edited(repository) == {"lib.py": RIGHT, "test_lib.py": TEST, "notes.txt": "mine"}


def test_many_files_links_modes_and_removals(place, repository, opened_sandbox):  # noqa: F811
    (repository / "old.py").write_text("x = 1\n")
    (repository / "blob.bin").write_bytes(bytes(range(256)))
    commands = (
        "mkdir -p pkg/deep && echo 'y = 2' > pkg/deep/mod.py && rm old.py && chmod 755 test_lib.py "
        "&& ln -s lib.py link.py && printf '\\000\\001' > blob.bin"
    )
    tape = [rewrite(RIGHT), Reply(calls=[Call("bash", {"command": commands})]), Reply("Done.")]
    result = agent_for(place, tape, opened_sandbox).run("fix and tidy")
    assert result.ok, result
    assert not (repository / "old.py").exists()
    assert (repository / "pkg/deep/mod.py").read_text() == "y = 2\n"
    assert (repository / "link.py").readlink() == Path("lib.py")
    assert os.access(repository / "test_lib.py", os.X_OK)
    assert (repository / "blob.bin").read_bytes() == b"\0\1"
    patch = Path(result.changes.diff).read_text()
    assert "Binary files a/blob.bin and b/blob.bin differ" in patch
    assert "--- a/old.py\n+++ /dev/null" in patch


def test_an_answer_without_changes_needs_no_tests(place, repository, opened_sandbox):  # noqa: F811
    result = agent_for(place, [Reply("It adds one.")], opened_sandbox).run("what does double do?")
    assert (result.ok, result.changes) == (True, None)


def test_without_tests_the_change_is_noted(place, repository, opened_sandbox):  # noqa: F811
    (repository / "test_lib.py").unlink()
    result = agent_for(place, [rewrite(RIGHT), Reply("Done.")], opened_sandbox).run("fix double")
    assert (result.ok, checks_of(result)["tests"]) == (True, "noted")
    assert (repository / "lib.py").read_text() == RIGHT


def test_a_killed_run_goes_on_in_its_copy(place, repository, opened_sandbox):  # noqa: F811
    if os.fork() == 0:  # the child dies in the middle of its second completion
        agent_for(place, [rewrite(RIGHT), Crash()], opened_sandbox, snapshot=True).run("fix double")
        os._exit(1)
    os.wait()
    assert (repository / "lib.py").read_text() == WRONG
    agent = agent_for(place, [rewrite(RIGHT), Reply("Fixed.")], opened_sandbox)
    result = agent.run(resume="last")
    assert (result.ok, result.changes.applied, result.steps) == (True, True, 2)
    assert (repository / "lib.py").read_text() == RIGHT


# --- generated repositories -----------------------------------------------------------------------


def solution_tape(task) -> list[Reply]:
    """The turns of a task's shortest solution."""
    turns = []
    for step in task.solution.serial:
        match step:
            case RunTests():
                turns.append(Reply(calls=[Call("run_tests", {})]))
            case ReadFile(path):
                turns.append(
                    Reply(
                        calls=[Call("outline", {"path": path}), Call("read_file", {"path": path})]
                    )
                )
            case EditFile(path, old, new):
                arguments = {"path": path, "old": old, "new": new}
                turns.append(Reply(calls=[Call("edit_file", arguments)]))
    return [*turns, Reply(task.answer)]


def repair(seed: int, sandbox: Sandbox, *, wrong: bool = False):
    task = generate_task(Seed(Split.TRAIN, seed), "code_repair")
    with open_folder() as place:
        folder = place / "workspace"
        folder.mkdir()
        task.write_files(folder)
        before = edited(folder)
        tape = solution_tape(task)
        if wrong:
            tape = [turn for turn in tape if not any(c.name == "edit_file" for c in turn.calls)]
            path = next(s.path for s in task.solution.serial if isinstance(s, EditFile))
            tape.insert(
                -1, Reply(calls=[Call("bash", {"command": f"echo '# looked at' >> {path}"})])
            )
        result = agent_for(place, tape, sandbox).run(task.prompt)
        return result, task.verify(result.answer, folder), edited(folder) != before


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_oracle_repairs_a_repository(opened_sandbox, seed: int):  # noqa: F811
    result, verdict, changed = repair(seed, opened_sandbox)
    assert (result.ok, verdict.passed, changed) == (True, True, True), (result, verdict)


@pytest.mark.slow
@pytest.mark.timeout(3600)  # a hundred repairs, each with several runs of pytest
def test_the_oracle_repairs_fifty_repositories_and_no_wrong_patch_is_applied(opened_sandbox):  # noqa: F811
    repaired = kept_away = 0
    for seed in range(50):
        result, verdict, _ = repair(seed, opened_sandbox)
        repaired += result.ok and verdict.passed
        result, _, changed = repair(seed, opened_sandbox, wrong=True)
        kept_away += not result.ok and not changed
    assert (repaired, kept_away) == (50, 50)


def _state(agent: Agent, result: RunResult):
    from perilune.agent.journal.journal import read_journal
    from perilune.agent.journal.state import fold
    from perilune.home import runs_folder

    return fold(read_journal(runs_folder(agent.home) / result.run).records)
