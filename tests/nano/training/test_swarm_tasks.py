"""nano's tasks of PARL through the real swarm: an oracle's tokens are rewarded and learnt."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from perilune.agent.models.scripted import Call, Reply, ScriptedModel
from perilune.chat.tokenizer import Tokenizer
from perilune.nano.training.episode import play
from perilune.nano.training.facts import facts_of_seed
from perilune.nano.training.policy import POLICIES
from perilune.nano.training.render import orchestrator_renderer
from perilune.nano.training.swarm_tasks import NanoSwarm
from perilune.nano.training.tables import parallel_table, row, serial_table, split_lookup
from perilune.swarm.reward import critical_step_budget
from perilune.train.config import ParlConfig
from perilune.train.parl.rollout import Attempt, Rollouts
from perilune.train.parl.tasks import SwarmTask
from perilune.train.rl.rollout import Sample
from perilune.train.tokenizer import write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bytes")
    write_tokenizer(folder, [bytes([byte]) for byte in range(256)])
    return folder


class Oracle:
    """Continues a prompt as the ids of a solved episode do."""

    def __init__(self, ids: list[int], stop: int) -> None:
        self._ids, self._stop = ids, stop

    async def sample(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        stop_ids: Collection[int],
        seed: int,
    ) -> Sample:
        assert self._ids[: len(prompt)] == list(prompt)
        rest = self._ids[len(prompt) :]
        said = rest[: rest.index(self._stop) + 1][:max_tokens]
        return Sample(said, [-0.5] * len(said), said[-1] == self._stop)


async def attempt(
    tokenizer: Path, home: Path, policy: Any, **options: Any
) -> tuple[SwarmTask, Attempt, list[int], list[bool]]:
    """The oracle of `policy` plays task 0; -> task, attempt, and what should have been learnt."""
    config = ParlConfig(**({"max_tokens": 20_000, "deep": ()} | options))
    tasks = NanoSwarm(config, tokenizer, longest=100_000)
    task = tasks.task(0)
    store = facts_of_seed(task.source.seed)

    def worker(messages: Sequence[Any], declared: Sequence[Any]) -> Reply:
        prompt = str(messages[1]["content"])
        played = play(prompt, row(prompt), store)
        said = [each for each in played.messages if each["role"] == "assistant"]
        message = said[sum(each["role"] == "assistant" for each in messages)]
        calls = [
            Call(each["function"]["name"], each["function"]["arguments"], each["id"])
            for each in message.get("tool_calls", ())
        ]
        return Reply(message["content"], calls)

    played = play(task.prompt, policy(task.source), store)
    vocabulary = Tokenizer.from_pretrained(tokenizer)
    renderer = orchestrator_renderer(vocabulary)
    ids, trained = renderer.render(played.messages)
    stop = vocabulary.special_ids.im_end
    assert stop is not None
    rollouts = Rollouts(tasks, ScriptedModel(worker), config)
    played_once = await rollouts.attempt(
        Oracle([*renderer.header, *ids], stop), task, temperature=1.0, progress=1.0, seed=1,
        home=home,
    )  # fmt: skip
    return task, played_once, ids, trained


@pytest.mark.parametrize("width", [2, 8, 12])
async def test_a_split_table_takes_its_optimum_and_only_the_orchestrator_is_learnt(
    width: int, tokenizer: Path, tmp_path: Path
):
    task, one, ids, trained = await attempt(tokenizer, tmp_path, parallel_table, widths=(width,))
    assert (one.f1, one.cut_off, one.episode.performance) == (1.0, False, 1.0)
    assert (one.episode.stages, one.episode.finished, one.episode.wasted) == ([width], width, 0)
    assert one.episode.critical_steps == task.optimum
    assert (one.trajectory.ids, one.trajectory.generated) == (ids, trained)


async def test_a_serial_table_fits_only_while_it_is_narrow(tokenizer: Path, tmp_path: Path):
    (tmp_path / "narrow").mkdir()
    (tmp_path / "wide").mkdir()
    task, narrow, *_ = await attempt(tokenizer, tmp_path / "narrow", serial_table, widths=(3,))
    assert (narrow.cut_off, narrow.episode.performance) == (False, 1.0)
    assert narrow.episode.critical_steps == task.serial_steps
    task, wide, ids, _ = await attempt(tokenizer, tmp_path / "wide", serial_table, widths=(8,))
    assert (wide.cut_off, wide.episode.performance) == (True, 0.0)
    assert wide.episode.critical_steps == critical_step_budget(8, task.optimum) + 1
    said = len(wide.trajectory.ids)
    assert said < len(ids) and wide.trajectory.ids == ids[:said]


async def test_chains_and_single_facts(tokenizer: Path, tmp_path: Path):
    for name, policy, options in (
        ("chain", POLICIES["hops"], {"widths": (1,), "deep": (3,), "seed": 1}),
        ("fact", POLICIES["lookup"], {"widths": (1,)}),
        ("given away", split_lookup, {"widths": (1,)}),
    ):
        (tmp_path / name).mkdir()
        task, one, *_ = await attempt(tokenizer, tmp_path / name, policy, **options)
        assert task.stratum.deep == (name == "chain")
        assert (one.f1, one.cut_off) == (1.0, False)
        if name == "given away":
            assert one.episode.stages == [1] and one.episode.critical_steps == 4
        else:
            assert one.episode.critical_steps == task.optimum == task.serial_steps
