"""Heavy effort: trajectories with journals and copies of their own, and the merge."""

from __future__ import annotations

import asyncio

import pytest

from perilune.agent.agent import RunResult
from perilune.agent.budgets import Budget
from perilune.agent.checks.check import made
from perilune.agent.heavy import Trajectory, normal_answer, run_heavy, verified_majority
from perilune.agent.journal.journal import read_journal
from perilune.agent.journal.state import RunState, fold
from perilune.agent.loop.verify import verdict_of
from perilune.agent.models.scripted import Call, Refused, Reply
from perilune.agent.workspace.snapshot import SnapshotStore
from perilune.events import RunStarted, TrajectoryFinished, Usage
from perilune.home import runs_folder
from tests.agent import simple_tools as tools
from tests.agent.conftest import MakeAgent

MERGING = "agents have worked on this task"


def is_merge(messages) -> bool:
    return any(MERGING in str(message["content"]) for message in messages)


async def heavy(agent, task: str, count: int = 8) -> RunResult:
    async with agent.session() as session:
        return await run_heavy(session, task, trajectories=count)


def states(agent) -> dict[str, RunState]:
    folders = sorted(runs_folder(agent.home).iterdir())
    return {each.name: fold(read_journal(each).records) for each in folders}


class SaysUnits:
    """Objects to answers without a unit."""

    name = "units"

    async def examine(self, proposal):
        return made(self.name, [] if "km" in proposal.text else ["Say the unit."])


async def test_eight_trajectories_are_merged(make_agent: MakeAgent, workspace):
    turns = iter(range(100))

    def tape(messages, declared):
        if is_merge(messages):
            assert declared == []
            return Reply("It is 7 km long.")
        return Reply("7 km" if next(turns) % 2 else "8 km")

    agent = make_agent(tape, verifiers=[SaysUnits()])
    result = await heavy(agent, "How long is it?")
    assert (result.answer, result.ok) == ("It is 7 km long.", True)
    runs = states(agent)
    children = [s for s in runs.values() if s.started.parent_run == result.run]
    assert len(children) == 8
    assert len(runs) == 9
    events = [r.event for r in read_journal(runs_folder(agent.home) / result.run).records]
    finished = [each for each in events if isinstance(each, TrajectoryFinished)]
    assert sorted(each.number for each in finished) == list(range(1, 9))
    assert all(each.passed for each in finished)
    assert result.usage.total_tokens == (
        runs[result.run].usage.total_tokens + sum(s.usage.total_tokens for s in children)
    )
    shown = next(m["content"] for m in agent.model.prompts[-1] if MERGING in str(m["content"]))
    assert shown.count("## Answer ") == 8
    assert "passed its checks (units)" in shown
    assert isinstance(events[0], RunStarted)


async def test_they_run_side_by_side(make_agent: MakeAgent):
    at_work = most = 0

    def tape(messages, declared):
        nonlocal most
        most = max(most, at_work)
        return Reply("x", delay=0.3)

    agent = make_agent(tape)
    complete = agent.model.complete

    async def counted(*arguments):
        nonlocal at_work
        at_work += 1
        async for delta in complete(*arguments):
            yield delta
        at_work -= 1

    agent.model.complete = counted
    await heavy(agent, "t", 4)
    assert most == 4


async def test_the_verified_majority_stands_in_for_a_merge_that_fails(make_agent: MakeAgent):
    answers = iter(["5", "5", "5", "7 km", "7 km", "9 km"])

    def tape(messages, declared):
        if is_merge(messages):
            return Reply("perhaps 5")  # most say so, but it never passes
        if messages[-1]["role"] == "user" and len(messages) > 2:
            return Reply(messages[-2]["content"])
        return Reply(next(answers))

    agent = make_agent(tape, verifiers=[SaysUnits()], budget=Budget(revisions=0))
    result = await heavy(agent, "How long?", 6)
    assert (result.answer, result.reason) == ("7 km", "done")
    assert result.verdict.passed
    assert "the verified majority" in result.verdict.checks[-1].notes[0]
    assert states(agent)[result.run].finished.answer == "7 km"


