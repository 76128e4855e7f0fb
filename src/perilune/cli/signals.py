"""Signals that end a verb's work in order: the journal is written, the way to go on is said.

The first signal asks the work to stop; the second of its kind ends the program at once.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from perilune.cli.terminal_state import let_go_of_terminal

REASONS = {
    signal.SIGINT: "interrupted by the user",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "the terminal was closed",
    signal.SIGQUIT: "quit by the user",
}
INTERRUPTED = 130


@dataclass(slots=True)
class Ended:
    """Which signal came first; 0: none."""

    number: int = 0

    @property
    def exit_code(self) -> int:
        """As a shell gives it: 128 and the signal. Stopped by no signal is as if by Ctrl-C."""
        return 128 + self.number if self.number else INTERRUPTED


@contextmanager
def ended_in_order(
    stop: Callable[[str], object], *, besides: Collection[int] = ()
) -> Iterator[Ended]:
    """Within a running loop: call `stop` with words on why, once for each kind of signal; those
    in `besides` are left to the caller.

    An ignored SIGHUP (`nohup`) stays ignored. What handled the signals before does so again after.
    """
    loop = asyncio.get_running_loop()
    ended = Ended()
    before = {n: signal.getsignal(n) for n in REASONS if n not in besides}

    def heard(number: signal.Signals) -> None:
        ended.number = ended.number or number
        give_back(number)
        if number is signal.SIGHUP:
            let_go_of_terminal()
        stop(REASONS[number])

    def give_back(number: signal.Signals) -> None:
        if loop.remove_signal_handler(number):
            signal.signal(number, before[number])

    for number in before:
        if number is not signal.SIGHUP or before[number] is not signal.SIG_IGN:
            loop.add_signal_handler(number, heard, number)
    try:
        yield ended
    finally:
        for number in before:
            give_back(number)
