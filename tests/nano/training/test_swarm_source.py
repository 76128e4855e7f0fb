"""nano's part in a swarm: right, learnable, and what the real swarm makes of the same turns."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from perilune.agent.models.scripted import Call, Reply, ScriptedModel
from perilune.agent.models.wire import to_wire
from perilune.chat.format import ChatFormat
from perilune.chat.tokenizer import Tokenizer
from perilune.config import Family
from perilune.errors import UsageError
from perilune.nano.swarm import nano_swarm
from perilune.nano.training.episode import Episode, play
from perilune.nano.training.facts import facts_of_seed
from perilune.nano.training.policy import POLICIES
from perilune.nano.training.render import Renderer, orchestrator_renderer
from perilune.nano.training.swarm_source import KIND_WEIGHTS, swarm_episode
from perilune.nano.training.tables import (
    parallel_table,
    row,
    serial_table,
    split_comparison,
    split_lookup,
)
from perilune.train.data.sources import make_source
from perilune.train.tokenizer import write_tokenizer
from perilune.world.families import generate_task
from perilune.world.seed import Seed, Split
from perilune.world.task import Task


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bytes")
    write_tokenizer(folder, [bytes([byte]) for byte in range(256)])
    return folder


@pytest.mark.parametrize("policy", [serial_table, parallel_table])
@pytest.mark.parametrize("rows", [2, 3, 5, 8, 12])
def test_tables_are_right_both_ways(policy: Any, rows: int):
    for index in range(4):
        seed = Seed(Split.TRAIN, index)
        task = generate_task(seed, "wide_table", size=rows)
        played = play(task.prompt, policy(task), facts_of_seed(seed))
        verdict = task.verify(played.answer)
        assert verdict.passed, (task.prompt, played.answer, verdict.reason)
        made = _calls(played)
        if policy is parallel_table:
            assert made == {"create_subagent": 1, "assign_task": rows}
            assert len(played.messages) == 1 + 1 + (1 + rows) + 1
        else:
            assert made == {"lookup": rows * len(task.solution.serial[0].reads)}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "family, policy", [("comparison", split_comparison), ("lookup", split_lookup)]
)
def test_needless_splits_are_right_too(family: str, policy: Any):
    for index in range(12):
        seed = Seed(Split.TRAIN, index)
        task = generate_task(seed, family, size=3 if family == "comparison" else None)
        played = play(task.prompt, policy(task), facts_of_seed(seed))
        assert task.verify(played.answer).passed, (task.prompt, played.answer)


def test_a_lost_sub_agent_is_sent_once_more_and_then_its_row_is_unknown():
    seed = Seed(Split.TRAIN, 3)
    task = generate_task(seed, "wide_table", size=4)
    lost = "Error: the sub-agent died."
    again = play(task.prompt, parallel_table(task), facts_of_seed(seed), {2: lost})
    assert task.verify(again.answer).passed
    assert _calls(again)["assign_task"] == 5
    given_up = play(task.prompt, parallel_table(task), facts_of_seed(seed), {2: lost, 5: lost})
    assert given_up.answer.splitlines()[2].endswith("unknown")
    assert 0.7 < task.verify(given_up.answer).score < 1


def test_episodes_are_a_pure_function_and_every_kind_comes():
    for index in (3, 17, 2**45):
        assert swarm_episode(index) == swarm_episode(index)
    kinds = Counter(swarm_episode(index, rows=(2, 8)).kind for index in range(120))
    for kind in ("row", "table", "swarm-table", "swarm-split-table", "swarm-hops"):
        assert kinds[kind], kinds


def test_forms_choose_whether_the_orchestrator_splits():
    only = {"swarm": 1}
    for index in range(30):
        assert "assign_task" not in _calls(swarm_episode(index, only, "serial", (3,)))
        played = swarm_episode(index, only, "parallel", (3,))
        splits = "assign_task" in _calls(played)
        assert splits == ("table" in played.kind or "comparison" in played.kind)


def test_values_of_a_row_were_read_before_they_are_said():
    for index in range(30):
        played = swarm_episode(index, {"row": 1})
        read = "\n".join(str(each["content"]) for each in played.messages[:-1])
        name, *cells = played.answer.split(", ")
        asked, told = str(played.messages[0]["content"]).split("\n")
        assert name == told and len(cells) == len(asked.split(", "))
        assert all(cell in read or cell == "unknown" for cell in cells)


def test_the_source_has_two_headers_and_refuses_what_it_does_not_know(tokenizer: Path):
    source = make_source("nano-swarm", 1, tokenizer, {"rows": [2, 3]})
    vocabulary = Tokenizer.from_pretrained(tokenizer)
    alone, orchestrator = Renderer(vocabulary), orchestrator_renderer(vocabulary)
    for index in range(12):
        document = source(index)
        swarm = document.source.startswith("swarm")
        assert list(document.header) == (orchestrator if swarm else alone).header
        assert any(document.trained) and not document.trained[0]
    for options in ({"kinds": {"tables": 1}}, {"form": "wide"}):
        with pytest.raises(UsageError):
            make_source("nano-swarm", 1, tokenizer, options)
    assert set(KIND_WEIGHTS) == {"swarm", "row", "table"}


@pytest.mark.parametrize(
    "family, rows, policy",
    [
        ("wide_table", 4, parallel_table),
        ("wide_table", 2, serial_table),
        ("comparison", 3, split_comparison),
        ("hops", 2, POLICIES["hops"]),
    ],
)
async def test_the_real_swarm_is_shown_the_same_tokens(
    family: str, rows: int, policy: Any, tokenizer: Path, tmp_path: Path
):
    """Tools, loop, swarm and template are those that nano is served with; the models are tapes."""
    seed = Seed(Split.TRAIN, 11)
    task: Task = generate_task(seed, family, size=rows)
    store = facts_of_seed(seed)
    expected = play(task.prompt, policy(task), store)
    vocabulary = Tokenizer.from_pretrained(tokenizer)
    chat = ChatFormat(vocabulary, Family.K25)
    shown: list[tuple[str, list[int]]] = []

    def main(messages: Sequence[Any], declared: Sequence[Any]) -> Reply:
        shown.append(("", chat.encode(to_wire(messages), list(declared))))
        return _turn(expected, messages)

    def worker(messages: Sequence[Any], declared: Sequence[Any]) -> Reply:
        prompt = str(messages[1]["content"])
        shown.append((prompt, chat.encode(to_wire(messages), list(declared))))
        return _turn(play(prompt, row(prompt), store), messages)

    swarm = nano_swarm(
        ScriptedModel(main), ScriptedModel(worker), store, workspace=tmp_path,
        home=tmp_path / "home",
    )  # fmt: skip
    result = await swarm.arun(task.prompt)
    assert result.ok and result.answer == expected.answer, result.detail
    alone, orchestrator = Renderer(vocabulary), orchestrator_renderer(vocabulary)
    for prompt, ids in shown:
        played = play(prompt, row(prompt), store) if prompt else expected
        renderer = alone if prompt else orchestrator
        whole = renderer.header + renderer.render(played.messages)[0]
        assert vocabulary.decode(ids) == vocabulary.decode(whole[: len(ids)])
    split = _calls(expected)["assign_task"]
    assert result.sub_agents == split
    assert len({prompt for prompt, _ in shown if prompt}) == split


def _turn(played: Episode, messages: Sequence[Any]) -> Reply:
    """The episode's next turn after those that the messages hold."""
    said = [each for each in played.messages if each["role"] == "assistant"]
    message = said[sum(each["role"] == "assistant" for each in messages)]
    calls = [
        Call(each["function"]["name"], each["function"]["arguments"], each["id"])
        for each in message.get("tool_calls", ())
    ]
    return Reply(message["content"], calls, message["reasoning_content"])


def _calls(played: Episode) -> Counter[str]:
    made: Counter[str] = Counter()
    for message in played.messages:
        for each in message.get("tool_calls", ()):
            made[each["function"]["name"]] += 1
            assert isinstance(json.loads(each["function"]["arguments"]), dict)
    return made
