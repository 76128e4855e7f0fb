"""`perilune doctor`: whether this torch reads the storage formats as published."""

from __future__ import annotations

from dataclasses import dataclass

from perilune.formats import FORMATS, StorageFormat


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's table."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def doctor_checks() -> list[Check]:
    """One check a quantised format, on a word whose value the format's description gives."""
    checks = (_check(storage) for storage in FORMATS.values())
    return [check for check in checks if check is not None]


def _check(storage: StorageFormat) -> Check | None:
    name = f"format {storage.name}"
    remedy = "Install another torch (the range of versions is in pyproject.toml)"
    try:
        good = storage.reads_as_published()
    except Exception as error:  # a build without the dtype can raise anything
        return Check(name, False, f"torch fails: {error}", remedy)
    if good is None:
        return None
    if not good:
        return Check(name, False, "torch reads other values than published", remedy)
    return Check(name, True, "dequantised as published")
