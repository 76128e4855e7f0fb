"""The figures are consistent; how large they are is for `benchmarks/` and the machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perilune.cli.bench_engine import app
from perilune.engine.bench import bench_decode, bench_prefill, small_model
from perilune.engine.llm import LLM


@pytest.mark.parametrize("command", ["decode", "prefill", "batch"])
def test_the_commands_print_json(command: str, bf16_folder: Path) -> None:
    arguments = [command, "--model", str(bf16_folder), "--tokens", "8", "--json"]
    if command == "batch":
        arguments += ["--streams", "3"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    figures = json.loads(result.output)
    assert [f["streams"] for f in figures] == ([1, 2, 3] if command == "batch" else [1])
    for figure in figures:
        assert figure["tokens"] > 0 and figure["bandwidth"] > 0
        if command != "prefill":
            assert figure["share"] == pytest.approx(figure["bytes"] / figure["bandwidth"])


def test_the_table_names_the_limit(bf16_folder: Path) -> None:
    result = CliRunner().invoke(app, ["decode", "--model", str(bf16_folder), "--tokens", "8"])
    assert "of limit" in result.output and "GB/s read from memory" in result.output


def test_measuring_leaves_nothing_behind(llm: LLM) -> None:
    bench_decode(llm.engine, streams=2, context=70, steps=8)
    bench_prefill(llm.engine, tokens=100, repetitions=1)
    assert not llm.engine.has_work and llm.engine.pages.num_held == 0


def test_the_small_model_is_the_one_of_the_comparisons() -> None:
    """12 layers of hidden 512, 32 experts; about 159 M weights, two of a byte in the experts."""
    model = small_model()
    config = model.config
    experts = 11 * 32 * 3 * config.hidden_size * config.moe_intermediate_size
    plain = sum(p.numel() for p in model.parameters())
    assert 155e6 < experts + plain < 165e6
