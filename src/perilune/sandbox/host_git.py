"""git on the host: the one place that starts it, so that no repository can have it run anything.

A repository's own configuration names programs (`core.fsmonitor`, hooks, filters, pagers, ssh), and
an agent may have written it. So only commands that read an index or a configuration are run; what
can be turned off is; the environment is made anew, and an answer that is late is none.
Sources: `git-config(1)`, `git(1)` (environment variables), `gitattributes(5)`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perilune.processes import FIXED_FOLDER, SYSTEM_PATH, find_program

SAFE_COMMANDS = frozenset({"config", "ls-files", "version"})
"""They run no hook, filter, text conversion, pager or transport, whatever a repository says."""

_SECONDS = 10.0

_OVERRIDES = {
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.pager": "cat",
    "core.editor": "true",
    "core.sshCommand": "false",
    "core.askPass": "false",
    "core.attributesFile": "/dev/null",
    "core.untrackedCache": "false",
    "credential.helper": "",
    "diff.external": "",
    "gpg.program": "false",
    "protocol.allow": "never",
    "submodule.recurse": "false",
}


@dataclass(frozen=True, slots=True)
class Committer:
    """The name and mail of the user's own git configuration; empty where there is none."""

    name: str = ""
    email: str = ""


def run_git(arguments: Sequence[str], folder: Path) -> bytes | None:
    """What git prints in `folder`; None when it fails, is late, or is not installed.

    Raises `ValueError` for a command that a repository could turn into a program of its own.
    """
    if not arguments or arguments[0] not in SAFE_COMMANDS:
        raise ValueError(f"git {' '.join(arguments[:1])} may run what a repository names")
    program = find_program("git")
    if program is None:
        return None
    line = [program, "--no-pager"]
    for name, value in _OVERRIDES.items():
        line += ["-c", f"{name}={value}"]
    try:
        done = subprocess.run(
            [*line, "-C", str(folder), *arguments],
            env=_environment(), cwd=FIXED_FOLDER, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def committer_of(folder: Path) -> Committer:
    """Whom commits in `folder` are by: the user's global configuration, `includeIf` and all.

    What the repository itself says is left to git in the sandbox, which sees it.
    """
    return Committer(_global_value("user.name", folder), _global_value("user.email", folder))


def _global_value(key: str, folder: Path) -> str:
    said = run_git(["config", "--show-scope", "-z", "--get-all", key], folder)
    words = (said or b"").decode("utf-8", "replace").split("\0")
    values = [
        value for scope, value in zip(words[::2], words[1::2], strict=False)
        if scope in ("system", "global")
    ]  # fmt: skip
    return " ".join(values[-1].split()) if values else ""


def _environment() -> dict[str, str]:
    """Nothing of GIT_* but the place of the user's configuration."""
    kept = {
        "PATH": SYSTEM_PATH,
        "HOME": str(Path.home()),
        "LC_ALL": "C",
        "GIT_ALLOW_PROTOCOL": "",
        "GIT_ASKPASS": "false",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_SSH_COMMAND": "false",
        "GIT_TERMINAL_PROMPT": "0",
    }
    for name in ("GIT_CONFIG_GLOBAL", "XDG_CONFIG_HOME"):
        if (place := os.environ.get(name)) and Path(place).is_absolute():
            kept[name] = place
    return kept