async def test_when_none_passes_the_merge_is_given_with_its_problems(make_agent: MakeAgent):
    agent = make_agent([Reply("5")], verifiers=[SaysUnits()], budget=Budget(revisions=0))
    result = await heavy(agent, "How long?", 3)
    assert (result.answer, result.reason) == ("5", "unverified")


async def test_when_the_merge_cannot_be_asked_for_the_majority_is_not_lost(make_agent: MakeAgent):
    def tape(messages, declared):
        return Refused("gone", kind="auth") if is_merge(messages) else Reply("7 km")

    result = await heavy(make_agent(tape, verifiers=[SaysUnits()]), "How long?", 3)
    assert (result.answer, result.reason, result.ok) == ("7 km", "model", False)


async def test_each_has_a_copy_and_the_chosen_ones_files_are_taken(make_agent, workspace, home):
    (workspace / "log.txt").write_text("begun\n")
    lines = iter(["a", "b", "b"])

    def tape(messages, declared):
        if is_merge(messages):
            return Reply("Line b was added.")
        if messages[-1]["role"] == "tool":
            return Reply("Added.")
        return Reply(calls=[Call("append_line", {"line": next(lines)})])

    agent = make_agent(tape, [tools.append_line])
    result = await heavy(agent, "add a line", 3)
    assert result.ok
    assert (workspace / "log.txt").read_text() == "begun\nb\n"
    state = states(agent)[result.run]
    SnapshotStore(home).undo(state.snapshot_before, state.snapshot_after)
    assert (workspace / "log.txt").read_text() == "begun\n"


async def test_sources_of_the_trajectories_can_be_cited(make_agent: MakeAgent):
    def tape(messages, declared):
        if is_merge(messages):
            cited = next(m for m in messages if MERGING in str(m["content"]))["content"]
            return Reply(f"Known [{cited.split('[')[1].split(']')[0]}].")
        if messages[-1]["role"] == "tool":
            return Reply(f"Known: {messages[-1]['content'].split()[-1]}")
        return Reply(calls=[Call("look_up", {"topic": "moons"})])

    agent = make_agent(tape, [tools.look_up])
    result = await heavy(agent, "t", 2)
    assert result.ok, result
    assert "[ev:" in result.answer


async def test_one_that_fails_is_one_less_and_an_interrupt_ends_all(make_agent: MakeAgent):
    turns = iter(range(100))

    def tape(messages, declared):
        if not is_merge(messages) and next(turns) == 0:
            return Refused("no", kind="auth")
        return Reply("It is done.")

    result = await heavy(make_agent(tape), "t", 3)
    assert result.ok

    agent = make_agent([Reply("slow", delay=30)])
    async with agent.session() as session:
        work = asyncio.create_task(run_heavy(session, "t", trajectories=3))
        await asyncio.sleep(0.5)
        session.interrupt()
        result = await asyncio.wait_for(work, 20)
    assert result.reason == "interrupted"
    assert [s.finished.reason for s in states(agent).values()].count("interrupted") >= 1


def trajectory(number: int, answer: str, tokens: int = 10, *, ok: bool = True) -> Trajectory:
    result = RunResult(
        run=str(number),
        answer=answer,
        reason="done" if ok else "unverified",
        usage=Usage(completion_tokens=tokens),
        verdict=verdict_of([], 1),
    )
    return Trajectory(number, result, RunState())


def test_the_majority_counts_verified_answers_only():
    done = [trajectory(n, "4", ok=False) for n in (1, 2, 3)]
    assert verified_majority(done) is None
    done += [trajectory(4, "Answer: 1,200 km"), trajectory(5, "7"), trajectory(6, "1200 KM.")]
    assert verified_majority(done).number in (4, 6)
    tie = [trajectory(1, "a", 50), trajectory(2, "b", 20), trajectory(3, "c", 20)]
    assert verified_majority(tie).number == 2


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("The answer is: 4,120", "4120", True),
        ("Tavor [ev:1a2b3c4d].", "tavor", True),
        ("4.50", "4.5", True),
        ("-4", "4", False),
        ("41.20", "4120", False),
    ],
)
def test_what_counts_as_the_same_answer(one: str, other: str, same: bool):
    assert (normal_answer(one) == normal_answer(other)) == same
