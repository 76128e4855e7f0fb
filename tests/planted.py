"""A folder in which everything that could run by itself writes down that it did."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

PROGRAMS = (
    *("git", "bwrap", "cp", "sh", "bash", "setpriv", "unshare", "nsenter", "prlimit", "rg"),
    *("chromium", "chromium-browser", "google-chrome", "python", "python3", "node", "uname", "id"),
    *("tar", "env", "cat", "true", "nvidia-smi", "gcc", "cc", "ldconfig", "lscpu"),
)


@cache
def loaded_before_us() -> frozenset[str]:
    """What `python -m` looks for in the current folder before any code of a program runs."""
    script = 'import runpy, sys; print("\\n".join(sys.modules))'
    shown = subprocess.run(
        [sys.executable, "-P", "-S", "-c", script], capture_output=True, text=True, check=True
    )
    return frozenset(name.split(".")[0] for name in shown.stdout.split())


@dataclass(frozen=True)
class Planted:
    """`folder` is planted, `marker` is where what ran is named."""

    folder: Path
    marker: Path

    @property
    def ran(self) -> list[str]:
        """The names of what ran."""
        return sorted(set(self.marker.read_text().split())) if self.marker.exists() else []

    def environment(self, **more: str) -> dict[str, str]:
        """One with the current folder in PATH, in all the ways that there are."""
        path = [".", "", "bin", str(self.folder), str(self.folder / "bin"), os.environ["PATH"]]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PERILUNE_", "PYTHON"))}
        return {**kept, "PATH": ":".join(path), "NO_COLOR": "1", **more}


def plant(folder: Path, marker: Path, *, launched_by_module: bool = False) -> Planted:
    """Fill a folder. `launched_by_module`: without what Python itself takes from there for `-m`."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {*sys.stdlib_module_names, *packages_distributions(), "sitecustomize", "usercustomize"}
    names |= {"conftest", "setup", "torch_npu", "triton", "flash_attn"}
    skipped = loaded_before_us() | {"perilune"} if launched_by_module else frozenset()
    for number, name in enumerate(sorted(names - skipped)):
        if name.isidentifier():
            code = f"open({str(marker)!r}, 'a').write({name!r} + '\\n')\n"
            if number % 5 == 0 or name in ("asyncio", "perilune"):
                (folder / name).mkdir()
                (folder / name / "__init__.py").write_text(code)
            else:
                (folder / f"{name}.py").write_text(code)
    (folder / "planted.pth").write_text(f"import os; open({str(marker)!r}, 'a').write('pth\\n')\n")
    for where in (folder, folder / "bin"):
        where.mkdir(exist_ok=True)
        for name in PROGRAMS:
            if not (where / name).exists():
                program = where / name
                program.write_text(f"#!/bin/sh\necho program:{name} >> {marker}\nexit 0\n")
                program.chmod(0o755)
    evil = folder / "evil.sh"
    evil.write_text(f"#!/bin/sh\necho evil.sh >> {marker}\nexit 0\n")
    evil.chmod(0o755)
    (folder / ".envrc").write_text(f"echo envrc >> {marker}\n")
    (folder / ".env").write_text("PYTHONPATH=.\nLD_PRELOAD=./evil.so\nPERILUNE_MODEL=./planted\n")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "conftest"\nbackend-path = ["."]\n'
        '[tool.pytest.ini_options]\naddopts = "-p conftest"\npythonpath = ["."]\n'
    )
    (folder / "matplotlibrc").write_text("text.usetex: True\nbackend: module://conftest\n")
    (folder / "dbos-config.yaml").write_text("name: planted\nlanguage: python\n")
    (folder / "pyvenv.cfg").write_text(f"home = {folder}\n")
    plant_git(folder, evil, marker)
    return Planted(folder, marker)


def plant_git(folder: Path, evil: Path, marker: Path) -> None:
    """A repository whose configuration and hooks name a program wherever they can."""
    git = ["/usr/bin/git", "-C", str(folder)]
    quiet = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q", "."], check=True, env=quiet)
    (folder / "README.md").write_text("planted\n")
    subprocess.run([*git, "add", "README.md"], check=True, env=quiet)
    subprocess.run([*git, *name, "commit", "-q", "-m", "one"], check=True, env=quiet)
    (folder / ".gitattributes").write_text("* filter=evil diff=evil merge=evil\n")
    (folder / "included").write_text(f"[core]\n\teditor = {evil}\n[alias]\n\tconfig = !{evil}\n")
    with (folder / ".git" / "config").open("a") as config:
        for key in ("fsmonitor", "sshCommand", "pager", "editor", "askPass", "gitProxy"):
            config.write(f"[core]\n\t{key} = {evil}\n")
        config.write(f"[core]\n\thooksPath = {folder}/.hooks\n[include]\n\tpath = ../included\n")
        config.write(f"[alias]\n\tstatus = !{evil}\n\tls-files = !{evil}\n\tx = !{evil}\n")
        config.write(f'[filter "evil"]\n\tclean = {evil}\n\tsmudge = {evil}\n\tprocess = {evil}\n')
        config.write(f'[diff "evil"]\n\ttextconv = {evil}\n\tcommand = {evil}\n')
        config.write(f"[diff]\n\texternal = {evil}\n[credential]\n\thelper = !{evil}\n")
        config.write(f"[gpg]\n\tprogram = {evil}\n[commit]\n\tgpgsign = true\n")
        config.write(f"[pager]\n\tconfig = {evil}\n\tls-files = {evil}\n")
    for hooks in (folder / ".git" / "hooks", folder / ".hooks"):
        hooks.mkdir(exist_ok=True)
        for hook in ("pre-commit", "post-checkout", "post-index-change", "fsmonitor-watchman"):
            (hooks / hook).write_text(f"#!/bin/sh\necho hook:{hook} >> {marker}\n")
            (hooks / hook).chmod(0o755)
