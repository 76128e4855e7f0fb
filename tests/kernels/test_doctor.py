"""The library's lines of `perilune doctor`, and its absence."""

from __future__ import annotations

import pytest

from perilune.kernels import native
from perilune.kernels.doctor import doctor_checks
from tests.kernels.conftest import needs_library


def test_a_missing_library_is_a_failed_check_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)
    (missing,) = doctor_checks()
    assert not missing.ok
    assert "compiler" in missing.remedy


def test_absence_is_said_once(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(native, "library_path", lambda: None)
    monkeypatch.delenv("PERILUNE_KERNELS", raising=False)
    native.library.cache_clear()
    try:
        assert not native.available()
        assert not native.available()
    finally:
        native.library.cache_clear()
    said = [w for w in recwarn if "computes with torch" in str(w.message)]
    assert len(said) == 1


@needs_library
def test_doctor_says_instruction_set_and_bandwidth() -> None:
    checks = list(doctor_checks())
    assert all(check.ok for check in checks)
    text = "\n".join(f"{check.name} {check.detail}" for check in checks)
    assert native.isa() in text
    assert "GB/s" in text
