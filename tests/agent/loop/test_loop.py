"""The loop: acting, verifying, budgets, steering, repeats; and every end has a name."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from perilune.agent.budgets import Budget
from perilune.agent.journal.journal import read_journal
from perilune.agent.models.chat_model import Message
from perilune.agent.models.scripted import Call, Reply
from perilune.agent.permissions.permissions import PermissionAnswer, Permissions
from perilune.agent.tool import tool
from perilune.errors import UsageError
from perilune.events import (
    AssistantMessage,
    PermissionDecided,
    Record,
    RepeatNoticed,
    RunFinished,
    ToolFinished,
    ToolStarted,
    UserMessage,
    Verified,
)
from perilune.home import runs_folder
from tests.agent import simple_tools as tools
from tests.agent.conftest import MakeAgent


def events_of(agent, run, kind):
    history = read_journal(runs_folder(agent.home) / run)
    assert not history.damage
    return [record.event for record in history.records if isinstance(record.event, kind)]


def test_answers_after_tools(make_agent: MakeAgent, workspace):
    tape = [
        Reply(reasoning="I must write", calls=[Call("append_line", {"line": "a"})]),
        Reply("Written."),
    ]
    agent = make_agent(tape, [tools.append_line])
    result = agent.run("write a")
    assert (result.answer, result.reason, result.ok, result.steps) == ("Written.", "done", True, 2)
    assert (workspace / "log.txt").read_text() == "a\n"
    assert str(result) == "Written."
    messages = agent.model.prompts[-1]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool"]
    assert messages[2]["reasoning_content"] == "I must write"
    assert (
        messages[3]["tool_call_id"]
        == messages[2]["tool_calls"][0]["id"]
        == ("functions.append_line:0")
    )


def test_sync_run_inside_a_loop_says_what_to_do(make_agent: MakeAgent):
    async def inside():
        make_agent([Reply("x")]).run("t")

    with pytest.raises(UsageError, match="arun"):
        asyncio.run(inside())


async def test_parallel_safe_calls_of_a_turn_run_together(make_agent: MakeAgent):
    calls = [Call("wait", {"seconds": 0.4}) for _ in range(5)]
    agent = make_agent([Reply(calls=calls), Reply("ok")], [tools.wait])
    began = time.monotonic()
    result = await agent.arun("wait")
    assert result.ok
    assert time.monotonic() - began < 1.5  # one after another they take 2 s
    finished = events_of(agent, result.run, ToolFinished)
    assert [each.outcome for each in finished] == ["ok"] * 5
    started = events_of(agent, result.run, ToolStarted)
    assert len({each.call_id for each in started}) == 5


async def test_results_stand_in_the_order_of_their_calls(make_agent: MakeAgent):
    calls = [Call("wait", {"seconds": each}) for each in (0.2, 0.0, 0.1)]
    agent = make_agent([Reply(calls=calls), Reply("ok")], [tools.wait])
    await agent.arun("wait")
    shown = [m["content"] for m in agent.model.prompts[-1] if m["role"] == "tool"]
    assert shown == ["slept 0.2", "slept 0.0", "slept 0.1"]


async def test_unsafe_calls_keep_their_order(make_agent: MakeAgent, workspace):
    calls = [Call("append_line", {"line": str(i)}) for i in range(4)]
    calls.insert(2, Call("read_log", {}))
    agent = make_agent([Reply(calls=calls), Reply("ok")], [tools.append_line, tools.read_log])
    await agent.arun("write")
    assert (workspace / "log.txt").read_text().split() == ["0", "1", "2", "3"]
    read = [m for m in agent.model.prompts[-1] if m.get("name") == "read_log"]
    assert read[0]["content"] == "0\n1\n"


async def test_intent_is_written_before_and_result_after(make_agent: MakeAgent):
    agent = make_agent(
        [Reply(calls=[Call("append_line", {"line": "x"})]), Reply("ok")], [tools.append_line]
    )
    result = await agent.arun("t")
    kinds = (AssistantMessage, ToolStarted, ToolFinished, RunFinished)
    order = [type(event) for event in events_of(agent, result.run, kinds)]
    assert order == [AssistantMessage, ToolStarted, ToolFinished, AssistantMessage, RunFinished]


@pytest.mark.parametrize(
    ("call", "outcome", "words"),
    [
        (Call("no_such_tool", {}), "refused", "no tool called 'no_such_tool'"),
        (Call("append_line", '{"line": "x'), "refused", "not valid JSON"),
        (Call("append_line", "[1]"), "refused", "must be a JSON object"),
        (Call("append_line", {"lines": 3}), "refused", "do not fit its schema"),
        (Call("fail", {"how": "tool"}), "error", "the disk is on fire"),
        (Call("fail", {"how": "bug"}), "error", "RuntimeError"),
    ],
)
async def test_bad_calls_are_told_to_the_model(make_agent: MakeAgent, call, outcome, words):
    agent = make_agent([Reply(calls=[call]), Reply("sorry")], [tools.append_line, tools.fail])
    result = await agent.arun("t")
    assert result.ok
    (finished,) = events_of(agent, result.run, ToolFinished)
    assert finished.outcome == outcome
    assert words in finished.content
    assert agent.model.prompts[-1][-1]["content"] == finished.content


async def test_a_hung_tool_is_left_behind(make_agent: MakeAgent):
    agent = make_agent([Reply(calls=[Call("hang", {})]), Reply("gave up")], [tools.hang])
    result = await agent.arun("t")
    (finished,) = events_of(agent, result.run, ToolFinished)
    assert (result.reason, finished.outcome) == ("done", "timeout")
    assert "no result after 0.2 s" in finished.content


def test_a_function_that_hangs_does_not_hold_the_end(make_agent: MakeAgent):
    """A thread cannot be killed; the answer comes, and the program can end, all the same."""

    @tool(side_effects=False, timeout=0.2)
    def sleepy() -> str:
        """Blocks."""
        time.sleep(8)
        return "never"

    began = time.monotonic()
    result = make_agent([Reply(calls=[Call("sleepy", {})]), Reply("went on")], [sleepy]).run("t")
    assert result.answer == "went on"
    assert time.monotonic() - began < 7


async def test_a_call_cut_at_the_token_limit_is_not_run(make_agent: MakeAgent, workspace):
    cut = Reply(
        calls=[Call("append_line", {"line": "a"}), Call("append_line", {"line": "b"})],
        finish_reason="length",
    )
    agent = make_agent([cut, Reply("ok")], [tools.append_line])
    await agent.arun("t")
    assert (workspace / "log.txt").read_text() == "a\n"


# --- verification ---------------------------------------------------------------------------------


async def test_an_empty_answer_is_revised(make_agent: MakeAgent):
    agent = make_agent([Reply(""), Reply("Here it is.")])
    result = await agent.arun("t")
    assert (result.answer, result.reason) == ("Here it is.", "done")
    assert [v.passed for v in events_of(agent, result.run, Verified)] == [False, True]


async def test_an_invented_citation_never_passes(make_agent: MakeAgent):
    agent = make_agent([Reply("The moon is cheese [ev:00c0ffee].")])
    result = await agent.arun("t")
    assert result.reason == "unverified"
    assert "[ev:00c0ffee]" in result.detail
    assert result.answer.startswith("The moon")


async def test_a_true_citation_passes(make_agent: MakeAgent):
    def tape(messages: list[Message], declared):
        if messages[-1]["role"] == "tool":
            return Reply(f"Known: {messages[-1]['content'].split()[-1]}")
        return Reply(calls=[Call("look_up", {"topic": "moons"})])

    agent = make_agent(tape, [tools.look_up])
    result = await agent.arun("t")
    assert result.ok
    assert "[ev:" in result.answer


async def test_an_open_plan_item_is_closed_or_said(make_agent: MakeAgent):
    items = [{"text": "Paint the roof", "status": "open"}, {"text": "Sweep", "status": "done"}]
    tape = [
        Reply(calls=[Call("plan", {"items": items})]),
        Reply("All done!"),
        Reply("Swept; but paint the  ROOF is open."),
    ]
    agent = make_agent(tape, [tools.plan])
    result = await agent.arun("t")
    assert result.ok
    first, second = events_of(agent, result.run, Verified)
    assert not first.passed
    assert "Paint the roof" in first.problems[0]
    assert second.passed


async def test_own_verifiers_are_heard(make_agent: MakeAgent):
    class SaysPlease:
        async def check(self, answer, state):
            return [] if "please" in answer else ["Say please."]

    agent = make_agent([Reply("give"), Reply("please give")], verifiers=[SaysPlease()])
    assert (await agent.arun("t")).answer == "please give"


async def test_an_answer_cut_at_the_limit_is_asked_again(make_agent: MakeAgent):
    agent = make_agent([Reply("Once upon", finish_reason="length"), Reply("Short.")])
    result = await agent.arun("t")
    assert (result.answer, result.reason) == ("Short.", "done")


# --- budgets --------------------------------------------------------------------------------------


def forever(messages, declared):
    return Reply(calls=[Call("append_line", {"line": str(len(messages))})])


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (Budget(steps=4), "budget:steps"),
        (Budget(tokens=4000), "budget:tokens"),
        (Budget(seconds=0.5), "budget:seconds"),
    ],
)
async def test_a_spent_budget_ends_the_run_by_name(make_agent: MakeAgent, budget, reason):
    agent = make_agent(forever, [tools.append_line], budget=budget)
    result = await agent.arun("t")
    assert result.reason == reason
    assert not result.ok
    (finished,) = events_of(agent, result.run, RunFinished)
    assert finished.reason == reason


async def test_a_spent_budget_can_be_raised(make_agent: MakeAgent):
    agent = make_agent(forever, [tools.append_line], budget=Budget(steps=3))
    first = await agent.arun("t")
    agent.budget = Budget(steps=5)
    second = await agent.arun(resume=first.run)
    assert (second.run, second.reason, second.steps) == (first.run, "budget:steps", 5)


async def test_the_last_step_is_announced(make_agent: MakeAgent):
    def tape(messages, declared):
        last = messages[-1]
        if last["role"] == "user" and "last step" in last["content"]:
            return Reply("As far as I got.")
        return forever(messages, declared)

    agent = make_agent(tape, [tools.append_line], budget=Budget(steps=6))
    result = await agent.arun("t")
    assert (result.reason, result.steps) == ("done", 6)


async def test_time_runs_out_in_the_middle_of_a_completion(make_agent: MakeAgent):
    agent = make_agent([Reply("late", delay=30)], budget=Budget(seconds=0.2))
    assert (await agent.arun("t")).reason == "budget:seconds"


async def test_thinking_has_a_budget_a_step(make_agent: MakeAgent):
    def tape(messages, declared):
        if "was cut off" in str(messages[-1]["content"]):
            return Reply("decided")
        return Reply("never", reasoning="hm " * 2000)

    agent = make_agent(tape, budget=Budget(thinking_tokens=100))
    assert (await agent.arun("t")).answer == "decided"
    stubborn = make_agent([Reply("no", reasoning="hm " * 2000)], budget=Budget(thinking_tokens=100))
    assert (await stubborn.arun("t")).reason == "budget:thinking_tokens"


# --- repeats --------------------------------------------------------------------------------------


async def test_repeats_are_reminded_of_and_then_stopped(make_agent: MakeAgent):
    agent = make_agent([Reply(calls=[Call("read_log", {})])], [tools.read_log])
    result = await agent.arun("t")
    assert (result.reason, result.steps) == ("repeat", 12)
    assert [each.count for each in events_of(agent, result.run, RepeatNoticed)] == [3, 5, 8]
    reminders = [e for e in events_of(agent, result.run, UserMessage) if e.source == "guard"]
    assert len({each.content for each in reminders}) == 3


async def test_a_cycle_is_stopped_too(make_agent: MakeAgent):
    def tape(messages, declared):
        turns = sum(message["role"] == "assistant" for message in messages)
        return Reply(calls=[Call("wait", {"seconds": [0, 0.001][turns % 2]})])

    agent = make_agent(tape, [tools.wait])
    result = await agent.arun("t")
    assert (result.reason, result.steps) == ("repeat", 24)


async def test_a_changing_result_is_no_repeat(make_agent: MakeAgent):
    agent = make_agent(forever, [tools.append_line], budget=Budget(steps=30))
    assert (await agent.arun("t")).reason == "budget:steps"


# --- steering -------------------------------------------------------------------------------------


async def test_steer_is_heard_at_the_next_step_and_queue_after_the_answer(make_agent: MakeAgent):
    seen: list[list[Message]] = []

    def tape(messages, declared):
        seen.append(list(messages))
        last = messages[-1]["content"]
        if last == "and hurry":
            return Reply("hurried")
        if last == "now the second":
            return Reply("second done")
        return Reply(calls=[Call("wait", {"seconds": 0.2})])

    agent = make_agent(tape, [tools.wait])
    async with agent.session() as session:
        work = asyncio.create_task(session.run("first"))
        await asyncio.sleep(0.1)
        session.queue("now the second")
        session.steer("and hurry")
        result = await work
        run = session.id
    assert result.answer == "second done"
    assert [each.answer for each in events_of(agent, run, RunFinished)] == [
        "hurried",
        "second done",
    ]
    hurried = next(m for m in seen if m[-1]["content"] == "and hurry")
    assert hurried[-2]["role"] == "tool"


async def test_steer_during_the_answer_reopens_it(make_agent: MakeAgent):
    tape = [Reply("first thoughts", delay=0.2), Reply("better")]
    async with make_agent(tape).session() as session:
        work = asyncio.create_task(session.run("t"))
        await asyncio.sleep(0.1)
        session.steer("think again")
        assert (await work).answer == "better"


async def test_steer_while_the_answer_is_written_down_is_not_lost(make_agent: MakeAgent):
    """It comes too late for this turn, so it begins the next one."""

    class Late:
        async def check(self, answer, state):
            if answer == "first":
                session.steer("one more thing")
                session.queue("and then this")
            return []

    agent = make_agent([Reply("first"), Reply("second"), Reply("third")], verifiers=[Late()])
    async with agent.session() as session:
        result = await session.run("t")
        assert session.state.inbox == []
    assert result.answer == "third"
    said = [m["content"] for m in agent.model.prompts[-1] if m["role"] == "user"]
    assert said == ["t", "one more thing", "and then this"]


@pytest.mark.parametrize("where", ["model", "tool"])
async def test_interrupt_ends_at_once_and_can_be_resumed(make_agent: MakeAgent, where):
    def tape(messages, declared):
        if messages[-1]["role"] == "user" and messages[-1]["content"] == "go on":
            return Reply("finished")
        return (
            Reply("slow", delay=30)
            if where == "model"
            else Reply(calls=[Call("wait", {"seconds": 30})] * 2)
        )

    agent = make_agent(tape, [tools.wait])
    async with agent.session() as session:
        work = asyncio.create_task(session.run("t"))
        await asyncio.sleep(0.2)
        session.interrupt()
        result = await asyncio.wait_for(work, 5)
        assert result.reason == "interrupted"
        run = session.id
    again = await agent.arun("go on", resume=run)
    assert (again.answer, again.run) == ("finished", run)
    roles = [message["role"] for message in agent.model.prompts[-1]]
    assert roles.count("tool") == (0 if where == "model" else 2)


async def test_a_run_that_was_interrupted_before_its_calls_asks_no_model_again(
    make_agent: MakeAgent,
):
    agent = make_agent([Reply(calls=[Call("wait", {"seconds": 0})]), Reply("late")], [tools.wait])
    async with agent.session() as session:

        def stop(record: Record) -> None:
            if isinstance(record.event, AssistantMessage):
                session.interrupt()

        session.listeners.append(stop)
        result = await session.run("t")
    assert result.reason == "interrupted"
    assert len(agent.model.prompts) == 1


# --- permissions ----------------------------------------------------------------------------------


async def test_denied_calls_do_not_run(make_agent: MakeAgent, workspace):
    tape = [Reply(calls=[Call("append_line", {"line": "x"})]), Reply("fine")]
    agent = make_agent(tape, [tools.append_line], permissions=Permissions(deny=["append_*"]))
    result = await agent.arun("t")
    assert not (workspace / "log.txt").exists()
    (finished,) = events_of(agent, result.run, ToolFinished)
    assert (finished.outcome, result.ok) == ("denied", True)
    assert "append_*" in finished.content


async def test_asking_without_a_person_is_a_no(make_agent: MakeAgent, workspace):
    tape = [Reply(calls=[Call("append_line", {"line": "x"})]), Reply("fine")]
    agent = make_agent(tape, [tools.append_line], permissions=Permissions(ask=["append_line"]))
    await agent.arun("t")
    assert not (workspace / "log.txt").exists()


async def test_a_person_is_asked_once_for_always(make_agent: MakeAgent, workspace):
    asked = []

    async def approve(request):
        asked.append(request.arguments["line"])
        return PermissionAnswer(allow=True, always="append_line")

    tape = [Reply(calls=[Call("append_line", {"line": str(i)})]) for i in range(3)]
    agent = make_agent(
        [*tape, Reply("ok")],
        [tools.append_line],
        permissions=Permissions(ask=["append_line"]),
        approver=approve,
    )
    result = await agent.arun("t")
    assert asked == ["0"]
    assert (workspace / "log.txt").read_text().split() == ["0", "1", "2"]
    assert [each.by for each in events_of(agent, result.run, PermissionDecided)] == ["person"]


# --- outputs --------------------------------------------------------------------------------------


async def test_a_large_output_goes_to_a_file(make_agent: MakeAgent):
    tape = [Reply(calls=[Call("big", {"characters": 100_000})]), Reply("ok")]
    agent = make_agent(tape, [tools.big])
    result = await agent.arun("t")
    (finished,) = events_of(agent, result.run, ToolFinished)
    assert len(finished.content) < 17_000
    assert finished.content.startswith("HEADxxx")
    assert "TAIL" in finished.content
    assert len(Path(finished.full_output).read_text()) == 100_008
    assert finished.full_output in finished.content
