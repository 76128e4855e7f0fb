"""Limits of one key: requests and tokens per minute (token buckets), requests at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from perilune.serve.api_error import ApiError
from perilune.serve.request import Caller
from perilune.serve.settings import Settings


@dataclass(slots=True)
class _Bucket:
    """Holds a minute's worth and fills evenly. May go below zero: what was taken is paid back."""

    per_minute: int
    level: float
    filled: float

    def fill(self, now: float) -> None:
        gained = (now - self.filled) * self.per_minute / 60
        self.level = min(self.per_minute, self.level + gained)
        self.filled = now

    def wait(self, amount: float = 1) -> float:
        """Seconds until `amount` is there, 0 when it is."""
        missing = min(amount, self.per_minute) - self.level
        return max(0.0, missing * 60 / self.per_minute)


@dataclass(slots=True)
class _Use:
    requests: _Bucket | None
    tokens: _Bucket | None
    open: int = 0


@dataclass(slots=True)
class Lease:
    """A request that counts; `release` it once, with the tokens that it brought."""

    _use: _Use
    _open: bool = field(default=True)

    def release(self, completion_tokens: int) -> None:
        if self._open:
            self._open = False
            self._use.open -= 1
            if self._use.tokens is not None:
                self._use.tokens.level -= completion_tokens


class Quotas:
    """What each key has used."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    def take(self, caller: Caller, prompt_tokens: int) -> Lease:
        """Count a request. Raises ApiError (429) with the time to wait."""
        now = self._clock()
        use = self._uses.get(caller.name)
        if use is None:
            use = _Use(
                _bucket(self._settings.key_requests_per_minute, now),
                _bucket(self._settings.key_tokens_per_minute, now),
            )
            self._uses[caller.name] = use
        most = self._settings.key_concurrent_requests
        if most is not None and use.open >= most:
            raise _exceeded(f"this key has {use.open} requests under way, its limit", 1.0)
        for bucket, amount, what in (
            (use.requests, 1, "requests"),
            (use.tokens, prompt_tokens, "tokens"),
        ):
            if bucket is not None:
                bucket.fill(now)
                if wait := bucket.wait(amount):
                    raise _exceeded(f"this key may use {bucket.per_minute} {what} per minute", wait)
        if use.requests is not None:
            use.requests.level -= 1
        if use.tokens is not None:
            use.tokens.level -= prompt_tokens
        use.open += 1
        return Lease(use)


def _bucket(per_minute: int | None, now: float) -> _Bucket | None:
    return None if per_minute is None else _Bucket(per_minute, per_minute, now)


def _exceeded(message: str, wait: float) -> ApiError:
    return ApiError(
        429, message, code="rate_limit_exceeded", retry_after=max(1.0, math.ceil(wait * 10) / 10)
    )
