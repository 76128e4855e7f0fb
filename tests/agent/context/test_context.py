"""What the model is shown of a long run: nothing that matters is lost, no compaction is in vain."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from perilune.agent.agent import Agent
from perilune.agent.budgets import Budget
from perilune.agent.context.manager import MUST_FREE, TARGET
from perilune.agent.context.recall import Recall
from perilune.agent.context.strategies import chain
from perilune.agent.context.view import HIDDEN, Renderer, carry_text, ledger_text
from perilune.agent.journal.journal import read_journal
from perilune.agent.journal.state import Executed, RunState, View, fold
from perilune.agent.models.chat_model import Message
from perilune.agent.models.scripted import Call, Refused, Reply, ScriptedModel
from perilune.agent.models.tokens import TokenCounter, estimate_text
from perilune.agent.tool import ToolContext, tool
from perilune.errors import UsageError
from perilune.events import Compacted, PlanItem, Usage
from perilune.home import find_run
from tests.agent import simple_tools as tools
from tests.agent.conftest import MakeAgent

FACT = re.compile(r"fact-(\d+) is (\w+)")
STEPS = 500  # of a call and its result: 1,000 messages
WINDOW = 32_768


@tool(side_effects=False)
def look(place: int) -> str:
    """Look at a place: much text, and at every 25th a fact in the middle of it."""
    noise = " ".join(f"stone{place}-{i} lies here." for i in range(60))
    fact = f" fact-{place // 25} is colour{place * 7919 % 1000:03d}. " if place % 25 == 0 else " "
    return noise + fact + noise


@tool(side_effects=True)
def mark(place: int, context: ToolContext) -> str:
    """Mark a place, once."""
    path = context.workspace / "marks.txt"
    with path.open("a") as file:
        file.write(f"{place}\n")
    return f"marked {place}"


class Explorer:
    """Plays a model that only knows what it is shown.

    It looks at every place in turn, finding out from the prompt where it is; at the end it names
    the 20 facts, those that it sees and those that `recall` gives back.
    """

    def __init__(self) -> None:
        self.largest = 0
        self.recalled = 0

    def __call__(self, messages: Sequence[Message], declared) -> Reply:
        shown = "\n".join(str(message.get("content") or "") for message in messages)
        if "Write the notes" in shown:
            return Reply("\n".join(f"fact-{n} is {c}" for n, c in sorted(set(FACT.findall(shown)))))
        self.largest = max(self.largest, len(shown))
        assert messages[0]["role"] == "system"
        assert "the 20 facts" in messages[1]["content"], "the task must survive verbatim"
        place = self.next_place(messages, shown)
        if place <= STEPS:
            calls = [Call("look", {"place": place})]
            if place % 50 == 0:
                calls.append(Call("mark", {"place": place}))
            return Reply(calls=calls, reasoning=f"on to {place}")
        known = dict(FACT.findall(shown))
        for n in range(1, 21):
            if str(n) not in known:
                self.recalled += 1
                return Reply(calls=[Call("recall", {"query": f"fact-{n} is"})])
        return Reply("; ".join(f"fact-{n} is {known[str(n)]}" for n in range(1, 21)))

    @staticmethod
    def next_place(messages: Sequence[Message], shown: str) -> int:
        """From the calls that are shown, or from the ledger of those that are not."""
        seen = [0]
        for message in messages:
            for call in message.get("tool_calls") or ():
                if call["function"]["name"] == "look":
                    seen.append(int(re.search(r"\d+", call["function"]["arguments"])[0]))
        seen += [int(n) for n in re.findall(r"look\(place=(\d+)\)", shown)]
        return max(seen) + 1


@pytest.mark.parametrize("strategy", ["hide", "summarise", "discard"])
def test_20_facts_survive_1000_messages_in_a_32k_window(strategy, workspace, home):
    explorer = Explorer()
    agent = Agent(
        ScriptedModel(explorer, context_window=WINDOW),
        [look, mark],
        workspace=workspace,
        home=home,
        context=strategy,
        budget=Budget(steps=STEPS + 30),
        snapshot=False,
    )
    result = agent.run("Look at all places and tell me the 20 facts.")
    assert result.reason == "done", result.detail
    facts = {n: f"colour{n * 25 * 7919 % 1000:03d}" for n in range(1, 21)}
    if strategy != "summarise":
        assert explorer.recalled >= 10, "the facts were not out of sight, so nothing was shown"
    assert {int(n): colour for n, colour in FACT.findall(result.answer)} == facts
    marks = (workspace / "marks.txt").read_text().split()
    assert marks == [str(n) for n in range(50, STEPS + 1, 50)], "nothing was done twice"
    history = read_journal(find_run(result.run, home))
    state = fold(history.records)
    assert len(state.messages) >= 1000
    compactions = [r.event for r in history.records if isinstance(r.event, Compacted)]
    assert compactions
    for each in compactions:
        assert each.tokens_after <= each.tokens_before * (1 - MUST_FREE) + 1
    assert len(compactions) < STEPS / 10, "a compaction must last a while"
    assert estimate_text("x" * explorer.largest) < WINDOW


# --- what survives --------------------------------------------------------------------------------


def state_of(make_agent: MakeAgent, replies, given, steps=None) -> RunState:
    agent = make_agent(replies, given, budget=Budget(steps=steps), context="keep", verifiers=())
    result = agent.run("the task")
    return fold(read_journal(find_run(result.run, agent.home)).records)


@pytest.fixture
def state(make_agent: MakeAgent) -> RunState:
    """A run with a plan, a note, evidence, a write and big outputs."""
    items = [{"text": "first thing", "status": "active"}]
    replies = [
        Reply(calls=[Call("plan", {"items": items}), Call("note", {"text": "the key is 42"})]),
        Reply(calls=[Call("append_line", {"line": "x"}), Call("look_up", {"topic": "moon"})]),
        *[
            Reply(calls=[Call("big", {"characters": 4000 + i})], reasoning=f"r{i}")
            for i in range(8)
        ],
        Reply("the end"),
    ]
    given = [tools.plan, tools.note, tools.append_line, tools.look_up, tools.big]
    return state_of(make_agent, replies, given)


def test_dropping_keeps_system_task_plan_notes_sources_and_ledger(state: RunState):
    view = View(dropped_before=len(state.messages) - 1, carry=carry_text(state, 22, "S!", 2000))
    shown = Renderer(state).render(view)
    assert [message["role"] for message in shown] == ["system", "user", "user", "assistant"]
    assert shown[0]["content"] == state.system_prompt
    assert shown[1] is state.messages[0]
    carry = shown[2]["content"]
    for part in (
        "S!",
        "[active] first thing",
        "the key is 42",
        "[ev:",
        "append_line(line=x) -> ok",
    ):
        assert part in carry


def test_hiding_keeps_calls_and_the_latest_rounds(state: RunState):
    view = View(hidden_before=len(state.messages) - 3)
    shown = Renderer(state).render(view)
    assert sum(message.get("content") == HIDDEN for message in shown) == 11
    assert shown[-2]["content"].startswith("HEAD")
    assert all(
        m.get("tool_calls") for m in shown if m["role"] == "assistant" and m is not shown[-1]
    )


def test_reasoning_goes_back_within_the_chain_only(make_agent: MakeAgent):
    tape = [
        Reply(reasoning="A", calls=[Call("read_log", {})]),
        Reply("one", reasoning="B"),
        Reply(reasoning="C", calls=[Call("read_log", {})]),
        Reply("two", reasoning="D"),
    ]
    agent = make_agent(tape, [tools.read_log])
    first = agent.run("first")
    agent.run("second", resume=first.run)
    sent = [m.get("reasoning_content") for m in agent.model.prompts[-1] if m["role"] == "assistant"]
    assert sent == [None, None, "C"]


def test_the_ledger_puts_side_effects_first():
    calls = [Executed(i, "read", {"path": f"f{i}"}, "ok", False) for i in range(100)]
    calls[3] = Executed(3, "write", {"path": "important"}, "ok", True)
    text = ledger_text(calls, 120)
    assert "write(path=important)" in text
    assert "f99" in text
    assert "f5)" not in text
    assert "(not listed: read x" in text
    assert estimate_text(text) < 180


# --- no compaction in vain ------------------------------------------------------------------------


def test_keep_ends_honestly(make_agent: MakeAgent):
    tape = [Reply(calls=[Call("big", {"characters": 12_000 + i})]) for i in range(50)]
    agent = make_agent(tape, [tools.big], window=16_000, context="keep")
    result = agent.run("t")
    assert result.reason == "context"
    assert "--context-strategy" in result.detail


def test_a_failed_summary_fails_over(make_agent: MakeAgent):
    """An empty summary frees nothing, so the ledger stands in."""

    sizes = iter(range(9000, 9012))

    def tape(messages, declared):
        if "Write the notes" in str(messages[0]["content"]):
            return Reply(" ")
        size = next(sizes, None)
        return Reply("enough") if size is None else Reply(calls=[Call("big", {"characters": size})])

    agent = make_agent(tape, [tools.big], window=16_000, context="summarise")
    result = agent.run("t")
    history = read_journal(find_run(result.run, agent.home))
    used = {r.event.strategy for r in history.records if isinstance(r.event, Compacted)}
    assert result.ok
    assert used == {"discard"}


def test_user_messages_alone_can_overflow(make_agent: MakeAgent):
    agent = make_agent([Reply("x")], window=8000)
    result = agent.run("word " * 10_000)
    assert result.reason == "context"


def test_an_endpoint_that_refuses_even_little_is_an_honest_end(make_agent: MakeAgent):
    agent = make_agent([Refused("maximum context length", kind="context")])
    assert agent.run("t").reason == "context"


async def test_a_summary_is_charged(make_agent: MakeAgent):
    def tape(messages, declared):
        if "Write the notes" in str(messages[0]["content"]):
            return Reply("the summary of it all")
        turns = sum(message["role"] == "assistant" for message in messages)
        if any("the summary of it all" in str(message["content"]) for message in messages):
            return Reply("went on")
        return Reply(calls=[Call("big", {"characters": 9000 + turns})])

    agent = make_agent(tape, [tools.big], window=16_000, context="summarise")
    result = await agent.arun("t")
    events = [r.event for r in read_journal(find_run(result.run, agent.home)).records]
    (compacted,) = [event for event in events if isinstance(event, Compacted)]
    assert result.answer == "went on"
    assert compacted.usage.prompt_tokens > 1000
    assert compacted.tokens_after < TARGET * 16_000


def test_a_resumed_run_has_the_same_view(make_agent: MakeAgent, home):
    def tape(messages, declared):
        turns = sum(message["role"] == "assistant" for message in messages)
        return Reply(calls=[Call("big", {"characters": 6000 + turns})])

    agent = make_agent(tape, [tools.big], window=16_000, budget=Budget(steps=14))
    result = agent.run("t")
    before = fold(read_journal(find_run(result.run, home)).records)
    assert before.view.hidden_before > 0
    prompt = agent.model.prompts[-1]
    after = fold(read_journal(find_run(result.run, home)).records)
    shown = Renderer(after).render(after.view)
    assert shown[: len(prompt)] == prompt


def test_unknown_strategies_are_refused(make_agent: MakeAgent):
    with pytest.raises(UsageError, match="hide"):
        chain("forget")
    with pytest.raises(UsageError):
        make_agent([], context="forget")


# --- counting -------------------------------------------------------------------------------------


def test_the_estimate_learns_from_the_endpoint():
    counter = TokenCounter(ScriptedModel([]))
    messages = [{"role": "user", "content": "word " * 1000}]
    first = counter.prompt(messages, [])
    counter.calibrate(first, int(first * 1.5))
    assert counter.prompt(messages, []) == pytest.approx(first * 1.5, rel=0.01)
    counter.calibrate(first, 10**9)
    assert counter.prompt(messages, []) <= 3.0 * first


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [("hello world, this is text", 5, 8), ("你好，世界", 4, 6), ("", 0, 0), ("a", 1, 1)],
)
def test_estimates(text, low, high):
    assert low <= estimate_text(text) <= high


# --- recall ---------------------------------------------------------------------------------------


async def test_recall_finds_what_was_hidden(state: RunState, workspace):
    recall = Recall(state)
    context = ToolContext(workspace=workspace)
    found = await recall.run({"query": "all about moon"}, context)
    assert "All about moon" in found.content
    again = await recall.run({"call_id": state.messages[-2]["tool_call_id"]}, context)
    assert again.content.startswith("HEAD")
    assert (await recall.run({"call_id": "nope"}, context)).is_error
    assert "Nothing" in (await recall.run({"query": "zebra"}, context)).content


def test_plan_items_round_trip():
    assert PlanItem(text="x").status == "open"
    assert (Usage(prompt_tokens=1) + Usage(completion_tokens=2)).total_tokens == 3
