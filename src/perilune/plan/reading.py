"""Typed reading of the planner's TOML files: every error names the file, the entry and the key."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perilune.errors import UsageError
from perilune.plan.figure import Figure

DATA = Path(__file__).parent / "data"
MOST_BYTES = 4 * 2**20  # of a file; ours have some ten thousand
LARGEST = 1e21
_DATE = re.compile(r"\d{4}-\d{2}(-\d{2})?")


def read_toml(file: Path) -> dict[str, Any]:
    """Raises UsageError for a file that is missing, too large, or not TOML."""
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UsageError(f"{file} has more than {MOST_BYTES} bytes", remedy="Give a TOML file")
        return tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError(f"there is no file {file}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file} is not TOML: {error}", remedy="See docs/plan.md") from None


class Entry:
    """One table of a file, with its place for errors. `done` finds keys that nobody asked for."""

    def __init__(self, values: Any, where: str, sources: Mapping[str, Any] | None = None) -> None:
        if not isinstance(values, dict):
            raise UsageError(f"{where} must be a table")
        self.values: dict[str, Any] = values
        self.where = where
        self.sources = sources or {}
        self._asked: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def wrong(self, key: str, what: str, remedy: str = "") -> UsageError:
        return UsageError(f"{self.where}: {key} {what}", remedy=remedy)

    def take(self, key: str) -> Any:
        self._asked.add(key)
        return self.values.get(key)

    def text(self, key: str, default: str | None = None) -> str:
        value = self.take(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.wrong(key, "must be a text" if value is not None else "is missing")
        return value

    def one_of(self, key: str, choices: tuple[str, ...], default: str) -> str:
        value = self.text(key, default)
        if value not in choices:
            raise self.wrong(key, f"is {value!r}", f"One of: {', '.join(choices)}")
        return value

    def names(self, key: str) -> list[str]:
        value = self.take(key) or []
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise self.wrong(key, "must be a list of names")
        return value

    def numbers(self, key: str) -> list[float]:
        value = self.take(key)
        if not isinstance(value, list) or not value:
            raise self.wrong(key, "must be a list of numbers")
        return [self._number(key, each, 0.0) for each in value]

    def number(self, key: str, default: float | None = None, *, above: float = 0.0) -> float:
        """A finite number of `above` or more, up to 1e21."""
        value = self.take(key)
        if value is None:
            if default is None:
                raise self.wrong(key, "is missing")
            return default
        return self._number(key, value, above)

    def _number(self, key: str, value: Any, above: float) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, f"must be a number, not {value!r}")
        if not math.isfinite(value) or not above <= value <= LARGEST:
            raise self.wrong(key, f"is {value:g}; a number from {above:g} to {LARGEST:g} is wanted")
        return float(value)

    def count(self, key: str, default: int, *, most: int = 4096) -> int:
        value = self.take(key)
        if value is None:
            return default
        if type(value) is not int or not 1 <= value <= most:
            raise self.wrong(key, f"is {value!r}; a whole number from 1 to {most} is wanted")
        return value

    def counts(self, key: str) -> dict[str, int]:
        """Names with how many of each: `cards = { h200 = 8 }`."""
        value = self.take(key) or {}
        table = Entry(value, f"{self.where}.{key}")
        return {name: table.count(name, 1) for name in table.values}

    def figure(self, key: str, *, positive: bool = True, sourced: bool = True) -> Figure | None:
        """`{ value, low, high, source, date }`, or None where the key is absent.

        A plain number is taken too where `sourced` is off. Raises UsageError for everything else.
        """
        value = self.take(key)
        if value is None:
            return None
        if not sourced and isinstance(value, int | float):
            return Figure.exactly(self._number(key, value, 0.0))
        table = Entry(value, f"{self.where}.{key}")
        middle = table.number("value", above=1e-12 if positive else 0.0)
        low, high = table.number("low", middle), table.number("high", middle)
        source = table.text("source", None if sourced else "")
        date = table.text("date", None if sourced else "")
        table.done()
        if sourced and not _DATE.fullmatch(date):
            raise table.wrong("date", f"is {date!r}", "A month: 2026-11")
        if not low <= middle <= high or (positive and low <= 0):
            raise self.wrong(key, f"has low {low:g}, value {middle:g}, high {high:g} in no order")
        return Figure(middle, low, high, str(self.sources.get(source, source)), date)

    def need(self, key: str) -> Figure:
        found = self.figure(key)
        if found is None:
            raise self.wrong(key, "is missing")
        return found

    def done(self) -> None:
        """Raises UsageError for a key that means nothing here: likely a spelling."""
        unknown = sorted(set(self.values) - self._asked)
        if unknown:
            raise self.wrong(
                unknown[0], "is not known here", f"Known: {', '.join(sorted(self._asked))}"
            )
