"""Puts the questions of a suite to a model, several at a time, and writes down every answer.

An exam's folder holds `exam.json` (what is asked of whom), `results.jsonl` (a line an answer,
written when it is there) and `transcripts/` (each conversation). Run again with the same folder, an
interrupted exam goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from perilune.agent.endings import ModelFailed
from perilune.errors import UsageError
from perilune.events import Usage
from perilune.exam.suites.suite import Examinee, Outcome, Question, Suite
from perilune.sandbox import SandboxKind, open_sandbox
from perilune.world.seed import Seed, Split

MANIFEST, RESULTS, TRANSCRIPTS = "exam.json", "results.jsonl", "transcripts"


class Manifest(msgspec.Struct, kw_only=True, frozen=True):
    """What is asked of whom; an exam is resumed only with the same."""

    suite: str
    version: str
    model: str
    categories: list[str]
    limit: int | None
    seed: int
    samples: int = 1
    max_steps: int = 60


class Result(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line of `results.jsonl`."""

    id: str
    category: str
    passed: bool
    score: float
    answer: str
    reason: str = ""
    sample: int = 0
    steps: int = 1
    seconds: float = 0.0
    usage: Usage = msgspec.field(default_factory=Usage)


Progress = Callable[[int, int, int], None]
"""Told answers so far, questions in all, and right answers so far."""


@dataclass(frozen=True, slots=True)
class Exam:
    """A finished exam."""

    manifest: Manifest
    results: list[Result]


def choose(
    suite: Suite, categories: Sequence[str], limit: int | None, seed: int
) -> list[tuple[str, int]]:
    """Which questions are asked: evenly from the categories, which of each by the seed."""
    orders: list[list[tuple[str, int]]] = []
    for category in categories:
        size = suite.size(category)
        if size is None:
            if limit is None:
                raise UsageError(
                    f"there is no end of questions in {category}", remedy="Give a --limit."
                )
            size = -(-limit // len(categories))
            order = list(range(size))
        else:
            order = list(range(size))
            if limit is not None:
                Seed(Split.EXAM, seed).stream(f"exam {suite.name} {category}").shuffle(order)
        orders.append([(category, index) for index in order])
    longest = max(map(len, orders), default=0)
    chosen = [order[at] for at in range(longest) for order in orders if at < len(order)]
    return chosen if limit is None else chosen[:limit]


def plan(
    suite: Suite,
    model: str,
    *,
    categories: Sequence[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    samples: int = 1,
    max_steps: int = 60,
) -> Manifest:
    """The manifest of an exam, with the suite's defaults. Raises UsageError for unknown names."""
    known = suite.categories()
    for each in categories or ():
        if each not in known:
            raise UsageError(
                f"{suite.name} has no category {each!r}", remedy=f"It has: {', '.join(known)}."
            )
    return Manifest(
        suite=suite.name,
        version=suite.version(),
        model=model,
        categories=list(dict.fromkeys(categories or suite.default_categories())),
        limit=suite.default_limit if limit is None else limit,
        seed=seed,
        samples=samples,
        max_steps=max_steps,
    )


async def run_exam(
    suite: Suite,
    manifest: Manifest,
    examinee: Examinee,
    folder: Path,
    *,
    at_once: int = 4,
    sandbox: SandboxKind = "bubblewrap",
    progress: Progress | None = None,
) -> Exam:
    """Put all questions that have no answer yet. The folder is made where it is not there.

    Raises ModelFailed where the model stays silent: what it did not hear is not held against it,
    and the next call goes on. Raises UsageError where the folder holds another exam.
    """
    open_folder(folder, manifest)
    results = read_results(folder)
    known = {(each.id, each.sample) for each in results}
    asked = [
        (suite.question(category, index, manifest.seed), sample)
        for category, index in choose(suite, manifest.categories, manifest.limit, manifest.seed)
        for sample in range(manifest.samples)
    ]
    waiting = [
        (question, sample) for question, sample in asked if (question.id, sample) not in known
    ]
    if waiting and suite.needs_sandbox and examinee.sandbox is None:
        examinee = replace(examinee, sandbox=open_sandbox(sandbox))
    examinee = replace(examinee, max_steps=manifest.max_steps)
    right = sum(each.passed for each in results)
    queue = iter(waiting)

    async def work() -> None:
        nonlocal right
        for question, sample in queue:
            began = time.monotonic()
            outcome = await question.put(examinee)
            result = _result(question, sample, outcome, time.monotonic() - began)
            _keep(folder, result, outcome)
            results.append(result)
            right += result.passed
            if progress is not None:
                progress(len(results), len(asked), right)

    if progress is not None:
        progress(len(results), len(asked), right)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(waiting))):
                group.create_task(work())
    except ExceptionGroup as failures:
        first = failures.exceptions[0]
        if not isinstance(first, ModelFailed):
            raise first from None
        raise ModelFailed(
            f"the exam stopped after {len(results)} of {len(asked)} answers: {first.message}",
            remedy=f"{first.remedy} The same command with --out {folder} goes on.".strip(),
        ) from None
    finally:
        await suite.close()
    place = {(question.id, sample): at for at, (question, sample) in enumerate(asked)}
    results.sort(key=lambda each: place[each.id, each.sample])
    return Exam(manifest, results)


def open_folder(folder: Path, manifest: Manifest) -> None:
    """Begin an exam in a folder, or see that it is the one that goes on."""
    path = folder / MANIFEST
    if path.exists():
        kept = read_manifest(folder)
        if kept != manifest:
            raise UsageError(
                f"{folder} holds another exam: {_difference(kept, manifest)}",
                remedy="Give another --out, or the options of that exam.",
            )
        return
    (folder / TRANSCRIPTS).mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def read_manifest(folder: Path) -> Manifest:
    """What is asked in an exam's folder. Raises UsageError where there is none."""
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"{folder} holds no exam: {error}") from None


def read_results(folder: Path) -> list[Result]:
    """All answers that are there. A last line that was cut off in writing is removed."""
    path = folder / RESULTS
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    try:
        return [msgspec.json.decode(line, type=Result) for line in whole.splitlines()]
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} is damaged: {error}") from None


def _keep(folder: Path, result: Result, outcome: Outcome) -> None:
    """The transcript first, so that every answer that counts has one."""
    name = re.sub(r"[^\w.-]", "_", result.id)
    path = folder / TRANSCRIPTS / f"{name}.{result.sample}.json"
    transcript = {"messages": list(outcome.messages), "tools": list(outcome.tools)}
    path.write_text(json.dumps(transcript, ensure_ascii=False, indent=1), "utf-8", "replace")
    with (folder / RESULTS).open("ab") as file:
        file.write(msgspec.json.encode(result) + b"\n")


def _result(question: Question, sample: int, outcome: Outcome, seconds: float) -> Result:
    return Result(
        id=question.id,
        category=question.category,
        passed=outcome.passed,
        score=outcome.score,
        answer=outcome.answer,
        reason=outcome.reason,
        sample=sample,
        steps=outcome.steps,
        seconds=round(seconds, 3),
        usage=outcome.usage,
    )


def _difference(kept: Manifest, wanted: Manifest) -> str:
    fields = [
        f"{name} is {getattr(kept, name)!r} there and {getattr(wanted, name)!r} here"
        for name in kept.__struct_fields__
        if getattr(kept, name) != getattr(wanted, name)
    ]
    return "; ".join(fields)
