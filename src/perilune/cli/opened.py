"""A run of `perilune run` while it is at work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from perilune.cli import standard_input
from perilune.cli.pictures import with_pictures

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from rich.console import Console

    from perilune.cli.agent_view import AgentView
    from perilune.events import Content


class Opened:
    """A run while it is at work: what was piped in joins its task, and whatever ends it, the
    spinner goes and the way to go on is said."""

    def __init__(
        self,
        console: Console,
        view: AgentView,
        piped: standard_input.Piped | None,
        pictures: Sequence[dict[str, Any]] = (),
    ) -> None:
        self._console = console
        self._view = view
        self._piped = piped
        self._pictures = pictures
        self._run = ""

    def task(
        self, task: str | None, run: str, folder: Path, window: int | None = None
    ) -> Content | None:
        """The task as the model gets it, with its pictures, now that the run has a folder.

        `window`: tokens of the model's context. A character is a token at worst, and a quarter of
        the window is what a task may bring.
        """
        self._run = run
        if task is None:
            return None
        return with_pictures(self._whole(task, folder, window), self._pictures)

    def _whole(self, task: str, folder: Path, window: int | None) -> str:
        if self._piped is None:
            return task
        shown = standard_input.SHOWN_CHARACTERS
        most = shown if window is None else min(shown, window // 4)
        if most < shown and len(self._piped.text) > most:
            self._console.print(
                f"· of standard input, {most:,} characters (head and tail) go into the task: the "
                f"model's window is {window:,} tokens",
                style="dim",
            )
        return self._piped.added_to(task, folder / "outputs", most=most)

    def say_how_to_go_on(self) -> None:
        self._console.print(
            f"· go on with: perilune run --resume {self._run}", style="dim", soft_wrap=True
        )

    def __enter__(self) -> Opened:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._view.wait()
        if error is not None and self._run:
            self.say_how_to_go_on()
