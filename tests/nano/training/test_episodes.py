"""nano's episodes: right, learnable, and what the real loop makes of the same turns."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from perilune.agent.agent import Agent
from perilune.agent.models.scripted import Reply, ScriptedModel
from perilune.errors import UsageError
from perilune.nano.agent import nano_agent
from perilune.nano.tools import compact_tools
from perilune.nano.training.calculator import shown_value
from perilune.nano.training.episode import play
from perilune.nano.training.facts import facts_of_seed
from perilune.nano.training.mixture import KIND_WEIGHTS, episode
from perilune.nano.training.policy import POLICIES, UnsolvableError, seen
from perilune.world.families import generate_task
from perilune.world.seed import Seed, Split

SIZES = {"arithmetic": 3, "comparison": 4, "selection": 3}


@pytest.mark.parametrize("family", POLICIES)
def test_the_policy_of_a_family_is_right(family: str):
    solved = 0
    for index in range(60):
        seed = Seed(Split.TRAIN, index)
        task = generate_task(seed, family, size=SIZES.get(family))
        try:
            played = play(task.prompt, POLICIES[family](task), facts_of_seed(seed))
        except UnsolvableError:
            continue
        verdict = task.verify(played.answer)
        assert verdict.passed, (task.prompt, played.answer, task.answer, verdict.reason)
        solved += 1
    assert solved >= 55


def test_episodes_are_a_pure_function_of_the_index():
    for index in (3, 17, 2**45):
        assert episode(index) == episode(index)
    assert episode(3) != episode(4)


def test_every_kind_comes_and_every_value_was_read_before_it_is_said():
    kinds: Counter[str] = Counter()
    for index in range(150):
        messages = episode(index).messages
        read = "".join(str(each["content"]) for each in messages[:-1])
        answer = str(messages[-1]["content"])
        called = any("tool_calls" in each for each in messages)
        kinds["called" if called else "said"] += 1
        for word in answer.replace(",", " ").split():
            if called and any(letter.isdigit() for letter in word):
                assert word in read, (answer, read)
    assert min(kinds["called"], kinds["said"]) > 15


def test_a_curriculum_chooses_kinds():
    only = {**dict.fromkeys(KIND_WEIGHTS, 0), "drill": 1}
    for index in range(20):
        assert len(episode(index, only).messages) == 2


def test_faults_are_met_by_one_more_try_and_then_said():
    seed = Seed(Split.TRAIN, 5)
    task = generate_task(seed, "lookup")
    store = facts_of_seed(seed)
    recovered = play(task.prompt, POLICIES["lookup"](task), store, {0: "Error: connection reset"})
    assert task.verify(recovered.answer).passed
    assert "Try once more" in str(recovered.messages[3]["reasoning_content"])
    fault = {0: "Error: connection reset", 1: "Error: connection reset"}
    given_up = play(task.prompt, POLICIES["lookup"](task), store, fault)
    assert given_up.answer == "I could not look it up: the tool failed."


def test_the_calculator_shows_what_python_shows():
    for code in (
        "1 + 2 * 3",
        "round((1 + 2) / 7, 2)",
        "max((2, 'Bo'), (10, \"N'x\"))",
        "sorted([(2, 'a'), (1, 'b')], reverse=True)",
        "sorted([(2, 'a'), (1, 'b')])[-2]",
        "[n for x, n in [(2, 'a'), (1, 'b')] if x > 1]",
        "sum(x > 5 for x in (3, 9, 11))",
        "max(3, -2) - min(3, -2)",
        "7 / 2",
    ):
        assert shown_value(code) == repr(eval(code))  # the very text of this test
    for code in (
        "__import__('os')",
        "open('x')",
        "(1).real",
        "1 if 2 else 3",
        "1 / 0",
        "f(2)",
        "x",
    ):
        with pytest.raises(UsageError):
            shown_value(code)


async def test_the_real_loop_writes_the_same_messages(tmp_path: Path):
    """Tools, template and loop are those that nano is served with; only the model is a tape."""
    for family in ("lookup", "hops", "comparison", "unanswerable", "arithmetic"):
        seed = Seed(Split.TRAIN, 11)
        task = generate_task(seed, family, size=SIZES.get(family))
        store = facts_of_seed(seed)
        expected = play(task.prompt, POLICIES[family](task), store).messages
        tape = [_reply(message) for message in expected if message["role"] == "assistant"]
        model = ScriptedModel(tape)
        agent = nano_agent(model, store, workspace=tmp_path, home=tmp_path / "home")
        result = await agent.arun(task.prompt)
        assert result.ok, result.detail
        assert result.answer == expected[-1]["content"]
        results = [m["content"] for m in model.prompts[-1] if m["role"] == "tool"]
        assert results == [m["content"] for m in expected if m["role"] == "tool"]


def test_the_tools_of_training_and_of_a_run_are_declared_alike(tmp_path: Path):
    agent: Agent = nano_agent(ScriptedModel([Reply("x")]), workspace=tmp_path)
    assert [tool.name for tool in agent.tools] == [tool.name for tool in compact_tools()]


def test_lines_of_results_are_read_back():
    (fact,) = seen("Papua New Guinea.area = 462840 km2 (2020) [ev:1a2b]")
    assert (fact.entity, fact.attribute, fact.number, fact.year, fact.id) == (
        "Papua New Guinea", "area", "462840", 2020, "ev:1a2b",
    )  # fmt: skip
    assert seen("Not found. Chad has: area.") == []


def _reply(message: dict) -> Reply:
    from perilune.agent.models.scripted import Call

    calls = [
        Call(each["function"]["name"], each["function"]["arguments"], each["id"])
        for each in message.get("tool_calls", ())
    ]
    return Reply(message["content"], calls, message["reasoning_content"])
