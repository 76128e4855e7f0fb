"""How we start other programs: nothing that is in the current folder becomes a part of them.

A Python is started with `-P` and a fixed current folder, from an environment without what names
files relative to one; a program is looked up in absolute folders of PATH that are not below the
current one. `tests/test_house.py` holds that no other place starts a process on its own.
Sources: Python's `using/cmdline` (PYTHONSAFEPATH, PYTHONPATH), `ld.so(8)`, `exec(3)` (an empty
entry of PATH is the current folder).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from perilune.safe_start import current_folder, forget_current_folder

FIXED_FOLDER = "/"
"""Where our own processes run: always there, and no agent's workspace."""

_PACKAGE = Path(__file__).absolute().with_name("__init__.py")

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What makes an interpreter, a shell or git run something else. HOME is not theirs to change.
_DROPPED = frozenset(
    {
        "PYTHONSTARTUP",
        "PYTHONINSPECT",
        "PYTHONBREAKPOINT",
        "PYTHONEXECUTABLE",
        "PYTHONPYCACHEPREFIX",
    }
    | {"PYTHONPYCACHEPREFIX", "PYTHONWARNINGS", "BASH_ENV", "ENV", "PERL5OPT", "RUBYOPT"}
)
# Lists of folders, of which the relative and the empty ones go, and those in the current folder.
_LISTS = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "NODE_PATH", "PERL5LIB", "RUBYLIB")
# Loaded into every program: an entry with no slash is found in the system's folders.
_PRELOADED = ("LD_PRELOAD", "LD_AUDIT", "DYLD_INSERT_LIBRARIES")
# One place each.
_PLACES = ("PYTHONHOME", "PYTHONUSERBASE", "PLAYWRIGHT_NODEJS_PATH", "MATPLOTLIBRC")
_LOADS_CODE = ("-r", "--require", "--import", "--loader", "--experimental-loader")

_BOOT = """\
import importlib.util as u, runpy, sys
where, module = sys.argv[1:3]
del sys.argv[1:3]
found = u.find_spec("perilune")
if found is None or found.origin != where:
    spec = u.spec_from_file_location("perilune", where)
    sys.modules["perilune"] = package = u.module_from_spec(spec)
    spec.loader.exec_module(package)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def python_module(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of ours in a new Python: the same one, and this package.

    Start it with `clean_environment()` and in `FIXED_FOLDER`.
    """
    return [sys.executable, "-P", "-c", _BOOT, str(_PACKAGE), module, *arguments]


def python_script(script: Path, *arguments: str) -> list[str]:
    """The command line that runs a file of ours alone, without even its own folder to import from.

    Start it with `clean_environment()` and in `FIXED_FOLDER`.
    """
    return [sys.executable, "-P", str(script.absolute()), *arguments]


def clean_environment(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child: ours (or `given`), without what could lead to foreign code.

    Absolute entries of PYTHONPATH outside of the current folder stay, so that what a person
    installed by hand is found; relative ones, and those in the current folder, go.
    """
    kept = dict(os.environ if given is None else given)
    for name in _DROPPED.intersection(kept):
        del kept[name]
    for name in _LISTS:
        _keep(kept, name, [each for each in _entries(kept, name) if _trusted(each)])
    for name in _PRELOADED:
        entries = kept.get(name, "").replace(":", " ").split()
        safe = [each for each in entries if "/" not in each or each.startswith("/")]
        _keep(kept, name, safe)
    for name in _PLACES:
        if name in kept and not Path(kept[name]).is_absolute():
            del kept[name]
    own = [each for each in _entries(kept, "PYTHONPATH") if _outside(each)]
    _keep(kept, "PYTHONPATH", own)
    options = kept.get("NODE_OPTIONS", "").split()
    if any(each.startswith(_LOADS_CODE) for each in options):
        del kept["NODE_OPTIONS"]
    kept["PYTHONSAFEPATH"] = "1"
    return kept


def secure_this_process() -> None:
    """Make this process, and whatever a library of it starts, forget the current folder.

    For the program `perilune`; a library must leave the environment of its user alone.
    """
    forget_current_folder()
    clean = clean_environment()
    for name in set(os.environ) - set(clean):
        del os.environ[name]
    for name, value in clean.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def find_program(name: str) -> str | None:
    """The path of a program that we start by ourselves; None when it is not installed.

    Not taken from a relative folder of PATH, nor from one in the current folder: who writes there
    would run as us. The folder of our own interpreter is trusted.
    """
    for folder in os.environ.get("PATH", SYSTEM_PATH).split(os.pathsep):
        path = Path(folder, name)
        if _trusted(folder) and path.is_file() and os.access(path, os.X_OK):
            return str(path)
    return None


def command_environment(command: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program that a person named, such as an MCP server.

    A Python that is told to run a module would look for everything in the current folder first, and
    so would its children; one that is given a script needs the folder of that script.
    """
    clean = clean_environment(given)
    script = _script_of(command)
    if script is not None and script.is_file() and _outside(str(script.parent.absolute())):
        del clean["PYTHONSAFEPATH"]
    return clean


def _script_of(command: Sequence[str]) -> Path | None:
    """The file that a Python's command line runs; None for a module, code, or another program."""
    if not Path(command[0]).name.startswith(("python", "pypy")):
        return None
    arguments = iter(command[1:])
    for word in arguments:
        if not word.startswith("-"):
            return Path(word)
        if not word.startswith("--") and {"m", "c"}.intersection(word.partition("=")[0]):
            return None
        if word in ("-X", "-W"):
            next(arguments, None)
    return None


class _Spawning:
    """How many threads are at it, and what the variable was before the first of them."""

    lock = threading.Lock()
    threads = 0
    before: str | None = None


@contextlib.contextmanager
def safe_spawning() -> Iterator[None]:
    """Within it, `multiprocessing` starts processes that do not import from the current folder."""
    with _Spawning.lock:
        if not _Spawning.threads:
            _Spawning.before = os.environ.get("PYTHONSAFEPATH")
            os.environ["PYTHONSAFEPATH"] = "1"
        _Spawning.threads += 1
    try:
        yield
    finally:
        with _Spawning.lock:
            _Spawning.threads -= 1
            if not _Spawning.threads and _Spawning.before is None:
                os.environ.pop("PYTHONSAFEPATH", None)


def _entries(environment: Mapping[str, str], name: str) -> list[str]:
    value = environment.get(name)
    return value.split(os.pathsep) if value is not None else []


def _keep(environment: dict[str, str], name: str, entries: list[str]) -> None:
    if name in environment:
        environment[name] = os.pathsep.join(entries)
        if not entries:
            del environment[name]
    if name == "PATH" and not environment.get("PATH"):
        environment["PATH"] = SYSTEM_PATH


def _outside(path: str) -> bool:
    """Whether an absolute path is not in the current folder."""
    here = current_folder()
    real = os.path.realpath(path)
    inside = bool(here) and here != "/" and (real == here or real.startswith(here + os.sep))
    return Path(path).is_absolute() and not inside


def _trusted(folder: str) -> bool:
    """Whether programs are taken from a folder of PATH: not below the current one, or our own."""
    own = os.path.realpath(sys.prefix) + os.sep
    return _outside(folder) or (
        Path(folder).is_absolute() and os.path.realpath(folder).startswith(own)
    )
