"""`perilune plan` as a user calls it, and the worked examples of docs/plan.md as they are there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from perilune.cli import plan as verb
from perilune.errors import UsageError
from perilune.plan.calibration import Calibration

PAGE = Path(__file__).parents[2] / "docs" / "plan.md"
EXAMPLES = re.findall(r"```\n\$ perilune (plan[^\n]*)\n(.*?)```", PAGE.read_text("utf-8"), re.S)
MADE_UP = Calibration(5e10, 2e11, 0.9, 1e-4, 1e-5, 5e11)


def call(line: str, code: int = 0) -> str:
    result = CliRunner().invoke(verb.app, shlex.split(line), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


def as_json(line: str, code: int = 0) -> Any:
    return json.loads(call(f"{line} --json", code))


def test_there_are_worked_examples() -> None:
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("command, shown", EXAMPLES, ids=[line for line, _ in EXAMPLES])
def test_worked_examples_come_out_as_the_page_has_them(command: str, shown: str) -> None:
    result = CliRunner().invoke(
        verb.app, shlex.split(command.removeprefix("plan")), catch_exceptions=False
    )
    printed = [line.rstrip() for line in result.stdout.strip("\n").splitlines()]
    assert printed == [line.rstrip() for line in shown.strip("\n").splitlines()]


def test_one_json_object_with_units_in_its_keys() -> None:
    found = as_json("--hardware epyc-768 --model k2-thinking")
    assert found["fits"] is True and found["weights_bytes"] == 594_205_904_896
    rate = found["decode"]["tokens_per_second"]
    assert 0 < rate["low"] < rate["value"] < rate["high"]
    assert found["decode"]["bound_by"] in found["decode"]["terms_seconds"]
    assert sum(row["bytes"] for row in found["placement"]) > found["weights_bytes"]
    assert {row["tier"] for row in found["placement"]} == {"RAM"}
    assert found["engine"]["judged_rows"] >= 4
    money = found["money"]
    assert money["usd_per_million_tokens"]["value"] > money["power_usd_per_million_tokens"]["value"]
    assert {each["api"] for each in found["break_even"]} >= {"k2", "k2.6", "gpt-5.2"}


def test_what_does_not_fit_is_an_answer_with_numbers_and_exit_code_1() -> None:
    found = as_json("--hardware h200 --price 25000", 1)
    assert found["fits"] is False
    refusal = found["refusal"]
    assert refusal["needed_bytes"] > refusal["there_bytes"] > 0
    assert "more of these cards" in refusal["remedy"]
    assert found["price_usd"]["value"] == 25_000 and "decode" not in found


def test_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("perilune.plan.calibration.calibrate", lambda: MADE_UP)
    monkeypatch.setattr("perilune.plan.this_machine.disk_rate", lambda folder: None)
    found = as_json("--model nano --hardware this --context 512")
    assert found["engine"]["name"] == "this" and found["fits"]
    assert "not priced" not in call("--model nano --hardware this")
    refused = call("--hardware this", 1)  # K2 on a machine for tests
    assert "does NOT fit" in refused and "remedy: " in refused


def test_comparing_as_rows_json_and_pictures(tmp_path: Path) -> None:
    rows = as_json("compare --hardware epyc-768 --hardware m3-ultra-512-x4 --hardware h200")
    assert [row["hardware"] for row in rows] == ["epyc-768", "m3-ultra-512-x4", "h200"]
    assert rows[0]["pareto"] and not rows[2]["pareto"]
    pytest.importorskip("matplotlib")
    shown = call(f"compare --hardware epyc-768 --model k2-thinking --model k2 --picture {tmp_path}")
    assert "weights outside" in shown and "experts, disk" in shown  # FP8 in 768 GB streams
    assert (tmp_path / "plan.svg").is_file() and (tmp_path / "plan.png").is_file()


def test_buying() -> None:
    found = as_json("buy --budget 20000USD --speed 5 --model k2-thinking")
    assert found["budget_usd"] == 20_000 and found["found"]
    best = found["found"][0]
    assert best["price_usd"]["value"] <= 20_000
    assert best["decode"]["tokens_per_second_per_stream"]["value"] >= 5
    euros = as_json("buy --budget 20000 --speed 5 --usd-per-eur 1.2")
    assert euros["budget_usd"] == pytest.approx(24_000)
    none = call("buy --budget 100USD --speed 5", 1)
    assert "none does it" in none and "cheapest at that speed" in none


def test_names() -> None:
    shown = call("--list")
    for name in ("k2-thinking", "epyc-768", "tensor-parallel", "this"):
        assert name in shown


def test_an_own_catalogue_and_an_own_machine(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text("[machines.big]\nram = 2e12\nram_bandwidth = 5e11\nprice = 9000\nwatts = 500\n")
    found = as_json(f"--hardware big --catalogue {own}")
    assert found["fits"] and found["price_usd"]["value"] == 9000 and found["unpriced"] == []
    alone = tmp_path / "box.toml"
    alone.write_text("ram = 2e12\nram_bandwidth = 5e11\n")
    assert as_json(f"--hardware {alone}")["decode"] == found["decode"]


@pytest.mark.parametrize(
    "line, said",
    [
        ("--hardware epyc768", "Did you mean .*epyc-768"),
        ("--hardware absent.toml", "there is no file absent.toml"),
        ("--model k4 --hardware epyc-768", "neither known nor a folder"),
        ("--model nano --hardware epyc-768 --context 1000000", "nano has 1 to 4,096"),
        ("--hardware epyc-768 --context 0", "1 to 262,144"),
        ("--hardware epyc-768 --context -5", "1 to 262,144"),
        ("--hardware epyc-768 --streams 0", "0 streams"),
        ("--hardware epyc-768 --prompt 0", "a prompt of 0 tokens"),
        ("--hardware epyc-768 --price -1", "a price of -1"),
        ("--hardware epyc-768 --price nan", "a price of nan"),
        ("--hardware epyc-768 --watts inf", "a power of inf"),
        ("--hardware epyc-768 --kwh-price -0.1", "price of a kWh is -0.1"),
        ("--hardware epyc-768 --years 0", "years is 0"),
        ("--hardware epyc-768 --utilisation 2", "utilisation is 2"),
        ("--hardware epyc-768 --subscription -20", "a subscription of -20"),
        ("--hardware epyc-768 --bits 0", "0 bits per weight"),
        ("--hardware epyc-768 --bits 4 --dense int8", "exclude each other"),
        ("--hardware epyc-768 --dense int3", "dense format 'int3'"),
        ("--hardware epyc-768 --latent-bits 0", "--latent-bits 0 is out of range"),
        ("--hardware epyc-768 --engine vllm", "engine 'vllm' is not known"),
        ("--hardware epyc-768 --catalogue absent.toml", "there is no file"),
        ("compare --hardware nowhere", "'nowhere' is not known"),
        ("buy --budget much --speed 5", "cannot read the budget 'much'"),
        ("buy --budget 0EUR --speed 5", "a budget of 0"),
        ("buy --budget 5000EUR --speed -1", "-1 tokens per second"),
        ("buy --budget 5000EUR --speed 5 --usd-per-eur 0", "--usd-per-eur 0 is out of range"),
        ("buy --budget 5000GBP --speed 5", "cannot read the budget '5000GBP'"),
    ],
)
def test_clear_errors(line: str, said: str) -> None:
    result = CliRunner().invoke(verb.app, shlex.split(line))
    assert isinstance(result.exception, UsageError), result.output
    assert re.search(said, str(result.exception)), str(result.exception)
