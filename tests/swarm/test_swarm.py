"""A swarm as a whole: splitting, counting, rights, limits, evidence, windows, people."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from perilune.agent.agent import Agent
from perilune.agent.checks.usual import default_verifiers
from perilune.agent.models.scripted import Call, Reply, ScriptedModel
from perilune.agent.permissions.permissions import Permissions
from perilune.agent.tool import tool
from perilune.errors import UsageError
from perilune.events import (
    AssignmentFinished,
    AssignmentProgress,
    AssistantMessage,
    EvidenceKept,
    ReportsCollected,
    RunStarted,
    ToolFinished,
    ToolStarted,
    UserMessage,
)
from perilune.swarm.limits import SwarmLimits
from perilune.swarm.swarm import Swarm
from tests.agent import simple_tools as tools
from tests.swarm.conftest import (
    MakeSwarm,
    answer_with_results,
    events_of,
    last_results,
    split,
)


def echo(prompt: str, turn: int, messages) -> Reply:
    return Reply(f"answer to {prompt}")


def test_splits_and_answers(make_swarm: MakeSwarm, home):
    swarm = make_swarm([split("a", "b", "c"), answer_with_results], echo)
    result = swarm.run("do a, b and c")
    assert (result.reason, result.ok, result.missing) == ("done", True, [])
    assert result.answer == "answer to a\nanswer to b\nanswer to c" == str(result)
    assert (result.steps, result.critical_steps, result.serial_steps) == (2, 3, 5)
    assert result.sub_agents == 3
    finished = events_of(home, result.run, AssignmentFinished)
    assert {each.folder for each in finished} == {"worker-1", "worker-2", "worker-3"}
    assert {each.status for each in finished} == {"done"}
    parts = [events_of(home, result.run, AssistantMessage, each.folder) for each in finished]
    spent = sum(message.usage.total_tokens for part in parts for message in part)
    main = events_of(home, result.run, AssistantMessage)
    assert result.usage.total_tokens == spent + sum(each.usage.total_tokens for each in main)
    (started,) = events_of(home, result.run, RunStarted, "worker-1")
    assert started.parent_run == result.run
    assert started.system_prompt.endswith("You are worker.")


async def test_sub_agents_of_a_turn_run_side_by_side(make_swarm: MakeSwarm):
    def slow(prompt, turn, messages):
        return Reply("done", delay=0.5)

    swarm = make_swarm([split(*"abcdefgh"), Reply("all")], slow)
    began = time.monotonic()
    assert (await swarm.arun("t")).ok
    assert time.monotonic() - began < 3.0  # one after another they take 4 s


async def test_at_most_as_many_at_once_as_the_limits_say(make_swarm: MakeSwarm):
    now = most = 0

    @tool(side_effects=False, parallel_safe=True)
    async def enter() -> str:
        """Count who is here."""
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.05)
        now -= 1
        return "left"

    def sub(prompt, turn, messages):
        return Reply(calls=[Call("enter", {})]) if turn == 0 else Reply("ok")

    swarm = make_swarm(
        [split(*"abcdefghij"), Reply("all")], sub, [enter], limits=SwarmLimits(parallel=3)
    )
    assert (await swarm.arun("t")).tool_calls == 10
    assert most == 3


def test_an_agent_may_be_created_after_its_task_in_the_same_turn(make_swarm: MakeSwarm):
    turn = split("a")
    swarm = make_swarm([Reply(calls=list(reversed(turn.calls))), answer_with_results], echo)
    assert swarm.run("t").answer.startswith("answer to a")


def test_critical_steps_are_counted_by_stages(make_swarm: MakeSwarm):
    """The published example: main 1, 1, 1; sub-agents (3, 2), (0), (4, 1, 2) give 10."""
    lengths = {"a": 3, "b": 2, "c": 4, "d": 1, "e": 2}

    def sub(prompt, turn, messages):
        call = Reply(calls=[Call("read_log", {})])
        return call if turn < lengths[prompt] - 1 else Reply("ok")

    swarm = make_swarm(
        [split("a", "b"), Reply(calls=[Call("read_log", {})]), split("c", "d", "e", create=False),
         Reply("end")],
        sub, [tools.read_log],
    )  # fmt: skip
    result = swarm.run("t")
    # The answer is one more main step than in the example.
    assert (result.critical_steps, result.serial_steps) == (10 + 1, 4 + 12)
    assert result.tool_calls == 7 + 1


def test_unknown_agents_and_names_taken_twice_are_refused(make_swarm: MakeSwarm, home):
    other = Call("create_subagent", {"name": "worker", "system_prompt": "Another."})
    main = [
        split("a", agent="nobody", create=False),
        split(),
        Reply(calls=[other]),
        Reply("end"),
    ]
    result = make_swarm(main, echo).run("t")
    outcomes = events_of(home, result.run, ToolFinished)
    assert [each.outcome for each in outcomes] == ["error", "ok", "error"]
    assert "there is: none" in outcomes[0].content
    assert result.missing == []
    assert result.sub_agents == 0


def test_the_same_task_is_not_done_twice_at_once(make_swarm: MakeSwarm, home):
    result = make_swarm([split("a", "a"), answer_with_results], echo).run("t")
    assert "the same task is at work already" in result.answer
    assert result.missing == []
    assert [each.steps for each in events_of(home, result.run, AssignmentFinished)].count(1) == 1


# --- rights ---------------------------------------------------------------------------------------


def test_a_sub_agent_cannot_have_more_than_it_was_given(make_swarm: MakeSwarm, home, workspace):
    """Whatever the orchestrator writes: no other tools, no denied call, no sub-agents."""

    def sub(prompt, turn, messages):
        calls = [
            Call("create_subagent", {"name": "x", "system_prompt": "y"}),
            Call("look_up", {"topic": "t"}),
            Call("append_line", {"line": "denied"}),
            Call("append_line", {"line": "fine"}),
        ]
        return Reply(calls=calls) if turn == 0 else Reply("tried")

    worker_tools = [tools.append_line]
    swarm = make_swarm(
        [split("You may use all tools."), answer_with_results],
        sub,
        [tools.look_up, tools.append_line],
        agent_options={"permissions": Permissions(deny=["append_line(*denied*)"])},
    )
    swarm.worker = swarm.worker.copy_with(tools=worker_tools)
    result = swarm.run("t")
    assert result.ok
    outcomes = events_of(home, result.run, ToolFinished, "worker-1")
    assert [each.outcome for each in outcomes] == ["refused", "refused", "denied", "ok"]
    assert not (workspace / "log.txt").exists()


def test_each_sub_agent_has_a_workspace_of_its_own(make_swarm: MakeSwarm, home, workspace):
    (workspace / "log.txt").write_text("from the start\n")

    def sub(prompt, turn, messages):
        call = Call("append_line", {"line": prompt})
        return Reply(calls=[call]) if turn == 0 else Reply("written")

    swarm = make_swarm(
        [split("a", "b"), answer_with_results], sub, [tools.append_line], workspaces="copy"
    )
    result = swarm.run("t")
    assert (workspace / "log.txt").read_text() == "from the start\n"
    outputs = home / "runs" / result.run / "outputs"
    for number, line in ((1, "a"), (2, "b")):
        kept = outputs / f"worker-{number}" / "log.txt"
        assert kept.read_text() == f"from the start\n{line}\n"
        assert str(kept.parent) in result.answer


def test_commands_of_a_sub_agent_run_in_the_sandbox(make_swarm: MakeSwarm, home, workspace):
    pytest.importorskip("perilune.sandbox")
    import shutil

    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed: scripts/setup_system.sh")
    (workspace / "a.txt").write_text("inside")

    def sub(prompt, turn, messages):
        command = "cat a.txt; echo hi > b.txt; ls /root/.. | head -3"
        return Reply(calls=[Call("bash", {"command": command})]) if turn == 0 else Reply("ok")

    swarm = make_swarm([split("a"), Reply("end")], sub, ["bash"], workspaces="copy")
    result = swarm.run("t")
    (ran,) = events_of(home, result.run, ToolFinished, "worker-1")
    assert "inside" in ran.content, ran.content
    (ended,) = events_of(home, result.run, AssignmentFinished)
    assert ended.files == ["b.txt"]


# --- limits ---------------------------------------------------------------------------------------


def test_the_tool_calls_of_all_are_limited_to_the_call(make_swarm: MakeSwarm, home):
    made = 0

    @tool(side_effects=False, parallel_safe=True)
    async def count(n: int) -> str:
        """Count a call."""
        nonlocal made
        made += 1
        await asyncio.sleep(0)
        return str(n)

    def sub(prompt, turn, messages):
        if "budget of 7 tool calls" in str(messages[-1]["content"]):
            return Reply("had to stop")
        return Reply(calls=[Call("count", {"n": turn})])

    limits = SwarmLimits(tool_calls=7)
    result = make_swarm([split("a", "b", "c"), answer_with_results], sub, [count], limits=limits)
    answer = result.run("t").answer
    assert made == 7
    assert answer == "had to stop\n" * 2 + "had to stop"


def test_steps_and_sub_agents_are_limited(make_swarm: MakeSwarm, home):
    def sub(prompt, turn, messages):
        return Reply(calls=[Call("look_up", {"topic": f"{prompt}{turn}"})])

    limits = SwarmLimits(main_steps=2, sub_agent_steps=3, sub_agents=2)
    swarm = make_swarm([split("a", "b", "c"), answer_with_results], sub, [tools.look_up],
                       limits=limits)  # fmt: skip
    result = swarm.run("t")
    assert (result.steps, result.critical_steps) == (2, 5)
    assert result.reason == "done", result.detail
    statuses = [
        (each.status, each.steps) for each in events_of(home, result.run, AssignmentFinished)
    ]
    assert sorted(statuses) == [("budget", 0), ("budget", 3), ("budget", 3)]
    assert "limit of 2 sub-agents" in result.answer
    assert "used 3 of 3 steps" in result.answer
    assert len(result.missing) == 3


def test_sub_agents_leave_tokens_for_the_conclusion(make_swarm: MakeSwarm):
    def sub(prompt, turn, messages):
        return Reply("thinking " * 200, calls=[Call("look_up", {"topic": f"{prompt}{turn}"})])

    limits = SwarmLimits(tokens=60_000, reserve=0.5)
    swarm = make_swarm([split("a", "b"), answer_with_results], sub, [tools.look_up], limits=limits)
    result = swarm.run("t")
    assert result.reason == "done"
    assert 30_000 <= result.usage.total_tokens < 60_000
    assert "swarm tokens" in result.answer


# --- evidence -------------------------------------------------------------------------------------


def test_sources_of_sub_agents_may_be_cited_and_invented_ones_not(make_swarm: MakeSwarm, home):
    def sub(prompt, turn, messages):
        if turn == 0:
            return Reply(calls=[Call("look_up", {"topic": prompt})])
        return Reply(str(messages[-1]["content"]))

    def main(messages):
        results = last_results(messages)
        if results:
            return Reply(results[-1].splitlines()[0])  # "All about b. [ev:...]"
        return split("a", "b")

    checked = {"verifiers": default_verifiers()}
    swarm = make_swarm(main, sub, [tools.look_up], agent_options=checked)
    result = swarm.run("t")
    assert result.ok
    assert "[ev:" in result.answer
    kept = {each.id: each.source for each in events_of(home, result.run, EvidenceKept)}
    assert set(kept.values()) == {"https://example.org/a", "https://example.org/b"}
    folder = home / "runs" / result.run / "evidence"
    assert {f"ev:{path.stem}" for path in folder.iterdir()} == set(kept)

    main_lies = [split("a"), Reply("So it is [ev:00c0ffee].")]
    lies = make_swarm(main_lies, sub, [tools.look_up], agent_options=checked)
    assert lies.run("t").reason == "unverified"


# --- the orchestrator's window --------------------------------------------------------------------


def test_a_long_report_is_shortened_and_kept_whole(make_swarm: MakeSwarm, home):
    long = "\n".join(f"line {i} of the report" for i in range(2000))
    swarm = make_swarm(
        [split("a"), answer_with_results], lambda *_: Reply(long), limits=SwarmLimits()
    )
    result = swarm.run("t")
    assert len(result.answer) < 4600
    assert result.answer.startswith("line 0 of")
    (ended,) = events_of(home, result.run, AssignmentFinished)
    assert ended.report in result.answer
    assert Path(ended.report).read_text() == long


def test_many_reports_wait_and_never_overflow_the_window(make_swarm: MakeSwarm, home):
    """30 reports of 3,000 characters cannot fit a window of 8,000 tokens."""
    prompts = [f"part {i}" for i in range(30)]
    most = 0

    def main(messages):
        nonlocal most
        most = max(most, sum(len(str(each["content"])) for each in messages) // 4)
        results = last_results(messages)
        if not results:
            return split(*prompts)
        if "no report waits" in results[-1]:
            return Reply("end")
        return Reply(calls=[Call("collect_reports", {})])

    swarm = make_swarm(
        main, lambda prompt, *_: Reply(f"{prompt}: " + "x" * 3000), window=8000,
        limits=SwarmLimits(main_steps=40), agent_options={"context": "discard"},
    )  # fmt: skip
    result = swarm.run("t")
    assert result.reason == "done", result.detail
    assert most < 8000
    ended = events_of(home, result.run, AssignmentFinished)
    waited = {each.call_id for each in ended if each.waiting}
    assert len(ended) == 30
    assert len(waited) >= 8
    collected = [c for e in events_of(home, result.run, ReportsCollected) for c in e.call_ids]
    assert len(collected) == len(set(collected))
    assert set(collected) == waited


def test_tables_of_all_reports_are_merged(make_swarm: MakeSwarm):
    def sub(prompt, turn, messages):
        size = {"a": 5, "b": 5, "c": 7}[prompt]
        return Reply(f"| town | size |\n| --- | --- |\n| Rome | {size} |\n| {prompt} | 1 |")

    main = [split("a", "b", "c"), Reply(calls=[Call("merge_tables", {})]), answer_with_results]
    answer = make_swarm(main, sub).run("t").answer
    assert "| Rome | 5 |\n| a | 1 |\n| b | 1 |\n| c | 1 |" in answer
    assert "conflict: Rome, size: '5' from worker-1, worker-2; '7' from worker-3" in answer


# --- people ---------------------------------------------------------------------------------------


async def test_steer_one_stop_one_stop_all(make_swarm: MakeSwarm, home):
    def sub(prompt, turn, messages):
        if prompt == "listen" and "hurry" in str(messages[-1]["content"]):
            return Reply("hurried")
        if prompt == "stop me" and turn == 1:
            return Reply("slow", delay=30)
        return Reply(f"turn {turn}", calls=[Call("wait", {"seconds": 0.05})], delay=0.02)

    def main(messages):
        if not last_results(messages):
            return split("listen", "stop me")
        results = last_results(messages)
        if "went on" in str(messages[-1]["content"]) or len(results) == 1:
            return Reply("never", delay=30)
        return split("wait for ever", create=False)

    swarm = make_swarm(main, sub, [tools.wait])
    async with swarm.session() as session:
        work = asyncio.create_task(session.run("t"))
        while len(session.state.running()) < 2 or session.state.critical_steps < 2:
            await asyncio.sleep(0.01)
        with pytest.raises(UsageError, match="at work"):
            await session.stop("nobody")
        await session.stop("worker-2", "enough")
        await session.steer("hurry", agent="worker-1")
        while not any(each.stage == 2 for each in session.state.running()):
            await asyncio.sleep(0.01)
        await session.steer("and be brief")
        session.interrupt()
        result = await asyncio.wait_for(work, 10)
    assert result.reason == "interrupted"
    by_prompt = {each.prompt: each for each in session.state.assignments.values()}
    assert by_prompt["listen"].status == "done"
    assert by_prompt["stop me"].status == "stopped"
    assert by_prompt["stop me"].finished.detail == "enough"
    assert by_prompt["wait for ever"].status == "stopped"
    told = [e.content for e in events_of(home, result.run, ToolFinished) if "stopped" in e.content]
    assert "enough" in told[0]
    assert "turn 0" in told[0]
    heard = events_of(home, result.run, UserMessage, "worker-1")
    assert [each.content for each in heard] == ["listen", "hurry"]


async def test_the_same_prompt_goes_on_where_a_stopped_sub_agent_was(make_swarm: MakeSwarm, home):
    def sub(prompt, turn, messages):
        if turn < 3:
            return Reply(calls=[Call("look_up", {"topic": str(turn)})])
        resumed = any("went" in str(each["content"]) for each in messages)
        return Reply("finished") if stopped else Reply("slow", delay=30 * (not resumed))

    stopped = False
    main = [split("a"), split("a", create=False), answer_with_results]
    swarm = make_swarm(main, sub, [tools.look_up])
    async with swarm.session() as session:
        work = asyncio.create_task(session.run("t"))
        while not any(each.steps == 3 for each in session.state.assignments.values()):
            await asyncio.sleep(0.01)
        stopped = True
        await session.stop("worker")
        result = await work
    assert result.answer.startswith("finished")
    first, second = session.state.assignments.values()
    assert (first.steps, second.steps) == (3, 1)
    assert (first.tool_calls, second.tool_calls) == (3, 0)
    assert first.finished.folder == second.finished.folder
    assert result.missing == []
    assert len(events_of(home, result.run, ToolStarted, "worker-1")) == 3


async def test_progress_is_told_live(make_swarm: MakeSwarm):
    seen = []
    swarm = make_swarm([split("a"), Reply("end")], echo, agent_options={"on_record": seen.append})
    result = await swarm.arun("t")
    progress = [each.event for each in seen if isinstance(each.event, AssignmentProgress)]
    assert progress[-1].steps == 1
    assert progress[-1].usage.total_tokens > 0
    assert {each.agent for each in seen} == {"main", "worker"}
    assert {each.run for each in seen} == {result.run, "worker-1"}


def test_sub_agents_may_have_another_model(workspace, home):
    main = ScriptedModel([split("a"), answer_with_results], name="large")

    def tape(messages, declared):
        turn = main_tape[min(sum(m["role"] == "assistant" for m in messages), 1)]
        return turn(messages) if callable(turn) else turn

    main_tape = [split("a"), answer_with_results]
    main = ScriptedModel(tape, name="large")
    small = ScriptedModel([Reply("from the small one")], name="small")
    agent = Agent(main, workspace=workspace, home=home, snapshot=False)
    worker = Agent(small, workspace=workspace, home=home, system_prompt="Be small.")
    swarm = Swarm(agent, worker=worker, workspaces="empty")
    result = swarm.run("t")
    assert result.answer == "from the small one"
    (started,) = events_of(home, result.run, RunStarted, "worker-1")
    assert (started.model, started.system_prompt) == ("small", "Be small.\n\nYou are worker.")


def test_sync_run_inside_a_loop_says_what_to_do(make_swarm: MakeSwarm):
    async def inside():
        make_swarm([Reply("x")], echo).run("t")

    with pytest.raises(UsageError, match="arun"):
        asyncio.run(inside())
