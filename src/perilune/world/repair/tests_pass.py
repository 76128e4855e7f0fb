"""The verifier of repairs: the package's own tests, as they were, and hidden ones pass.

Only the package's Python files are taken out of the workspace; tests and configuration come from
the task, so changing or deleting tests gains nothing. Code that reaches for the test runner
(imports outside a short list, `exec`, an `__eq__` that is always true) is refused before it runs.

Running the code of a model is the caller's risk: `verify` runs it as a plain subprocess with a
time limit. Callers with a sandbox use `prepare`, run the command there, then `judge`.
"""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from perilune.errors import UsageError
from perilune.processes import SYSTEM_PATH
from perilune.world.verdict import RIGHT, Submitted, Verdict, wrong

TIMEOUT_S = 60.0
_INSTALL = "Install it: pip install pytest"
_REPORT = "report.xml"
_LARGEST_FILE = 100_000
# fmt: off
_COMMAND = (
    "-m", "pytest", "-q", "-c", "pytest.ini", "--rootdir", ".", "--noconftest",
    "-p", "no:cacheprovider", "--junitxml", _REPORT, "tests",
)
# fmt: on

# fmt: off
_IMPORTS = frozenset((
    "__future__", "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "enum",
    "fractions", "functools", "heapq", "itertools", "math", "operator", "re", "statistics",
    "string", "typing",
))
_BUILTINS = frozenset((
    "__import__", "breakpoint", "compile", "delattr", "eval", "exec", "exit", "getattr", "globals",
    "locals", "open", "quit", "setattr", "vars",
))
# What leads out of the allowed modules.
_MEMBERS = frozenset((
    "ForwardRef", "attrgetter", "builtins", "get_type_hints", "importlib", "inspect",
    "make_dataclass", "methodcaller", "os", "sys",
))
_SPECIAL = frozenset((
    "__init__", "__post_init__", "__repr__", "__str__", "__len__", "__iter__", "__contains__",
    "__name__", "__doc__",
))
# fmt: on


@dataclass(frozen=True, slots=True)
class TestsPass:
    """`tests` maps file names below `tests/` to texts with `count` tests in all."""

    __test__ = False  # not a class of tests, whatever pytest thinks of its name

    package: str
    tests: Mapping[str, str]
    count: int
    type: str = "tests pass"

    def verify(self, answer: Submitted, workspace: Path | None = None) -> Verdict:
        """Judge the files in `workspace`; the words of the answer do not matter.

        Raises UsageError where pytest is not installed.
        """
        if workspace is None:
            return wrong("a repair is judged by its workspace, and none was given")
        if find_spec("pytest") is None:
            raise UsageError("Judging a repair runs its tests with pytest", remedy=_INSTALL)
        with tempfile.TemporaryDirectory(prefix="perilune-tests-") as scratch:
            folder = Path(scratch)
            objection = self.prepare(workspace, folder)
            if objection:
                return objection
            environment = {
                "PATH": SYSTEM_PATH,
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                # pytest finds the package by the task's own pytest.ini, after the standard library.
                "PYTHONSAFEPATH": "1",
            }
            with subprocess.Popen(
                [sys.executable, "-P", *_COMMAND],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            ) as process:
                try:
                    process.wait(TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    return wrong(f"the tests took longer than {TIMEOUT_S:g} s")
            return self.judge(folder)

    @property
    def command(self) -> tuple[str, ...]:
        """Arguments of the Python interpreter that run the tests of a prepared folder."""
        return _COMMAND

    def prepare(self, workspace: Path, folder: Path) -> Verdict | None:
        """Lay package and tests out in an empty folder; a verdict where the package is refused."""
        source = workspace / self.package
        if source.is_symlink() or not source.is_dir():
            return wrong(f"the package {self.package} is gone")
        target = folder / self.package
        target.mkdir()
        for path in sorted(source.iterdir()):
            if path.suffix != ".py":
                continue
            if path.is_symlink() or not path.is_file() or path.stat().st_size > _LARGEST_FILE:
                return wrong(f"{path.name} is not a plain file of at most {_LARGEST_FILE} bytes")
            try:
                text = path.read_text("utf-8")
                tree = ast.parse(text)
            except (SyntaxError, ValueError, RecursionError) as error:
                return wrong(f"{path.name} does not parse: {error}")
            reason = _refusal(tree, self.package)
            if reason:
                return wrong(f"{path.name} {reason}")
            (target / path.name).write_text(text, "utf-8")
        (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\n", "utf-8")
        (folder / "tests").mkdir()
        for name, text in self.tests.items():
            (folder / "tests" / name).write_text(text, "utf-8")
        return None

    def judge(self, folder: Path) -> Verdict:
        """Read the report that the test run left in the folder."""
        try:
            suite = ElementTree.parse(folder / _REPORT).getroot().find("testsuite")  # noqa: S314
        except (OSError, ElementTree.ParseError):
            return wrong("the tests did not run to their end")
        if suite is None:
            return wrong("the tests did not run to their end")
        run = int(suite.get("tests", "0"))
        bad = sum(int(suite.get(each, "0")) for each in ("failures", "errors", "skipped"))
        if run == self.count and bad == 0:
            return RIGHT
        return wrong(
            f"{max(run - bad, 0)} of {self.count} tests pass", max(run - bad, 0) / self.count
        )


def _refusal(tree: ast.Module, package: str) -> str | None:
    """Why code is not run at all; None where nothing speaks against it."""
    allowed = _IMPORTS | {package}
    for node in ast.walk(tree):
        modules: list[str] = []
        used: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [package if node.level else str(node.module)]
            used = [alias.name for alias in node.names]
        elif isinstance(node, ast.Name) and node.id in _BUILTINS:
            return f"uses {node.id}, which a repair does not need"
        elif isinstance(node, ast.Name):
            used = [node.id] if node.id.startswith("__") else []
        elif isinstance(node, ast.Attribute):
            used = [node.attr]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            used = [node.name] if node.name.startswith("__") else []
        for name in modules:
            if name.split(".")[0] not in allowed:
                return f"imports {name}, which a repair does not need"
        for name in used:
            if name in _MEMBERS or (name.startswith("__") and name not in _SPECIAL):
                return f"uses {name}, which a repair does not need"
    return None
