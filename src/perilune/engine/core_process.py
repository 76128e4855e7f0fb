"""`python -m perilune.engine.core_process`: an engine core as a process, reached by its
standard streams.

It reads a load message and then commands from stdin, and writes events to stdout; whatever a
library prints goes to stderr. When stdin ends, its owner is gone, and it goes too.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from queue import SimpleQueue
from threading import Thread
from typing import BinaryIO

from perilune.engine.core_loop import CoreQueue, run_core_loop
from perilune.engine.core_messages import Died, Event, Stop
from perilune.engine.life import describe_error
from perilune.engine.load import load_engine
from perilune.engine.load_reports import LoadReports
from perilune.engine.wire import event_frame, frame, read_command, read_frame, read_load
from perilune.errors import PeriluneError


def main() -> int:
    # The owner decides when this process ends, also where it was started in a terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    commands_in = sys.stdin.buffer
    with os.fdopen(os.dup(1), "wb") as events_out:
        os.dup2(2, 1)
        return serve(commands_in, events_out)


def serve(commands_in: BinaryIO, events_out: BinaryIO) -> int:
    """Load, then run commands until told to stop; the exit status."""

    def write(data: bytes) -> None:
        events_out.write(data)
        events_out.flush()

    def emit(event: Event) -> None:
        write(event_frame(event))

    first = read_frame(commands_in)
    if first is None:
        return 0
    model, options = read_load(first[1])
    try:
        engine = load_engine(model, options, progress=LoadReports(emit))
    except PeriluneError as error:
        write(frame("failed", [error.message, error.remedy]))
        return 1
    except Exception as error:  # the owner says why; where is for our own log
        traceback.print_exc()
        write(frame("failed", [f"the load failed: {describe_error(error).text}", ""]))
        return 1
    write(frame("ready", engine.bandwidth))
    commands: CoreQueue = SimpleQueue()
    Thread(target=_read_commands, args=(commands_in, commands), daemon=True).start()
    try:
        run_core_loop(engine, commands, emit)
    except Exception as error:
        why = describe_error(error)
        emit(Died(why.text, why.reason))
        return 1
    return 0


def _read_commands(stream: BinaryIO, commands: CoreQueue) -> None:
    while (message := read_frame(stream)) is not None:
        commands.put(read_command(*message))
    commands.put(Stop())


if __name__ == "__main__":
    sys.exit(main())
