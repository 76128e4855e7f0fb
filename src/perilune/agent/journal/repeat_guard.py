"""Notices a model that makes the same calls with the same results over and over.

A call is its tool, arguments and result; a run that polls something which changes is therefore left
alone. Cycles of up to four calls (A-B-A-B) count by whole rounds. The thresholds are those that a
widely used agent settled on after runs of hundreds of identical calls.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

REMIND_AT = (3, 5, 8)
STOP_AT = 12
LONGEST_CYCLE = 4


@dataclass(slots=True)
class RepeatGuard:
    """The fingerprints of a run's calls, and how often the last of them repeat."""

    _calls: list[bytes] = field(default_factory=list)

    def observe(self, name: str, arguments: dict[str, Any], result: object) -> None:
        text = json.dumps([name, arguments, result], sort_keys=True, default=str)
        self._calls.append(hashlib.blake2b(text.encode(), digest_size=8).digest())
        del self._calls[: -(STOP_AT + 1) * LONGEST_CYCLE]

    def forget(self) -> None:
        """Begin anew: a person spoke, so the same call may now mean something else."""
        self._calls.clear()

    @property
    def repeats(self) -> tuple[int, int]:
        """`(count, period)`: the last `period` calls happened `count` times in a row."""
        best = (1, 1) if self._calls else (0, 1)
        for period in range(1, LONGEST_CYCLE + 1):
            tail = self._calls[-period:]
            count = 0
            for end in range(len(self._calls), period - 1, -period):
                if self._calls[end - period : end] != tail:
                    break
                count += 1
            if count > best[0]:
                best = (count, period)
        return best


def level(count: int) -> int:
    """The highest reminder threshold that `count` has reached, 0 for none."""
    return max((each for each in REMIND_AT if count >= each), default=0)


def reminder(count: int, period: int, name: str) -> str:
    """What the model is told at a threshold; it grows firmer."""
    what = (
        f"the call to `{name}` with the same arguments and the same result"
        if period == 1
        else f"the same cycle of {period} calls with the same results"
    )
    text = f"You have made {what} {count} times in a row. Repeating it will not change the result."
    if count >= REMIND_AT[2]:
        return f"{text} At {STOP_AT} the run is stopped. Say now what blocks you, or answer."
    if count >= REMIND_AT[1]:
        return f"{text} Do something different: other arguments, another tool, or answer."
    return f"{text} Think about what you learnt from it and choose another way."
