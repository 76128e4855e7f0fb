"""Sub-agents that die, hang, loop, run out of budget or talk nonsense are said to be so."""

from __future__ import annotations

import asyncio
import time

import pytest

from perilune.agent.models.scripted import Call, RateLimited, Refused, Reply, ScriptedModel
from perilune.agent.tool import tool
from perilune.events import AssignmentFinished, Retried
from perilune.swarm.limits import SwarmLimits
from tests.agent import simple_tools as tools
from tests.swarm.conftest import MakeSwarm, answer_with_results, events_of, split

QUICK = SwarmLimits(silence_seconds=0.4, sub_agent_steps=20)


class Buggy(ScriptedModel):
    """A model with a bug: it raises what no model may raise."""

    async def complete(self, messages, tools, sampling):
        if "with a bug" in str(messages[1]["content"]):
            raise RuntimeError("a bug")
        async for delta in super().complete(messages, tools, sampling):
            yield delta


def misbehave(prompt: str, turn: int, messages) -> object:
    if turn == 0:
        return Reply(f"{prompt} found something", calls=[Call("look_up", {"topic": prompt})])
    match prompt:
        case "die":
            return Refused("the key is bad", kind="auth")
        case "hang":
            return Reply("never", delay=60)
        case "loop":
            return Reply(calls=[Call("look_up", {"topic": "the same"})])
        case "overspend":
            return Reply(calls=[Call("look_up", {"topic": str(turn)})])
        case "babble":
            return Reply("<|tool_call_begin|>functions.x:0")
        case "go on and on":
            return Reply("la la la la " * 300)
        case _:
            return Reply(f"{prompt} is done")


FATES = {
    "die": ("died", "the key is bad"),
    "hang": ("hung", "no sign of life"),
    "loop": ("looped", "12 times in a row"),
    "overspend": ("budget", "used 20 of 20 steps"),
    "babble": ("nonsense", "tokens of the tool-call format"),
    "go on and on": ("nonsense", "repeats itself"),
    "with a bug": ("died", "a bug"),
    "good": ("done", ""),
}


def test_each_failure_is_reported_as_what_it_is_and_partial_results_are_kept(
    make_swarm: MakeSwarm, home
):
    swarm = make_swarm([split(*FATES), answer_with_results], misbehave, [tools.look_up],
                       limits=QUICK)  # fmt: skip
    swarm.worker.model = Buggy(swarm.agent.model._tape)
    result = swarm.run("t")
    assert result.ok
    ended = {each.folder: each for each in events_of(home, result.run, AssignmentFinished)}
    for number, (prompt, (status, words)) in enumerate(FATES.items(), 1):
        each = ended[f"worker-{number}"]
        assert each.status == status, (prompt, each.status, each.detail)
        assert words in each.detail
    assert "good is done" in result.answer
    assert "died: the key is bad" in result.answer
    assert "die found something" in result.answer, "what it had is told"
    assert len(result.missing) == 7
    assert not any("good" in each for each in result.missing)
    assert result.missing[1].startswith("worker-2 (hung: no sign of life for ")
    sources = [ended[f"worker-{n}"].evidence for n in range(1, 7)]
    assert all(len(each) >= 1 for each in sources), "evidence of the failed is kept, too"


def test_a_failed_task_can_be_assigned_again(make_swarm: MakeSwarm, home):
    tries: dict[str, int] = {}

    def sub(prompt, turn, messages):
        if turn == 0:
            return Reply(calls=[Call("look_up", {"topic": prompt})])
        tries[prompt] = tries.get(prompt, 0) + 1
        return Refused("gone", kind="auth") if tries[prompt] == 1 else Reply(f"{prompt} at last")

    main = [split("a", "b"), split("a", create=False), answer_with_results]
    limits = SwarmLimits(sub_agents=2)  # going on with its work makes no third
    result = make_swarm(main, sub, [tools.look_up], limits=limits).run("t")
    assert result.answer.startswith("a at last")
    assert [each.partition(" ")[0] for each in result.missing] == ["worker-2"]
    again = events_of(home, result.run, AssignmentFinished)[-1]
    assert (again.folder, again.status, again.steps) == ("worker-1", "done", 1)


def test_a_tool_that_hangs_without_a_timeout_is_noticed(make_swarm: MakeSwarm, monkeypatch):
    monkeypatch.setattr("perilune.swarm.sub_agent.TOOL_GRACE", 0.2)

    @tool(side_effects=False, timeout=None)
    async def block() -> str:
        """Never ends."""
        await asyncio.sleep(60)
        return ""

    def sub(prompt, turn, messages):
        return Reply(calls=[Call("block", {})])

    began = time.monotonic()
    result = make_swarm([split("a"), answer_with_results], sub, [block], limits=QUICK).run("t")
    assert "hung and was stopped: no sign of life" in result.answer
    assert time.monotonic() - began < 10


def test_who_waits_in_the_queue_of_a_busy_endpoint_is_not_hung(make_swarm: MakeSwarm, home):
    """The 429 of one holds all back for longer than the silence that is allowed."""
    limited = []

    def sub(prompt, turn, messages):
        if prompt == "a" and not limited:
            limited.append(1)
            return RateLimited(retry_after=1.2)
        return Reply(f"{prompt} is done", delay=0.05)

    swarm = make_swarm([split("a", "b", "c"), answer_with_results], sub, limits=SwarmLimits(
        silence_seconds=0.4, parallel=1))  # fmt: skip
    result = swarm.run("t")
    assert result.missing == []
    assert result.seconds > 1.2
    assert len(events_of(home, result.run, Retried, "worker-1")) == 1


def test_a_burst_of_429_costs_nobody_their_work(make_swarm: MakeSwarm):
    refused: dict[str, int] = {}

    def sub(prompt, turn, messages):
        refused[prompt] = refused.get(prompt, 0) + 1
        return RateLimited() if refused[prompt] <= 4 else Reply(f"{prompt} is done")

    prompts = [f"p{i}" for i in range(20)]
    result = make_swarm([split(*prompts), answer_with_results], sub).run("t")
    assert result.answer.splitlines() == [f"{each} is done" for each in prompts]
    assert result.missing == []


@pytest.mark.parametrize("seconds", [1.0])
def test_time_for_the_conclusion_is_kept(make_swarm: MakeSwarm, seconds):
    def sub(prompt, turn, messages):
        return Reply("never", delay=60) if prompt == "b" else Reply("a is done")

    limits = SwarmLimits(seconds=seconds, reserve=0.5)
    result = make_swarm([split("a", "b"), answer_with_results], sub, limits=limits).run("t")
    assert result.reason == "done"
    assert "a is done" in result.answer
    assert "ran out of its budget" in result.answer
