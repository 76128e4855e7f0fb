"""The whole package: what importing costs, that the verb table holds, that nothing is unpickled."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import perilune
from perilune.cli.main import VERBS

SOURCE = Path(perilune.__file__).parent
HEAVY = {"torch", "numpy", "transformers", "openai", "mcp", "trafilatura", "httpx", "llguidance"}


def imported_by(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after running `code`."""
    script = f"{code}\nimport sys\nprint('\\n'.join({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_the_package_is_light() -> None:
    assert not imported_by("import perilune") & HEAVY


def test_idle_torch_threads_sleep_unless_the_user_says_otherwise() -> None:
    code = "import os, perilune; print(os.environ['OMP_WAIT_POLICY'])"
    for given, wanted in ((None, "passive"), ("active", "active")):
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
        if given is not None:
            environment["OMP_WAIT_POLICY"] = given
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        assert done.stdout.strip() == wanted


def test_help_is_light_and_names_every_verb() -> None:
    code = (
        "import contextlib, io, sys\nfrom perilune.cli.main import main\n"
        "sys.argv = ['perilune', '--help']\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main()"
    )
    assert not imported_by(code) & HEAVY
    shown = subprocess.run(
        [sys.executable, "-c", "from perilune.cli.main import main; main()", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for verb in VERBS:
        assert verb in shown


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_module_and_help(verb: str) -> None:
    module, line = VERBS[verb]
    assert import_module(module).app is not None
    assert line.endswith(".")
    shown = subprocess.run(
        [sys.executable, "-c", "from perilune.cli.main import main; main()", verb, "--help"],
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    assert "Usage" in shown.stdout


def test_an_unknown_verb_is_wrong_usage() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from perilune.cli.main import main; main()", "frobnicate"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "frobnicate" in done.stderr


def test_nothing_in_the_package_unpickles_or_evaluates() -> None:
    forbidden_modules = {"pickle", "dill", "cloudpickle", "shelve", "marshal"}
    forbidden_calls = {"eval", "exec", "compile"}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names = {alias.name.split(".")[0] for alias in node.names}
                assert not names & forbidden_modules, path
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in forbidden_modules, path
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if path.is_relative_to(SOURCE / "agent"):
                    continue  # the python tool runs the model's code, in the sandbox, by design
                assert node.func.id not in forbidden_calls, path


STARTS = {
    "subprocess": {"run", "Popen", "call", "check_call", "check_output", "getoutput"},
    "asyncio": {"create_subprocess_exec", "create_subprocess_shell"},
    "pty": {"spawn", "fork"},
    "os": {"system", "popen", "startfile", "posix_spawn", "posix_spawnp"}
    | {f"exec{kind}" for kind in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")}
    | {f"spawn{kind}" for kind in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")},
}
# Runs inside the boundary, or decides what is shown there; each is looked at by hand.
STARTS_BY_HAND = {"sandbox/landlock_launcher.py"}
NAMES_THE_INTERPRETER = {
    "processes.py",  # makes every command line of a Python
    "sandbox/interpreter.py",  # of the sandbox's own, inside
    "world/repair/tests_pass.py",  # with -P, see below
}


@cache
def source_files() -> list[tuple[str, ast.Module]]:
    """Path below the package, and syntax tree, of every file of ours."""
    files = sorted(SOURCE.rglob("*.py"))
    return [(str(f.relative_to(SOURCE)), ast.parse(f.read_text("utf-8"))) for f in files]


def starts_in(tree: ast.Module) -> list[ast.Call]:
    """The calls that start a process, by module and name, however they were imported."""
    direct = {
        alias.asname or alias.name: (node.module or "")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Attribute(value=ast.Name(id=module), attr=name) if name in STARTS.get(
                module, ()
            ):
                found.append(node)
            case ast.Name(id=name) if name in STARTS.get(direct.get(name, ""), ()):
                found.append(node)
    return found


def test_every_process_is_started_with_a_folder_and_an_environment_of_its_own() -> None:
    seen = 0
    for path, tree in source_files():
        for call in starts_in(tree):
            if path in STARTS_BY_HAND:
                continue
            seen += 1
            given = {keyword.arg for keyword in call.keywords}
            assert {"env", "cwd"} <= given, f"{path}:{call.lineno} starts a process without them"
            shell = [keyword for keyword in call.keywords if keyword.arg == "shell"]
            assert not shell, f"{path}:{call.lineno} uses a shell"
    assert seen >= 8  # the rule finds what is there


def test_only_one_place_makes_the_command_line_of_a_python() -> None:
    for path, tree in source_files():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and node.attr in ("executable", "_base_executable")
                and isinstance(node.value, ast.Name)
                and node.value.id == "sys"
            ):
                assert path in NAMES_THE_INTERPRETER, f"{path}:{node.lineno} use perilune.processes"
            if isinstance(node, ast.List) and ast.unparse(node).startswith("[sys.executable"):
                assert "'-P'" in ast.unparse(node) or path == "sandbox/interpreter.py", path


def test_processes_of_multiprocessing_are_spawned_safely() -> None:
    for path, tree in source_files():
        text = ast.unparse(tree)
        if "multiprocessing" in text and path != "processes.py":
            assert "safe_spawning()" in text, path
        assert "fork_context" not in text and "get_context('fork" not in text, path


def test_git_is_started_in_one_place_and_programs_are_looked_up_in_one() -> None:
    for path, tree in source_files():
        for node in ast.walk(tree):
            looked_up = (
                isinstance(node, ast.Attribute) and ast.unparse(node) == "shutil.which"
            ) or (
                isinstance(node, ast.ImportFrom)
                and node.module == "shutil"
                and any(alias.name == "which" for alias in node.names)
            )
            assert not looked_up, f"{path} use perilune.processes.find_program"
            if path == "sandbox/host_git.py":
                continue
            words: list[ast.expr] = []
            if isinstance(node, ast.List | ast.Tuple):
                words = node.elts[:1]
            elif isinstance(node, ast.Call):
                words = node.args[:1]
            for word in words:
                started = isinstance(word, ast.Constant) and word.value in ("git", "/usr/bin/git")
                assert not started, f"{path}:{node.lineno} use run_git"
