"""How many threads a step of the forward runs on, by what steps took.

The right number depends on more than the processor: a small model's step is over before a second
thread has helped much, and beside a busy process every barrier waits for a thread that is not
running. So it is measured: now and then a few steps run on half or twice as many threads, and the
faster number stays. Where a probe does not pay, the next one waits twice as long.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

PROBE_STEPS = 3
FIRST_WAIT, LONGEST_WAIT = 32, 4096  # steps between probes
WORTHWHILE = 0.95  # of the time before


@dataclass(slots=True)
class _Bucket:
    """Steps of about as many rows."""

    level: int
    times: deque[float] = field(default_factory=lambda: deque(maxlen=7))
    wait: int = FIRST_WAIT
    since: int = 0
    probed: int | None = None  # the level on probe
    probe_times: list[float] = field(default_factory=list)
    upward: bool = False  # where the next probe looks


class ThreadChoice:
    """For one model and one caller at a time.

        threads = choice.threads(rows)
        ...  # run the step on them
        choice.record(rows, seconds)

    `most`: the threads of the pool; the candidates are 1, 2, 4, ... and `most`. Results do not
    depend on the number, so neither does anything but time.
    """

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError(f"threads must be at least 1, not {most}")
        self.candidates = sorted({most, *(1 << i for i in range(most.bit_length()))})
        self._buckets: dict[int, _Bucket] = {}

    def threads(self, rows: int) -> int:
        """Threads for a step of `rows` rows."""
        bucket = self._bucket(rows)
        return self.candidates[bucket.level if bucket.probed is None else bucket.probed]

    def record(self, rows: int, seconds: float) -> None:
        """What the step took that `threads(rows)` was asked for."""
        bucket, per_row = self._bucket(rows), seconds / max(1, rows)
        if bucket.probed is None:
            bucket.times.append(per_row)
            bucket.since += 1
            if bucket.since >= bucket.wait:
                bucket.probed = self._neighbour(bucket)
            return
        bucket.probe_times.append(per_row)
        if len(bucket.probe_times) == PROBE_STEPS:
            self._decide(bucket)

    def _bucket(self, rows: int) -> _Bucket:
        key = rows.bit_length()
        if key not in self._buckets:
            self._buckets[key] = _Bucket(len(self.candidates) - 1)
        return self._buckets[key]

    def _neighbour(self, bucket: _Bucket) -> int | None:
        """The level to try next, upwards and downwards in turn; None: there is no other."""
        if len(self.candidates) == 1:
            bucket.since = 0
            return None
        highest = len(self.candidates) - 1
        upward = bucket.level == 0 or (bucket.upward and bucket.level < highest)
        bucket.upward = not upward
        return bucket.level + (1 if upward else -1)

    def _decide(self, bucket: _Bucket) -> None:
        assert bucket.probed is not None
        if median(bucket.probe_times) < WORTHWHILE * median(bucket.times):
            bucket.level, bucket.wait = bucket.probed, FIRST_WAIT
            bucket.times.clear()
            bucket.times.extend(bucket.probe_times)
        else:
            bucket.wait = min(2 * bucket.wait, LONGEST_WAIT)
        bucket.probed, bucket.since = None, 0
        bucket.probe_times.clear()
