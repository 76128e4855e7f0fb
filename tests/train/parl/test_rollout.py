"""What an attempt is worth: split or not, over its budget, padded with empty work."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from perilune.agent.models.scripted import Refused, ScriptedModel
from perilune.chat.deltas import ContentDelta, Finished
from perilune.errors import PeriluneError, UsageError
from perilune.train.config import ParlConfig
from perilune.train.parl.frozen import RememberedModel
from perilune.train.parl.metrics import step_metrics
from perilune.train.parl.rollout import Attempt, Rollouts
from perilune.train.parl.tasks import Stratum, make_tasks, stratum_of
from perilune.train.rl.rollout import Sample
from tests.swarm.conftest import split
from tests.train.parl.shared import Choice, ChoiceTasks

SPLIT, ALONE = 2, 3


class Says:
    """A policy that says these tokens in turn."""

    def __init__(self, *tokens: int) -> None:
        self._tokens = tokens
        self._said = 0

    async def sample(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        stop_ids: Collection[int],
        seed: int,
    ) -> Sample:
        self._said += 1
        return Sample([self._tokens[(self._said - 1) % len(self._tokens)]], [-0.7], True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


async def played(
    folder: Path, *tokens: int, progress: float = 0.0, **options: Any
) -> list[list[Attempt]]:
    config = ParlConfig(**({"samples": len(tokens), "deep": ()} | options))
    tasks = ChoiceTasks(config, None, longest=100)
    rollouts = Rollouts(tasks, tasks.worker(folder), config)
    return await rollouts.groups(Says(*tokens), range(1), temperature=1.0, progress=progress)


async def test_a_wide_task_split_is_right_and_alone_is_over_its_budget(folder: Path):
    ((parallel, serial),) = await played(folder, SPLIT, ALONE, widths=(8,))
    assert (parallel.f1, parallel.cut_off, parallel.episode.performance) == (1.0, False, 1.0)
    assert (parallel.episode.stages, parallel.episode.finished) == ([8], 8)
    assert parallel.episode.critical_steps == 4  # split, two of the sub-agents, answer
    assert parallel.terms.total == pytest.approx(1 + 0.3 + 0.2 + 0.2 * (1 - 4 / 22) - 8 * 0.003)
    assert (serial.cut_off, serial.episode.performance, serial.terms.total) == (True, 0.0, 0.0)
    assert serial.episode.critical_steps == 6  # one beyond the budget of 5, and no further


async def test_without_a_budget_serial_work_is_right_and_slow(folder: Path):
    ((parallel, serial),) = await played(
        folder, SPLIT, ALONE, widths=(8,), budget=False, progress=1.0
    )
    assert (serial.cut_off, serial.episode.performance) == (False, 1.0)
    assert serial.episode.critical_steps == 9
    assert 1 < serial.terms.total < parallel.terms.total  # the speed term outlasts the shaping
    assert (parallel.terms.parallel, parallel.terms.finish) == (0.0, 0.0)


async def test_a_narrow_task_is_done_alone(folder: Path):
    ((parallel, serial),) = await played(folder, SPLIT, ALONE, widths=(1,), progress=1.0)
    assert not parallel.cut_off and parallel.terms.total < serial.terms.total


async def test_only_the_orchestrators_tokens_are_trained(folder: Path):
    ((one, _),) = await played(folder, SPLIT, ALONE, widths=(4,))
    assert one.trajectory.ids == [4, SPLIT]
    assert one.trajectory.generated == [False, True]
    assert one.trajectory.logprobs == [-0.7]


async def test_padded_work_costs_and_earns_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """The same part twice, and work about nothing: neither breadth nor finished."""

    def padded(*parts: str) -> Any:
        return split(*parts[:2], parts[0].upper(), "hello")

    monkeypatch.setattr("tests.train.parl.shared.split", padded)
    ((one, _),) = await played(folder, SPLIT, SPLIT, widths=(4,))
    assert (one.episode.stages, one.episode.wasted, one.episode.finished) == ([2], 2, 2)
    assert one.terms.parallel == pytest.approx(0.3 * 2 / 4)
    assert one.terms.finish == pytest.approx(0.2 * 2 / 4)
    assert one.terms.cost == pytest.approx(-4 * 0.003)


async def test_a_model_that_fails_is_no_fault_of_the_orchestrator(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Choice, "_turn", lambda *_: Refused("out of order", kind="auth"))
    with pytest.raises(BaseExceptionGroup) as caught:
        await played(folder, ALONE, ALONE, widths=(1,))
    assert caught.group_contains(PeriluneError, match="out of order")


async def test_item_f1_pays_for_part_of_a_table(folder: Path, monkeypatch: pytest.MonkeyPatch):
    task = ChoiceTasks.task

    def half(self: ChoiceTasks, index: int) -> Any:
        import dataclasses

        return dataclasses.replace(task(self, index), verify=lambda _: 0.5)

    monkeypatch.setattr(ChoiceTasks, "task", half)
    for performance, worth in (("exact", 0.0), ("item_f1", 0.5)):
        ((one, _),) = await played(folder, SPLIT, ALONE, widths=(4,), performance=performance)
        assert (one.episode.performance, one.f1, one.terms.speed) == (worth, 0.5, 0.0)


async def test_metrics_by_width(folder: Path):
    wide = (await played(folder, SPLIT, SPLIT, SPLIT, ALONE, widths=(8,)))[0]
    narrow = (await played(folder, ALONE, ALONE, ALONE, ALONE, widths=(1,)))[0]
    deep = (await played(folder, SPLIT, ALONE, ALONE, ALONE, widths=(1,), deep=(2,)))[0]
    told = step_metrics([wide, narrow, deep])
    assert [*told][-1] == "all" and {"1", "8"} <= told.keys()
    assert told["8"]["performance"] == 0.75 and told["8"]["cut_off"] == 0.25
    assert told["8"]["spawned"] == 6.0 and told["8"]["finish_rate"] == 1.0
    assert told["8"]["spawn_entropy"] == pytest.approx(0.8113, abs=1e-4)
    assert told["8"]["speed_up"] == pytest.approx((3 * 9 / 4 + 9 / 6) / 4)
    assert told["8"]["first_turn_logprob"] == pytest.approx(-0.7)
    alone = told["1"]
    assert alone["attempts"] in (4.0, 8.0)  # the deep one may be drawn as one of width 1
    assert alone["groups_without_difference"] >= 1.0
    assert told["all"]["attempts"] == 12.0


def test_strata_come_in_turn():
    config = ParlConfig(widths=(1, 4), deep=(3,))
    for turn in range(5):
        drawn = {stratum_of(config, 3 * turn + i) for i in range(3)}
        assert drawn == {Stratum(1), Stratum(4), Stratum(3, deep=True)}
    orders = {tuple(stratum_of(config, 3 * turn + i).size for i in range(3)) for turn in range(20)}
    assert len(orders) > 1


@pytest.mark.parametrize(
    "options, cause",
    [
        ({"tasks": "nona"}, "no tasks 'nona'"),
        ({"widths": (0,)}, "widths"),
        ({"widths": ()}, "widths"),
        ({"widths": (13,)}, "1 to 12"),
        ({"deep": (1,)}, "deep"),
        ({}, "need a tokenizer"),
    ],
)
def test_bad_configurations_are_named(options: dict[str, Any], cause: str):
    with pytest.raises(UsageError, match=cause):
        make_tasks(ParlConfig(**options), None, 4096)


# --- the frozen model is asked once ---------------------------------------------------------------


class Counting(ScriptedModel):
    def __init__(self) -> None:
        super().__init__([])
        self.calls = 0

    async def complete(self, messages: Any, tools: Any, sampling: Any) -> AsyncGenerator[Any, None]:
        self.calls += 1
        yield ContentDelta(f"answer to {messages[0]['content']}")
        yield Finished("stop")


async def test_a_frozen_model_is_asked_each_prompt_once():
    import asyncio

    from perilune.agent.models.chat_model import Sampling

    inner = Counting()
    model = RememberedModel(inner)

    async def ask(text: str, temperature: float = 0.0) -> list[Any]:
        messages = [{"role": "user", "content": text}]
        return [each async for each in model.complete(messages, [], Sampling(temperature))]

    first, second, other = await asyncio.gather(ask("a"), ask("a"), ask("b"))
    assert first == second != other
    assert (inner.calls, model.asked, model.computed) == (2, 3, 2)
    model.forget()
    assert await ask("a") == first and inner.calls == 3
    with pytest.raises(UsageError, match="greedy"):
        await ask("a", temperature=1.0)
