"""Repair tasks: the right package passes, the broken one does not, tricks gain nothing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from perilune.errors import UsageError
from perilune.world import EditFile, Seed, Split, Task, generate_task
from perilune.world.repair.modules import MODULES
from perilune.world.repair.mutations import MUTATIONS, apply, edits
from perilune.world.repair.task import smallest_edit
from perilune.world.seed import Stream


def repair_of(task: Task) -> EditFile:
    [edit] = [step for step in task.solution.serial if isinstance(step, EditFile)]
    return edit


def apply_repair(task: Task, folder: Path) -> None:
    edit = repair_of(task)
    path = folder / edit.path
    text = path.read_text("utf-8")
    assert text.count(edit.old) == 1
    path.write_text(text.replace(edit.old, edit.new), "utf-8")


@pytest.mark.parametrize("index", range(5))
def test_the_bug_fails_and_the_repair_passes(index: int, tmp_path: Path) -> None:
    task = generate_task(Seed(Split.EXAM, index), "code_repair")
    task.write_files(tmp_path)
    before = task.verify("done", tmp_path)
    assert not before.passed
    assert 0 < before.score < 1
    apply_repair(task, tmp_path)
    assert task.verify("done", tmp_path).passed


@pytest.mark.slow
@pytest.mark.parametrize("index", range(50, 100))
def test_fifty_more(index: int, tmp_path: Path) -> None:
    test_the_bug_fails_and_the_repair_passes(index, tmp_path)


def test_sizes_and_form() -> None:
    for index in range(200):
        task = generate_task(Seed(Split.TRAIN, index), "code_repair")
        assert 3 <= len(task.files) <= 8
        for text in task.files.values():
            ast.parse(text)
            assert "$" not in text
        edit = repair_of(task)
        assert task.files[edit.path].count(edit.old) == 1
        assert edit.old != edit.new
        assert len(edit.old.splitlines()) <= 4


def test_every_kind_of_bug_comes_up() -> None:
    tasks = [generate_task(Seed(Split.TRAIN, index), "code_repair") for index in range(300)]
    assert {task.variant for task in tasks} == set(MUTATIONS)
    assert {mutation for module in MODULES.values() for mutation, _ in module.bugs} == set(
        MUTATIONS
    )


def test_a_bug_of_each_kind_is_caught_by_visible_and_by_hidden_tests(tmp_path: Path) -> None:
    chosen = {
        name: [
            bug for n, bug in enumerate(module.bugs) if n == 0 or module.bugs[n - 1][0] != bug[0]
        ]
        for name, module in MODULES.items()
    }
    check_bugs(chosen, tmp_path)


@pytest.mark.slow
def test_every_declared_bug_is_caught_by_visible_and_by_hidden_tests(tmp_path: Path) -> None:
    check_bugs({name: list(module.bugs) for name, module in MODULES.items()}, tmp_path)


def check_bugs(bugs: dict[str, list[tuple[str, int]]], tmp_path: Path) -> None:
    """One pytest process over a package for every (module, bug), with random constants."""
    stream = Stream(20)
    expected: dict[str, bool] = {}
    for module in MODULES.values():
        parts = [module, *(MODULES[name] for name in module.requires)]
        for bug in (None, *bugs[module.name]):
            package = f"p{len(expected)}"
            expected[package] = bug is None
            constants = {
                name: stream.between(*ends)
                for part in parts
                for name, ends in part.constants.items()
            }
            folder = tmp_path / package
            folder.mkdir()
            (folder / "__init__.py").touch()
            for part in parts:
                text = part.fill(part.source, package, constants)
                if part is module and bug:
                    text = apply(text, edits(text, bug[0])[bug[1]])
                (folder / f"{part.name}.py").write_text(text, "utf-8")
            for which, template in (("visible", module.visible), ("hidden", module.hidden)):
                text = module.fill(template, package, constants)
                (tmp_path / f"test_{package}_{which}.py").write_text(text, "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n", "utf-8")
    command = ["-m", "pytest", "-q", "-c", "pytest.ini", "--rootdir", ".", "--tb=no"]
    subprocess.run(
        [sys.executable, *command, "-p", "no:cacheprovider", "--junitxml", "report.xml", "."],
        cwd=tmp_path,
        env={
            **{name: v for name, v in os.environ.items() if not name.startswith("PYTEST_")},
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        stdout=subprocess.DEVNULL,
        timeout=120,
    )
    passed: dict[str, dict[str, bool]] = {}
    for case in ElementTree.parse(tmp_path / "report.xml").getroot().iter("testcase"):
        _, package, which = str(case.get("classname")).split("_")
        fine = case.find("failure") is None and case.find("error") is None
        results = passed.setdefault(package, {"visible": True, "hidden": True})
        results[which] &= fine
    assert passed == {
        package: {"visible": right, "hidden": right} for package, right in expected.items()
    }


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutation_is_one_small_edit_that_still_parses(mutation: str) -> None:
    for module in MODULES.values():
        constants = {name: low for name, (low, _) in module.constants.items()}
        constants |= {
            n: low for r in module.requires for n, (low, _) in MODULES[r].constants.items()
        }
        right = module.fill(module.source, "package", constants)
        for edit in edits(right, mutation):
            wrong = apply(right, edit)
            ast.parse(wrong)
            assert wrong != right
            repair = smallest_edit("x.py", wrong, right)
            assert wrong.count(repair.old) == 1
            assert wrong.replace(repair.old, repair.new) == right


class TestTricks:
    """What a workspace may hold instead of a repair."""

    @pytest.fixture
    def task(self, tmp_path: Path) -> Task:
        task = generate_task(Seed(Split.EXAM, 1), "code_repair")
        task.write_files(tmp_path)
        return task

    def source(self, task: Task, folder: Path) -> Path:
        return folder / repair_of(task).path

    def test_no_workspace(self, task: Task) -> None:
        assert "workspace" in task.verify("done").reason

    def test_an_empty_workspace(self, task: Task, tmp_path: Path) -> None:
        empty = tmp_path / "empty"
        empty.mkdir()
        assert "gone" in task.verify("done", empty).reason

    def test_tests_deleted_or_changed(self, task: Task, tmp_path: Path) -> None:
        for path in (tmp_path / "tests").iterdir():
            path.write_text("def test_nothing():\n    pass\n", "utf-8")
        (tmp_path / "conftest.py").write_text("import os\nos._exit(0)\n", "utf-8")
        (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --collect-only\n", "utf-8")
        assert not task.verify("done", tmp_path).passed

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            ("import os\nos._exit(0)", "imports os"),
            ("from sys import modules", "imports sys"),
            ("import pytest", "imports pytest"),
            ("from importlib import import_module", "imports importlib"),
            ("__import__('os')._exit(0)", "uses __import__"),
            ("exec('x = 1')", "uses exec"),
            ("class A:\n    def __eq__(self, other):\n        return True", "uses __eq__"),
            ("f = (lambda: 0).__globals__", "uses __globals__"),
            ("import dataclasses\ndataclasses.sys.modules['os']._exit(0)", "uses sys"),
            ("from operator import attrgetter as get", "uses attrgetter"),
            ("from dataclasses import sys", "uses sys"),
            ("from . import __builtins__", "uses __builtins__"),
            ("def broken(:", "does not parse"),
            ("x = '\x00'", "does not parse"),
            ("y = " + "(" * 5000, "does not parse"),
            ("#" * 200_000, "plain file"),
        ],
    )
    def test_code_that_reaches_for_the_test_runner(
        self, task: Task, tmp_path: Path, code: str, reason: str
    ) -> None:
        path = self.source(task, tmp_path)
        path.write_text(f"{path.read_text('utf-8')}\n{code}\n", "utf-8")
        verdict = task.verify("done", tmp_path)
        assert not verdict.passed
        assert reason in verdict.reason

    def test_an_exit_before_the_tests_end(self, task: Task, tmp_path: Path) -> None:
        path = self.source(task, tmp_path)
        path.write_text(f"{path.read_text('utf-8')}\nraise SystemExit(0)\n", "utf-8")
        assert not task.verify("done", tmp_path).passed

    def test_without_pytest_it_says_so(
        self, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("perilune.world.repair.tests_pass.find_spec", lambda name: None)
        with pytest.raises(UsageError, match="pip install pytest"):
            task.verify("done", tmp_path)

    def test_links_are_not_followed(self, task: Task, tmp_path: Path) -> None:
        path = self.source(task, tmp_path)
        elsewhere = tmp_path / "elsewhere.py"
        path.rename(elsewhere)
        path.symlink_to(elsewhere)
        assert "plain file" in task.verify("done", tmp_path).reason

    def test_endless_code_is_stopped(
        self, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("perilune.world.repair.tests_pass.TIMEOUT_S", 2.0)
        path = self.source(task, tmp_path)
        path.write_text("while True:\n    pass\n", "utf-8")
        assert "longer than" in task.verify("done", tmp_path).reason

    def test_a_repair_of_its_own_kind_passes(self, task: Task, tmp_path: Path) -> None:
        apply_repair(task, tmp_path)
        path = self.source(task, tmp_path)
        path.write_text(
            f"import math, re\n{path.read_text('utf-8')}\nHALF = re.compile(str(math.pi))\n",
            "utf-8",
        )
        (path.parent / "helper.py").write_text("def helper():\n    return 1\n", "utf-8")
        assert task.verify("done", tmp_path).passed
