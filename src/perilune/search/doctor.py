"""What `perilune doctor` says about searching offline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from perilune.errors import PeriluneError


@dataclass(frozen=True, slots=True)
class SearchCheck:
    """One line of the table."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def doctor_checks() -> Iterator[SearchCheck]:
    """The almanac can be read, and so can every corpus of the user."""
    from perilune.search.almanac import open_almanac
    from perilune.search.library import Library

    try:
        almanac = open_almanac()
        yield SearchCheck("almanac", True, f"{len(almanac):,} articles")
    except PeriluneError as error:
        yield SearchCheck("almanac", False, error.message, error.remedy)
    for each in Library().summaries():
        if each.problem:
            remedy = f"Make it again: perilune corpus rm {each.name}, then add"
            yield SearchCheck(f"corpus {each.name}", False, each.problem, remedy)
        else:
            detail = f"{each.documents:,} documents of {each.folder}"
            yield SearchCheck(f"corpus {each.name}", True, detail)
