"""The suite `reasoning-gym`: generated puzzles, scored by the package's own scorers in the sandbox.

Several of those scorers evaluate an answer as an expression, so they never see one in this process.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from perilune.agent.models.chat_model import Message, ModelError
from perilune.agent.tools.python.session import PythonSession
from perilune.errors import UsageError
from perilune.exam.suites.ask import ask
from perilune.exam.suites.suite import Examinee, Outcome, Question, require
from perilune.sandbox import Sandbox

INSTALL = "'perilune[exam]'"
FORM = "Think step by step, then give the answer alone between <answer> and </answer>."
FROM_FILES = frozenset(("codeio", "composite", "rush_hour"))
"""Not asked by default: taken from a file (so not fresh), or made of others."""
UNSTABLE = frozenset(("isomorphic_strings", "polynomial_multiplication", "ransom_note"))
"""Never asked: their puzzles depend on Python's hash seed too, and differ between processes."""
RIGHT = 0.999
"""From this score on an answer counts as right."""
_START_S, _SCORE_S = 120.0, 60.0
_SHOWN = 2000
_REMEDY = "PERILUNE_SANDBOX_PYTHON can name a Python that has the same version."

_SCORER = r"""
import reasoning_gym
def _score(name, index, seed, question, answer):
    data = reasoning_gym.create_dataset(name, size=index + 1, seed=seed)
    entry = data[index]
    score = float(data.score_answer(answer, entry)) if entry["question"] == question else "other"
    print("\nscore", score)  # a line of its own: some puzzles print while they are made
"""


class ReasoningGymSuite:
    """Puzzles of all kinds that the package registers; fresh ones for each seed."""

    name = "reasoning-gym"
    about = "generated puzzles: algebra, logic, graphs, games ...; the seed makes them fresh"
    needs_sandbox = True
    default_limit = 200

    def __init__(self) -> None:
        self._scorer: Scorer | None = None

    def version(self) -> str:
        return f"reasoning-gym {require('reasoning-gym', INSTALL)}"

    def categories(self) -> Sequence[str]:
        return names()

    def default_categories(self) -> Sequence[str]:
        return [name for name in names() if name not in FROM_FILES]

    def size(self, category: str) -> int | None:
        return None

    def question(self, category: str, index: int, seed: int) -> Question:
        async def put(examinee: Examinee) -> Outcome:
            if self._scorer is None:
                self._scorer = Scorer(examinee.where_code_runs())
            return await _put(examinee, self._scorer, category, index, seed)

        return Question(f"{category}/{seed}-{index}", category, put)

    async def close(self) -> None:
        if self._scorer is not None:
            await self._scorer.close()
            self._scorer = None


@cache
def names() -> tuple[str, ...]:
    """The datasets that the package registers, without the unstable ones."""
    require("reasoning-gym", INSTALL)
    from reasoning_gym.factory import DATASETS

    return tuple(sorted(set(DATASETS) - UNSTABLE))


def entry_of(category: str, index: int, seed: int) -> dict[str, Any]:
    """One puzzle: question, answer, metadata."""
    import reasoning_gym

    data = reasoning_gym.create_dataset(category, size=index + 1, seed=seed)
    entry: dict[str, Any] = data[index]
    return entry


class Scorer:
    """The package's scorers, in a Python that lives in the sandbox for the length of an exam."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="perilune-exam-")
        self._session = PythonSession(sandbox, Path(self._folder.name), shown=_SHOWN)
        self._lock = asyncio.Lock()
        self._started = False

    async def score(
        self, category: str, index: int, seed: int, question: str, answer: str | None
    ) -> float:
        """0 to 1; a scorer that raises or hangs on an answer gives 0.

        Raises UsageError where the sandbox's Python lacks the package, or has another version.
        """
        async with self._lock:
            if not self._started:
                begun = await self._session.run(_SCORER, _START_S)
                if not begun.ok:
                    why = begun.stderr.text().strip().splitlines()[-1:]
                    raise UsageError(f"the sandbox has no reasoning-gym: {why}", remedy=_REMEDY)
                self._started = True
            arguments = ", ".join(map(repr, (category, index, seed, question, answer)))
            cell = await self._session.run(f"_score({arguments})", _SCORE_S)
            if cell.lost:
                self._started = False
            said = cell.stdout.text().rpartition("\nscore ")[2].strip() if cell.ok else ""
            if said == "other":
                raise UsageError(
                    f"the sandbox's reasoning-gym makes another puzzle of {category}",
                    remedy=_REMEDY,
                )
            try:
                return min(1.0, max(0.0, float(said)))
            except ValueError:
                return 0.0

    async def close(self) -> None:
        await self._session.close()
        self._folder.cleanup()


def final_answer(text: str) -> str | None:
    """What stands between the last pair of answer tags; None where there is none."""
    _, begin, rest = text.rpartition("<answer>")
    if not begin:
        return None
    return rest.partition("</answer>")[0].strip()


async def _put(examinee: Examinee, scorer: Scorer, category: str, index: int, seed: int) -> Outcome:
    entry = await asyncio.to_thread(entry_of, category, index, seed)
    content = f"{entry['question']}\n\n{FORM}"
    messages: list[Message] = [{"role": "user", "content": content}]
    try:
        reply = await ask(examinee, messages)
    except ModelError as error:
        return Outcome(False, 0.0, "", error.message, messages)
    answer = final_answer(reply.content)
    score = await scorer.score(category, index, seed, entry["question"], answer)
    passed = score >= RIGHT
    if passed:
        reason = ""
    elif answer is None:
        reason = "there is no answer between the tags"
    else:
        reason = f"scored {score:.2f}; one right answer is {json.dumps(entry['answer'])[:150]}"
    return Outcome(
        passed=passed,
        score=score,
        answer=answer or "",
        reason=reason,
        messages=[*messages, reply.message()],
        usage=reply.usage,
    )
