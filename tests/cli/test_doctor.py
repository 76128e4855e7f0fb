"""`perilune doctor`: a table of checks that other packages extend."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from perilune.cli import doctor

runner = CliRunner()


@pytest.fixture
def only_own_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ROOM_CHECKS", ())


@pytest.mark.usefixtures("only_own_checks")
def test_own_checks() -> None:
    done = runner.invoke(doctor.app, ["--json"])
    rows = json.loads(done.stdout)
    assert [row["name"] for row in rows] == [
        "perilune", "python", "torch", "cpu", "memory", "disk",
    ]  # fmt: skip
    assert all(set(row) == {"name", "ok", "detail", "remedy"} for row in rows)
    assert "cores" in rows[3]["detail"]
    assert done.exit_code == (0 if all(row["ok"] for row in rows) else 1)


def test_a_room_adds_its_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    room: Any = ModuleType("made_up_room")
    room.__spec__ = SimpleNamespace(name="made_up_room")
    room.doctor_checks = lambda: [
        SimpleNamespace(name="engine room", ok=False, detail="cold", remedy="Light the fire")
    ]
    monkeypatch.setitem(sys.modules, "made_up_room", room)
    monkeypatch.setattr(doctor, "ROOM_CHECKS", ("made_up_room", "perilune.no_such_room"))
    done = runner.invoke(doctor.app, [])
    assert done.exit_code == 1
    assert "NOT OK  engine room  cold" in done.stdout
    assert "-> Light the fire" in done.stdout


def test_the_checks_of_the_rooms_fit_the_table() -> None:
    checks = list(doctor.run_checks())
    names = [check.name for check in checks]
    assert {"kernels", "tokenizer", "cpu"} <= set(names)
    assert not any(f"perilune.{name}" in doctor.ROOM_CHECKS for name in names)  # none raised
    for check in checks:
        assert isinstance(check.ok, bool)
        assert isinstance(check.detail, str)
        assert check.ok or check.detail or check.remedy


@pytest.mark.usefixtures("only_own_checks")
def test_a_check_that_raises_has_failed_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> doctor.Finding:
        raise RuntimeError("no bus")

    monkeypatch.setitem(doctor.CHECKS, "torch", broken)
    done = runner.invoke(doctor.app, ["--json"])
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["torch"] == {
        "name": "torch", "ok": False, "detail": "RuntimeError: no bus", "remedy": "",
    }  # fmt: skip
    assert rows["disk"]["detail"]
    assert done.exit_code == 1
