"""`reasoning-gym`: scored by the package's own scorers, in the sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from perilune.agent.models.scripted import Reply
from perilune.errors import UsageError
from perilune.exam.suites.reasoning_gym import (
    FORM,
    FROM_FILES,
    ReasoningGymSuite,
    Scorer,
    entry_of,
    final_answer,
    names,
)
from perilune.exam.suites.runner import choose, plan, run_exam
from perilune.exam.suites.suite import Examinee
from perilune.sandbox import Sandbox
from tests.exam.suites.conftest import model, sandbox_has

gym = pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")

ASKED = ["chain_sum", "countdown", "spell_backward", "syllogism"]


@pytest.fixture(scope="module")
def with_gym(sandbox: Sandbox) -> Sandbox:
    if not sandbox_has(sandbox, "reasoning_gym"):
        pytest.skip("Python in the sandbox has no reasoning_gym (see PERILUNE_SANDBOX_PYTHON)")
    return sandbox


@pytest.fixture
async def scorer(with_gym: Sandbox) -> AsyncIterator[Scorer]:
    made = Scorer(with_gym)
    yield made
    await made.close()


async def test_who_knows_passes_and_who_guesses_fails(with_gym: Sandbox, tmp_path: Path) -> None:
    suite = ReasoningGymSuite()
    manifest = plan(suite, "examinee", categories=ASKED, limit=8, seed=11)
    entries = {
        entry["question"]: entry
        for category, index in choose(suite, ASKED, 8, 11)
        for entry in [entry_of(category, index, 11)]
    }

    def oracle(messages: Any, tools: Any) -> Reply:
        entry = entries[messages[0]["content"].removesuffix(f"\n\n{FORM}")]
        return Reply(f"I think.\n<answer>\n{entry['answer']}\n</answer>")

    exam = await run_exam(
        suite, manifest, Examinee(model(oracle), sandbox=with_gym), tmp_path / "oracle"
    )
    assert [each.reason for each in exam.results] == [""] * 8
    assert [each.category for each in exam.results] == ASKED * 2
    wrong = model(lambda messages, tools: Reply("<answer>no</answer>"))
    exam = await run_exam(suite, manifest, Examinee(wrong, sandbox=with_gym), tmp_path / "wrong")
    assert not any(each.passed for each in exam.results)
    silent = model(lambda messages, tools: Reply("It is hard."))
    exam = await run_exam(suite, manifest, Examinee(silent, sandbox=with_gym), tmp_path / "silent")
    assert {each.reason for each in exam.results} == {"there is no answer between the tags"}


async def test_scored_as_the_package_scores(scorer: Scorer) -> None:
    """Borderline answers: other forms, parts, spaces, nothing, code."""
    verdicts = set()
    for category in ASKED:
        data = gym.create_dataset(category, size=1, seed=2)
        right = str(data[0]["answer"])
        for answer in (
            right,
            f" {right}",
            f"{right}.",
            right.upper(),
            right[:-1],
            "",
            None,
            f"({right})",
            f"{right} + 0",
            "__import__('os').getcwd()",
        ):
            theirs: float | None
            try:
                theirs = float(data.score_answer(answer, data[0]))
            except Exception:
                theirs = 0.0
            ours = await scorer.score(category, 0, 2, data[0]["question"], answer)
            assert ours == pytest.approx(min(1.0, max(0.0, theirs))), (category, answer)
            verdicts.add(ours)
    assert len(verdicts) > 2


async def test_an_answer_that_is_code_stays_in_the_sandbox(scorer: Scorer, tmp_path: Path) -> None:
    question = entry_of("countdown", 0, 2)["question"]
    target = tmp_path / "made"
    for code in (f"open({str(target)!r}, 'w').close()", "exit()", "(" * 5000):
        assert await scorer.score("countdown", 0, 2, question, code) < 0.5
    assert not target.exists()
    right = str(entry_of("countdown", 0, 2)["answer"])
    assert await scorer.score("countdown", 0, 2, question, right) == 1.0  # it still lives


async def test_a_puzzle_that_prints_is_scored(scorer: Scorer) -> None:
    entry = entry_of("bf", 0, 77)
    assert await scorer.score("bf", 0, 77, entry["question"], str(entry["answer"])) == 1.0


async def test_another_puzzle_is_not_scored(scorer: Scorer) -> None:
    with pytest.raises(UsageError, match="another puzzle"):
        await scorer.score("chain_sum", 0, 2, "What is this?", "1")


def test_what_counts_as_the_answer() -> None:
    assert final_answer("a <answer>1</answer> b <answer> 2 </answer>") == "2"
    assert final_answer("<answer>3") == "3"
    assert final_answer("four") is None


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_every_dataset_scores_its_own_answer(scorer: Scorer) -> None:
    """In this process and in the sandbox the same puzzles are made."""
    assert len(names()) > 90
    failed = []
    for category in names():
        if category in FROM_FILES:
            continue
        entry = entry_of(category, 0, 77)
        if entry["answer"] is None:
            continue  # its scorer takes any solution that holds
        score = await scorer.score(category, 0, 77, entry["question"], str(entry["answer"]))
        if score <= 0.9:
            failed.append((category, score))
    assert failed == []
