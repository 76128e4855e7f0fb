"""The first code of ours that a process runs: our imports never come from the current folder.

`python -m perilune` puts the current folder in front of the standard library, so a `json.py` that
an agent or a foreign repository left there would run as us. It is taken off before anything else
is imported; this file itself imports only what every interpreter has loaded when it starts (so not
even `__future__`). What Python runs before us is out of reach: docs/sandbox.md says what that is.
"""

import os
import sys


def own_program() -> bool:
    """Whether this process is ours: `perilune`, or `python -m perilune...`; not a user's script."""
    first = sys.argv[0] if getattr(sys, "argv", None) else ""
    if first != "-m":  # that is what it reads while `-m` still looks for the module
        return os.path.basename(first) == "perilune"  # noqa: PTH119
    words = sys.orig_argv
    for number, word in enumerate(words[1:], 1):
        if word.startswith("-") and not word.startswith("--") and "m" in word:
            module = word.partition("m")[2] or "".join(words[number + 1 : number + 2])
            return module.partition(".")[0] == "perilune"
    return False


def current_folder() -> str:
    """The real path of the current folder; empty when it is gone."""
    try:
        return os.path.realpath(os.getcwd())  # noqa: PTH109
    except OSError:
        return ""


def trusted_entries(entries: list[str], *, given: str) -> list[str]:
    """The entries of a module search path that cannot be changed by who writes the current folder.

    Left out are relative ones, the current folder, and what the variable PYTHONPATH (`given`) adds
    relative to it or below it. The interpreter's own folders stay, wherever we are.
    """
    here = current_folder()
    own = os.path.dirname(os.path.realpath(os.__file__))  # noqa: PTH120
    added = {os.path.realpath(each) for each in given.split(os.pathsep)} if given else set()
    kept = []
    for entry in entries:
        real = os.path.realpath(entry)
        below = bool(here) and (real == here or (real in added and real.startswith(here + os.sep)))
        packages = os.path.basename(real) in ("site-packages", "dist-packages")  # noqa: PTH119
        if os.path.isabs(entry) and (not below or real == own or packages):  # noqa: PTH117
            kept.append(entry)
    return kept


def forget_current_folder() -> None:
    """Take the current folder, and what PYTHONPATH names relative to it, off our search path."""
    sys.path[:] = trusted_entries(sys.path, given=os.environ.get("PYTHONPATH", ""))


if own_program():
    forget_current_folder()
