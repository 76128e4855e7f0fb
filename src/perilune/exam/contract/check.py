"""What a check is: a rule with an id, a level and a reason, and a function that asks a server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perilune.exam.contract.target import Exchange, Target


class Level(StrEnum):
    """How much a broken rule matters. In the order of `--fail-on`."""

    REQUIRED = "required"  # clients of the API break
    RECOMMENDED = "recommended"  # the API promises it; most clients do without
    KIMI = "kimi"  # Moonshot's own interface says so, the OpenAI API does not


class Status(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"  # this server or this answer gave nothing to look at


class Violation(Exception):
    """A rule is broken. `exchange` is the request and answer that show it; None: the latest."""

    def __init__(self, message: str, exchange: Exchange | None = None) -> None:
        self.exchange = exchange
        super().__init__(message)


class Skip(Exception):
    """The check has nothing to look at, and says why."""


@dataclass(frozen=True, slots=True)
class Check:
    """One rule. `rule` says what is promised, `why` what breaks without it."""

    id: str
    level: Level
    rule: str
    why: str
    run: Callable[[Target], None]
    priority: str = ""  # P0, P1, P2 of Moonshot's streaming interface
    api: str = "openai"


CHECKS: dict[str, Check] = {}  # in the order of the report


def check(
    id: str,  # noqa: A002
    rule: str,
    *,
    why: str,
    level: Level = Level.REQUIRED,
    priority: str = "",
    api: str = "openai",
) -> Callable[[Callable[[Target], None]], Callable[[Target], None]]:
    """Register a function as a check."""

    def register(run: Callable[[Target], None]) -> Callable[[Target], None]:
        assert id not in CHECKS, id
        CHECKS[id] = Check(id, level, rule, why, run, priority, api)
        return run

    return register


def expect(condition: object, message: str, exchange: Exchange | None = None) -> None:
    """Raise a Violation unless `condition` holds."""
    if not condition:
        raise Violation(message, exchange)


def expect_int(value: object, name: str, *, at_least: int = 0) -> int:
    """A JSON integer, not a boolean, not below `at_least`."""
    expect(
        isinstance(value, int) and not isinstance(value, bool) and value >= at_least,
        f"{name} is {value!r}, not an integer of at least {at_least}",
    )
    assert isinstance(value, int)
    return value


def expect_text(value: object, name: str) -> str:
    """A string with something in it."""
    expect(isinstance(value, str) and value, f"{name} is {value!r}, not a text")
    assert isinstance(value, str)
    return value
