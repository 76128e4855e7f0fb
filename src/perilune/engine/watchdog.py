"""A process that has work and neither computes, nor waits for a disk, nor says anything, hangs.

Time alone proves nothing: a step of a large model may take minutes. Processor time does. It is seen
on Linux only; elsewhere nobody watches. A loop that spins for ever is not caught.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

LOOK_SECONDS = 1.0
HUNG_SECONDS = 30.0
_WAITS = "Dt"  # for a disk; for a debugger


def processor_ticks(process_id: int) -> int | None:
    """What the process has computed so far; None: not known, or it waits for a good reason.

    Source: proc(5), /proc/PID/stat, fields 3, 14 and 15.
    """
    try:
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in _WAITS else int(fields[11]) + int(fields[12])


async def kill_when_hung(
    process_id: int, messages: Callable[[], int], busy: Callable[[], bool]
) -> None:
    """SIGKILL after `HUNG_SECONDS` in which a busy process did nothing. Ends with that, or never:
    whoever finds this ended knows who killed the process.

    messages: how many the process has sent. busy: whether any are to be expected.
    """
    before, still = (-1, -1), 0.0
    while still < HUNG_SECONDS:
        await asyncio.sleep(LOOK_SECONDS)
        ticks = processor_ticks(process_id)
        now = (messages(), -1 if ticks is None else ticks)
        still = still + LOOK_SECONDS if busy() and ticks is not None and now == before else 0.0
        before = now
    with suppress(ProcessLookupError):
        os.kill(process_id, signal.SIGKILL)
