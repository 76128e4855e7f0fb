"""How programs are started: what of the environment they get, and where they are found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perilune.processes import (
    FIXED_FOLDER,
    clean_environment,
    command_environment,
    find_program,
    python_module,
    python_script,
    safe_spawning,
)
from perilune.safe_start import trusted_entries

LISTS = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "NODE_PATH", "LD_PRELOAD")
ENTRIES = st.sampled_from(
    ["", ".", "./x", "lib", "..", "/usr/bin", "/opt/x", "{here}", "{here}/bin", "{here}/../p",
     "libjemalloc.so"]
)  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bin").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path.resolve()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(values=st.dictionaries(st.sampled_from(LISTS), st.lists(ENTRIES, min_size=1)))
def test_no_list_names_the_current_folder(here: Path, values: dict[str, list[str]]) -> None:
    given_ = {k: ":".join(v).format(here=here) for k, v in values.items()}
    clean = clean_environment({"HOME": "/home/me", **given_})
    assert clean["HOME"] == "/home/me"
    assert clean["PYTHONSAFEPATH"] == "1"
    for name in LISTS:
        for entry in clean.get(name, "/").split(":"):
            if name == "LD_PRELOAD" and "/" not in entry:
                continue  # found in the system's folders
            assert entry.startswith("/")
            assert name == "LD_PRELOAD" or not Path(os.path.realpath(entry)).is_relative_to(here)
        wanted = {"/opt/x", "/usr/bin"} & set(given_.get(name, "").split(":"))
        assert wanted <= set(clean.get(name, "").split(":"))


def test_what_makes_an_interpreter_run_something_else_goes(here: Path) -> None:
    gone = {"PYTHONSTARTUP": "/x", "PYTHONINSPECT": "1", "PYTHONHOME": "home", "BASH_ENV": "/x"}
    gone["NODE_OPTIONS"] = "--require ./x.js"
    kept = {"PYTHONUTF8": "1", "HTTPS_PROXY": "http://p", "PYTHONPATH": "/opt/x", "PATH": "/bin"}
    assert clean_environment(gone | kept) == {**kept, "PYTHONSAFEPATH": "1"}


def test_programs_are_not_found_in_the_current_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (here / "git", here / "bin" / "git"):
        place.write_text("#!/bin/sh\n")
        place.chmod(0o755)
    monkeypatch.setenv("PATH", f".::bin:{here}:{here}/bin:/usr/bin:/bin")
    assert find_program("git") in ("/usr/bin/git", "/bin/git", None)
    assert find_program("sh") in ("/usr/bin/sh", "/bin/sh")
    assert find_program("no-such-program") is None
    monkeypatch.chdir("/")
    assert find_program("git") == f"{here}/git"  # named with its whole path, from elsewhere


def test_a_search_path_loses_what_can_be_written_here(here: Path) -> None:
    stdlib = str(Path(os.__file__).parent)
    entries = ["", ".", str(here), "/opt/x", stdlib, f"{here}/lib", f"{here}/.venv/site-packages"]
    kept = trusted_entries(entries, given=f"{here}/lib:")
    assert kept == ["/opt/x", stdlib, f"{here}/.venv/site-packages"]


@pytest.mark.parametrize("name", ["json", "runpy_helper", "typing", "sitecustomize", "torch"])
def test_a_python_of_ours_is_this_package_and_nothing_from_here(here: Path, name: str) -> None:
    (here / f"{name}.py").write_text("raise SystemExit('shadowed')")
    (here / "perilune").mkdir()
    (here / "perilune" / "__init__.py").write_text("raise SystemExit('shadowed')")
    for folder in (str(here), FIXED_FOLDER):
        done = subprocess.run(
            python_module("perilune.errors"), cwd=folder, env=clean_environment(),
            capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
    script = here / "script.py"
    script.write_text("import json, sys; print(sys.path[0], json.__file__)")
    done = subprocess.run(python_script(script), cwd=here, env=clean_environment(),
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0
    assert str(here) not in done.stdout


def test_a_package_that_is_found_by_its_place_only(here: Path) -> None:
    """As `python -m perilune` in a source folder: the child gets the same files, not others."""
    command = python_module("perilune.errors")
    command[0:1] = [sys.executable, "-S"]  # nothing is installed
    done = subprocess.run(command, cwd="/", env=clean_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_server_of_tools_gets_a_safe_python(here: Path, tmp_path: Path) -> None:
    outside = Path(os.__file__)
    for command, safe in (
        (["python", "-m", "server"], True), (["python3", "-c", "x"], True), (["uvx", "x"], True),
        (["python", "-X", "dev", "-Im", "server"], True), (["python", str(outside)], False),
        (["python", "-u", str(outside), "-m"], False), (["python", "server.py"], True),
    ):  # fmt: skip
        (here / "server.py").write_text("")
        clean = command_environment(command, {"PATH": ".:/usr/bin"})
        assert ("PYTHONSAFEPATH" in clean) == safe, command
        assert clean["PATH"] == "/usr/bin"


SPAWN = """
import multiprocessing, os
from perilune.processes import safe_spawning
def work(): os._exit(7)
if __name__ == "__main__":
    with safe_spawning():
        process = multiprocessing.get_context("spawn").Process(target=work)
        process.start()
    process.join()
    assert process.exitcode == 7
    assert "PYTHONSAFEPATH" not in os.environ
"""


def test_a_spawned_process_takes_nothing_from_here(here: Path, tmp_path_factory) -> None:
    script = tmp_path_factory.mktemp("elsewhere") / "script.py"
    script.write_text(SPAWN)
    for name in ("pickle", "socket", "signal", "tempfile", "selectors"):
        (here / f"{name}.py").write_text("open('MARK', 'a').write(__name__)")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    done = subprocess.run([sys.executable, str(script)], cwd=here, env=environment,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (here / "MARK").exists()


def test_nested_spawning_gives_the_variable_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    with safe_spawning():
        with safe_spawning():
            assert os.environ["PYTHONSAFEPATH"] == "1"
        assert os.environ["PYTHONSAFEPATH"] == "1"
    assert "PYTHONSAFEPATH" not in os.environ
