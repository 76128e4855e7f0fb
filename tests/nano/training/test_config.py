"""The recipe of nano in the repository is one that the reader takes."""

from __future__ import annotations

from pathlib import Path

from perilune.nano.training.mixture import KIND_WEIGHTS
from perilune.nano.training.swarm_source import KIND_WEIGHTS as SWARM_KINDS
from perilune.train.config import read_run_config

FILE = Path(__file__).parents[3] / "configs" / "nano.toml"


def test_it_is_read_and_its_stages_follow_each_other():
    run = read_run_config(FILE)
    names = list(run.stages)
    assert names == ["pretrain", "sft", "qat", "longer", "last", "swarm", "tables", "parl"]
    assert [stage.start_from for stage in run.stages.values()] == [None, *names[:-1]]
    assert all(run.stages[name].qat is not None for name in names[2:])
    for stage in run.stages.values():
        for source in stage.data.sources:
            assert source.name in ("nano-episodes", "nano-swarm")
            known = KIND_WEIGHTS if source.name == "nano-episodes" else SWARM_KINDS
            assert set(source.options.get("kinds", {})) <= set(known)
    parl = run.stages["parl"]
    assert parl.parl is not None and parl.qat is not None and parl.rl is None
