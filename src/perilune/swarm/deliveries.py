"""What the orchestrator is shown of each report, so that its window never overflows.

Reports arrive one by one while the turn is under way. Each is shown up to a cap; when the room of
this turn is used up, the rest wait, are named, and are fetched with `collect_reports`.
"""

from __future__ import annotations

from perilune.agent.context.manager import TRIGGER

CHARACTERS_PER_TOKEN = 3
"""Cautious: English has about four, tables and numbers less."""
SHARE = 0.6
"""Of the free window that the reports of one turn may take."""
LINE = 120
"""Characters of what is always said of an assignment: name, status, counts."""
WORTH_SHOWING = 300
"""A shorter piece of a report is not worth showing; it waits instead."""
UNKNOWN_WINDOW = 131_072


def room_for_reports(window: int | None, used_tokens: int, *, least: float = 0.0) -> int:
    """Characters of reports that a turn may bring; at least a share `least` of the window, for
    which the next step makes room."""
    whole = window or UNKNOWN_WINDOW
    free = SHARE * (TRIGGER * whole - used_tokens)
    return max(0, int(max(free, least * whole) * CHARACTERS_PER_TOKEN))


class Deliveries:
    """The room of one turn, shared out to `expected` reports as they come."""

    def __init__(self, room: int, expected: int, cap: int) -> None:
        """`expected` 0: in the order in which they come, each as far as the cap allows."""
        self._room = room - LINE * expected
        self._expected = expected
        self._cap = cap

    def show(self, report: str) -> str | None:
        """The report as it may be shown now, shortened if need be; None when it has to wait."""
        self._expected = max(0, self._expected - 1)
        # What is left when those still to come get as much; the first may take no more than that.
        fair = self._room // (self._expected + 1)
        most = min(self._cap, max(fair, WORTH_SHOWING))
        if min(len(report), most) > self._room:
            return None
        shown = shorten(report, most)
        self._room -= len(shown)
        return shown


def shorten(text: str, most: int) -> str:
    """Head and tail of a long text, about `most` characters in all."""
    if len(text) <= most:
        return text
    head, tail = most * 2 // 3, most // 4
    cut = len(text) - head - tail
    return f"{text[:head]}\n[... {cut} characters are left out here ...]\n{text[-tail:]}"
