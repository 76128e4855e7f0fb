"""Exams are kept, go on where they stopped, and count only what the model heard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from perilune.agent.endings import ModelFailed
from perilune.agent.models.chat_model import Sampling
from perilune.agent.models.retry import RetryPolicy
from perilune.agent.models.scripted import (
    Call,
    HalfStream,
    RateLimited,
    Refused,
    Reply,
    ScriptedModel,
)
from perilune.errors import UsageError
from perilune.exam.suites import ask as asking
from perilune.exam.suites import report
from perilune.exam.suites.ask import ask
from perilune.exam.suites.runner import (
    Exam,
    Manifest,
    choose,
    plan,
    read_manifest,
    read_results,
    run_exam,
)
from perilune.exam.suites.suite import Examinee, Outcome, Question


class Sums:
    """A tiny suite: what is 3 + 4?"""

    name = "sums"
    about = "sums"
    needs_sandbox = False
    default_limit = None
    closed = 0

    def version(self) -> str:
        return "sums 1"

    def categories(self) -> Sequence[str]:
        return ("small", "large", "endless")

    def default_categories(self) -> Sequence[str]:
        return ("small", "large")

    def size(self, category: str) -> int | None:
        return {"small": 4, "large": 8, "endless": None}[category]

    def question(self, category: str, index: int, seed: int) -> Question:
        a, b = (index, seed) if category == "small" else (100 * index, 7)

        async def put(examinee: Examinee) -> Outcome:
            messages = [{"role": "user", "content": f"{a} + {b}"}]
            reply = await ask(examinee, messages)
            right = reply.content == str(a + b)
            return Outcome(
                right,
                float(right),
                reply.content,
                "" if right else "no",
                messages,
                usage=reply.usage,
            )

        return Question(f"{category}/{index}", category, put)

    async def close(self) -> None:
        self.closed += 1


def adds(messages: Any, tools: Any) -> Reply:
    a, b = messages[0]["content"].split(" + ")
    return Reply(str(int(a) + int(b)))


def adds_small(messages: Any, tools: Any) -> Reply:
    reply = adds(messages, tools)
    return reply if int(reply.content) < 100 else Reply("many")


async def sit(says: Any, folder: Path, **options: Any) -> Exam:
    suite = Sums()
    examinee = Examinee(ScriptedModel(says))
    at_once = options.pop("at_once", 4)
    return await run_exam(
        suite, plan(suite, "examinee", **options), examinee, folder, at_once=at_once
    )


async def test_right_and_wrong_are_counted(tmp_path: Path) -> None:
    exam = await sit(adds_small, tmp_path)
    rows = {row.name: row for row in report.rows(exam)}
    assert (rows["small"].questions, rows["small"].rate) == (4, 1.0)
    assert (rows["large"].questions, rows["large"].rate) == (8, 1 / 8)
    assert rows["all"].rate == pytest.approx(5 / 12)
    assert rows["all"].low == pytest.approx(0.1933, abs=1e-3)
    told = report.as_json(exam)
    assert told["rows"][-1]["interval_95"] == [0.1933, 0.6805]
    assert told["suite"] == "sums" and told["tokens"] > 0
    page = report.as_markdown(exam)
    assert "| all | 12 | 41.7% | 19.3% to 68.0% |" in page and "7 wrong answers" in page
    assert "large/7" in page and "41.7%" in report.as_table(exam)
    transcript = json.loads((tmp_path / "transcripts" / "large_7.0.json").read_text())
    assert transcript["messages"][0]["content"] == "700 + 7"


async def test_an_interrupted_exam_goes_on(tmp_path: Path) -> None:
    asked: list[str] = []

    def breaks(messages: Any, tools: Any) -> Any:
        asked.append(messages[0]["content"])
        return adds(messages, tools) if len(asked) <= 5 else Refused("no such key", kind="auth")

    with pytest.raises(ModelFailed, match="stopped after 5 of 12 answers: no such key") as failed:
        await sit(breaks, tmp_path, at_once=1)
    assert str(tmp_path) in failed.value.remedy
    assert len(read_results(tmp_path)) == 5
    # A line that was being written when the power went.
    with (tmp_path / "results.jsonl").open("ab") as file:
        file.write(b'{"id": "large/3", "cate')
    again: list[str] = []

    def goes_on(messages: Any, tools: Any) -> Reply:
        again.append(messages[0]["content"])
        return adds(messages, tools)

    exam = await sit(goes_on, tmp_path)
    assert len(again) == 7 and not set(again) & set(asked[:5])
    assert len(exam.results) == 12 and all(each.passed for each in exam.results)
    ids = [each.id for each in exam.results]
    whole = await sit(adds, tmp_path / "whole")
    assert ids == [each.id for each in whole.results]
    assert await sit(goes_on, tmp_path) and len(again) == 7  # nothing is asked twice


async def test_a_folder_holds_one_exam(tmp_path: Path) -> None:
    await sit(adds, tmp_path, limit=2)
    with pytest.raises(UsageError, match="another exam: seed is 0 there and 1 here"):
        await sit(adds, tmp_path, limit=2, seed=1)
    with pytest.raises(UsageError, match="holds no exam"):
        read_manifest(tmp_path / "transcripts")
    (tmp_path / "results.jsonl").write_text("nonsense\n")
    with pytest.raises(UsageError, match="is damaged"):
        await sit(adds, tmp_path, limit=2)


async def test_samples_give_pass_at_k(tmp_path: Path) -> None:
    count = 0

    def lucky(messages: Any, tools: Any) -> Reply:
        nonlocal count
        count += 1
        return adds(messages, tools) if count % 2 else Reply("hm")

    exam = await sit(lucky, tmp_path, categories=["small"], samples=4, at_once=1)
    assert len(exam.results) == 16
    assert report.pass_at(exam) == {1: 0.5, 2: pytest.approx(5 / 6), 4: 1.0}
    (row, _) = report.rows(exam)
    assert (row.questions, row.rate) == (4, 0.5)  # four questions, not sixteen
    assert "pass@1 50.0%, pass@2 83.3%, pass@4 100.0%" in report.as_table(exam)


async def test_passing_failures_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "RETRY", RetryPolicy(attempts=4, base=0.001))
    suite = Sums()
    attempts = [RateLimited(retry_after=0.01), HalfStream("40"), Reply("0")]
    model = ScriptedModel([attempts])
    exam = await run_exam(
        suite,
        plan(suite, "m", categories=["small"], limit=1),
        Examinee(model),
        tmp_path,
        at_once=1,
    )
    assert exam.results[0].answer == "0" and suite.closed == 1
    with pytest.raises(ModelFailed, match="the model failed 4 times"):
        await ask(Examinee(ScriptedModel([[RateLimited(retry_after=0.001)]])), [{"role": "user"}])


async def test_calls_are_put_together() -> None:
    calls = [Call("f", {"a": 1}), Call("g", "[1]"), Call("h", "")]
    reply = await ask(
        Examinee(ScriptedModel([Reply("so", calls, "hm")]), Sampling()),
        [{"role": "user", "content": "x"}],
    )
    assert [(call.name, call.arguments) for call in reply.calls] == [
        ("f", {"a": 1}),
        ("g", None),
        ("h", {}),
    ]
    message = reply.message()
    assert message["reasoning_content"] == "hm" and len(message["tool_calls"]) == 3
    assert len({call.id for call in reply.calls}) == 3


def test_choosing() -> None:
    suite = Sums()
    assert choose(suite, ["small"], None, 0) == [("small", n) for n in range(4)]
    chosen = choose(suite, ["small", "large"], 10, 5)
    assert len(chosen) == 10 == len(set(chosen))
    assert sum(category == "small" for category, _ in chosen) == 4  # there are no more
    assert choose(suite, ["endless"], 3, 5) == [("endless", n) for n in range(3)]
    with pytest.raises(UsageError, match="no end of questions"):
        choose(suite, ["endless"], None, 0)
    with pytest.raises(UsageError, match="has no category 'huge'"):
        plan(suite, "m", categories=["huge"])
    assert isinstance(plan(suite, "m"), Manifest)
