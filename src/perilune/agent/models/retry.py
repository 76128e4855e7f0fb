"""When and how long to wait before a failed completion is asked again.

Exponential back-off with full jitter; a server's own Retry-After (RFC 9110, 10.2.3) is obeyed, and
never undercut.
"""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from perilune.agent.endings import ModelFailed
from perilune.agent.models.chat_model import ModelError

GARBLED_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`attempts` completions in all; waits of `base` x 2^n seconds up to `longest`, jittered.

    A Retry-After above `patience` seconds ends the run honestly: it can be resumed later.
    """

    attempts: int = 8
    base: float = 1.0
    longest: float = 60.0
    patience: float = 600.0
    jitter: Callable[[], float] = random.random

    def wait(self, attempt: int, error: ModelError) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 1).

        Raises `ModelFailed` when another attempt makes no sense.
        """
        if not error.retryable:
            raise ModelFailed(error.message, remedy=error.remedy) from error
        # What a model writes wrongly again and again, it will not write rightly at last.
        most = min(self.attempts, GARBLED_ATTEMPTS) if error.kind == "garbled" else self.attempts
        if attempt >= most:
            raise ModelFailed(
                f"the model failed {attempt} times; last: {error.message}",
                remedy="Resume the run when the endpoint works again.",
            ) from error
        backoff = min(self.longest, self.base * 2.0 ** (attempt - 1))
        if error.retry_after is None:
            return backoff * self.jitter()
        if error.retry_after > self.patience:
            raise ModelFailed(
                f"{error.message} (it asks to wait {error.retry_after:.0f} s)",
                remedy="Resume the run after that time.",
            ) from error
        # Those who wait for the same second must not all come back in it.
        return error.retry_after + min(1.0, backoff) * self.jitter()


def retry_after(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Seconds from `retry-after-ms` or `retry-after` (seconds, or an HTTP date), else None."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    if (seconds := _number(value)) is not None:
        return seconds
    if not value:
        return None
    try:
        then = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, OSError):
        return None
    return max(0.0, then - (time.time() if now is None else now))


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        return None
    return value if value is not None and 0 <= value < float("inf") else None
