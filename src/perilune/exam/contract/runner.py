"""Run the checks against a target, several at a time, and say what came of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase

from perilune.exam.contract import (  # noqa: F401  they register their checks
    anthropic,
    anthropic_stream,
    behaviour,
    chat_plain,
    chat_stream,
    chat_stream_details,
    chat_stream_tools,
    endpoints,
    errors,
    kimi_strict,
    refusals,
    response_format,
    responses,
    thinking,
    tools,
    vision,
)
from perilune.exam.contract.check import CHECKS, Check, Level, Skip, Status, Violation
from perilune.exam.contract.target import (
    Exchange,
    Target,
    forget_exchange,
    latest_exchange,
)

ALONE = ("behaviour.", "errors.alive", "errors.deep-json")  # disturb others, or are disturbed


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a check. `exchange` shows a failure."""

    check: Check
    status: Status
    message: str = ""
    exchange: Exchange | None = None
    seconds: float = 0.0


def select(api: str = "all", only: Iterable[str] = ()) -> list[Check]:
    """Checks of an API whose id matches one of the patterns `only` (none: all of them)."""
    patterns = list(only)
    return [
        check
        for check in CHECKS.values()
        if api in ("all", check.api)
        and (not patterns or any(fnmatchcase(check.id, pattern) for pattern in patterns))
    ]


def run_check(target: Target, check: Check) -> Result:
    """One check. An answer of a shape that it cannot read is a failure, not a crash."""
    forget_exchange()
    start = time.monotonic()
    try:
        check.run(target)
        status, message, exchange = Status.PASSED, "", None
    except Skip as skip:
        status, message, exchange = Status.SKIPPED, str(skip), None
    except Violation as violation:
        status, message = Status.FAILED, str(violation)
        exchange = violation.exchange or latest_exchange()
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, StopIteration) as error:
        status = Status.FAILED
        message = f"the answer has not the shape that is read: {type(error).__name__} {error}"
        exchange = getattr(error, "exchange", None) or latest_exchange()
    return Result(check, status, message, exchange, time.monotonic() - start)


def run_checks(
    target: Target,
    checks: list[Check],
    *,
    parallel: int = 4,
    on_result: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """All checks, in their order; those that disturb others run alone, at the end."""
    found: dict[str, Result] = {}

    def run(check: Check) -> None:
        found[check.id] = run_check(target, check)
        on_result(found[check.id])

    alone = [check for check in checks if check.id.startswith(ALONE)]
    with ThreadPoolExecutor(parallel) as pool:
        list(pool.map(run, (check for check in checks if check not in alone)))
    for check in alone:
        run(check)
    return [found[check.id] for check in checks]


def failed(results: Iterable[Result], level: Level) -> list[Result]:
    """The failures that count when rules up to `level` must hold."""
    order = list(Level)
    return [
        result
        for result in results
        if result.status is Status.FAILED and order.index(result.check.level) <= order.index(level)
    ]
