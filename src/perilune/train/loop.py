"""The frame of every stage: steps, metrics, checkpoints, and the ways to end.

A stage ends when its schedule does, when its minutes are over, or on SIGTERM or SIGINT: each time
with a checkpoint, from which `resume` goes on as if nothing had happened. A loss or gradient that
is not finite stops it without one, so the last checkpoint is from before.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from perilune.errors import UsageError
from perilune.train.checkpoint import Progress, checkpoints, load_checkpoint, save_checkpoint
from perilune.train.config import StageConfig
from perilune.train.metrics import MetricsLog
from perilune.train.optim.muon_clip import MuonClip
from perilune.train.parallel import World

Observer = Callable[[dict[str, Any]], None]
Step = Callable[[], dict[str, Any]]
"""Does one optimiser step, moves the stage's `Progress` on and returns the metrics."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call of `run_stage` ended: `finished`, `time` or `signal`."""

    ended: str
    progress: Progress
    checkpoint: Path


def run_stage(
    stage: StageConfig,
    folder: Path,
    optimizer: MuonClip,
    open_step: Callable[[Progress], AbstractContextManager[Step]],
    *,
    minutes: float | None = None,
    resume: bool = False,
    observe: Observer = lambda _: None,
    world: World | None = None,
) -> Outcome:
    """Run the steps that `open_step` makes; checkpoints and metrics go to `folder`.

    Raises UsageError (a run is there and `resume` was not given), TrainingError, DiskFullError.
    """
    started = time.monotonic()
    found = checkpoints(folder)
    if found and not resume:
        raise UsageError(
            f"{folder} holds a run already", remedy="Go on with --resume, or remove the folder"
        )
    world = world or World()
    world.wait()  # until all have looked
    progress = load_checkpoint(found[-1], optimizer) if found else Progress()
    world.wait()
    log = MetricsLog(folder, steps_done=progress.step) if world.writes else None
    config = msgspec.to_builtins(stage)

    def save() -> Path:
        place = save_checkpoint(
            folder, optimizer, progress, keep=stage.keep_checkpoints, config=config,
            writes=world.writes,
        )  # fmt: skip
        world.wait()
        return place

    last_saved = time.monotonic()
    with _signals() as asked_to_stop, open_step(progress) as step:
        while True:
            if progress.step >= stage.schedule.total_steps:
                ended, progress.finished = "finished", True
                break
            if world.agree(asked_to_stop()):
                ended = "signal"
                break
            over = minutes is not None and time.monotonic() - started >= minutes * 60
            if minutes is not None and world.agree(over):
                ended = "time"
                break
            values = step()
            if log is not None:
                log.write(values)
                observe(values)
            if world.agree(time.monotonic() - last_saved >= stage.checkpoint_minutes * 60):
                save()
                last_saved = time.monotonic()
    return Outcome(ended, progress, save())


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or SIGINT came; a second SIGINT interrupts at once."""
    asked: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        old = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: the caller has the signals
        old = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
