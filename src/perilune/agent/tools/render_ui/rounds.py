"""The rounds of one mock-up, as files in the run's folder: `ui/`.

    mockup.png, round-1.png, round-1-difference.png, ..., rounds.json, index.html

They lie outside of the workspace, so nothing that the model runs can change them.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from perilune.agent.tools.render_ui.compare import Comparison
from perilune.agent.tools.render_ui.page import Round, page_of
from perilune.errors import ToolError

FOLDER = "ui"


class Rounds:
    """The rounds in `folder`; those of an earlier process are read."""

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder / FOLDER
        self.index = self.folder / "index.html"
        try:
            self.all = msgspec.json.decode(
                (self.folder / "rounds.json").read_bytes(), type=list[Round]
            )
        except (OSError, msgspec.DecodeError):
            self.all = []

    def add(
        self, path: str, mockup: bytes, screenshot: bytes, comparison: Comparison, asked: float
    ) -> Round:
        """Keep a round and draw the page anew; the same screenshot again is the same round."""
        if not self.all or self._screenshot(self.all[-1]) != screenshot:
            made = Round(
                number=len(self.all) + 1,
                path=path,
                similarity=comparison.similarity,
                places=comparison.places,
            )
            self._write("mockup.png", mockup)
            self._write(f"round-{made.number}.png", screenshot)
            self._write(f"round-{made.number}-difference.png", comparison.difference)
            self.all.append(made)
            self._write("rounds.json", msgspec.json.encode(self.all))
        self._write("index.html", page_of(self.folder, self.all, asked).encode())
        return self.all[-1]

    def _screenshot(self, each: Round) -> bytes:
        try:
            return (self.folder / f"round-{each.number}.png").read_bytes()
        except OSError:
            return b""

    def _write(self, name: str, data: bytes) -> None:
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            fresh = self.folder / f".{name}"
            fresh.write_bytes(data)
            fresh.replace(self.folder / name)
        except OSError as error:
            raise ToolError(f"{self.folder / name} cannot be written: {error.strerror}") from None
