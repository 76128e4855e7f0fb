"""`world`: the real loop over exam seeds, against an oracle and one who guesses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perilune.agent.endings import ModelFailed
from perilune.agent.models.scripted import Refused, Reply, ScriptedModel
from perilune.exam.suites.runner import plan, run_exam
from perilune.exam.suites.suite import Examinee
from perilune.exam.suites.world import SEEDS, WorldSuite
from perilune.sandbox import Sandbox
from perilune.train.episodes.record import Plan, oracle
from perilune.train.episodes.turn import PolicyTape
from perilune.world import FAMILIES, Seed, Split, Style, generate_task

RESEARCH = [family for family in FAMILIES if family != "code_repair"]


def oracle_of(tasks: dict[str, Any]) -> Any:
    tapes: dict[str, PolicyTape] = {}

    def says(messages: Any, tools: Any) -> Reply:
        prompt = next(each["content"] for each in messages if each["role"] == "user")
        if prompt not in tapes:
            policy, _, _ = oracle(tasks[prompt], Plan(style=Style.PROSE, mistakes=0.5))
            tapes[prompt] = PolicyTape(policy)
        return tapes[prompt](messages, tools)

    return says


async def test_the_oracle_passes(sandbox: Sandbox, tmp_path: Path) -> None:
    suite = WorldSuite()
    tasks = {
        task.prompt: task
        for family in RESEARCH
        for index in range(2)
        for task in [generate_task(Seed(Split.EXAM, 9 * SEEDS + index), family)]
    }
    manifest = plan(suite, "oracle", categories=RESEARCH, limit=20, seed=9)
    examinee = Examinee(ScriptedModel(oracle_of(tasks)), sandbox=sandbox)
    exam = await run_exam(suite, manifest, examinee, tmp_path)
    assert [(each.id, each.reason) for each in exam.results if not each.passed] == []
    assert len(exam.results) == 20 and all(each.steps > 1 for each in exam.results)
    transcript = (tmp_path / "transcripts" / f"lookup_{9 * SEEDS}.0.json").read_text()
    assert "corpus:a" in transcript and '"system"' in transcript


async def test_who_guesses_fails(sandbox: Sandbox, tmp_path: Path) -> None:
    suite = WorldSuite()
    manifest = plan(suite, "guesser", limit=11)
    model = ScriptedModel([Reply("Perhaps 12, or Tavor.")])
    exam = await run_exam(suite, manifest, Examinee(model, sandbox=sandbox), tmp_path)
    assert {each.category for each in exam.results} == set(FAMILIES)
    assert not any(each.passed for each in exam.results)


async def test_a_model_that_is_away_is_not_wrong(sandbox: Sandbox, tmp_path: Path) -> None:
    suite = WorldSuite()
    model = ScriptedModel([Refused("no such key", kind="auth")])
    with pytest.raises(ModelFailed, match="no such key"):
        await run_exam(
            suite, plan(suite, "away", limit=3), Examinee(model, sandbox=sandbox), tmp_path
        )
    assert not (tmp_path / "results.jsonl").exists()


def test_seeds_share_no_world() -> None:
    suite = WorldSuite()
    ids = [suite.question("hops", index, seed).id for seed in (0, 1) for index in range(50)]
    assert len(set(ids)) == 100
