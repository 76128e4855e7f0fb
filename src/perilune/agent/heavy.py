"""Heavy effort: several trajectories at once, each a run of its own, then a reflective merge.

Each trajectory has its own journal and its own copy of the workspace. The merge is the run itself:
the model is shown all answers with their verdicts and writes the final one, without tools. What
settles a tie, and stands in when the merge fails its checks, is the verified majority: of the
answers that passed their checks, the one that most of them gave. The files of the workspace are
those of that trajectory. (Kimi K2 Thinking's heavy mode: eight trajectories, model card.)
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from perilune.agent.evidence.store import RunEvidence
from perilune.agent.journal.state import RunState
from perilune.agent.loop.handing_over import taken
from perilune.agent.loop.result import RunResult
from perilune.agent.loop.rules import RunRules
from perilune.agent.loop.run import Fallback, Run
from perilune.agent.loop.session import Session
from perilune.agent.tool_registry import ToolRegistry
from perilune.agent.workspace.snapshot import SnapshotStore
from perilune.agent.workspace.working_copy import Changes, WorkingCopy
from perilune.events import Content, Event, ToolProgress, TrajectoryFinished

TRAJECTORIES = 8
MERGE_STEPS = 6
_ANSWER_CHARACTERS = 8_000
_PROBLEMS_SHOWN = 3


@dataclass(slots=True)
class Trajectory:
    """One of the runs that are merged. `changes` is what it did to its copy of the workspace."""

    number: int
    result: RunResult
    state: RunState
    copy: WorkingCopy | None = None
    changes: Changes | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What makes two trajectories' results the same."""
        return normal_answer(self.result.answer), self.changes.patch if self.changes else ""


async def run_heavy(
    session: Session,
    task: Content,
    *,
    trajectories: int = TRAJECTORIES,
    on_trajectories: Callable[[list[Trajectory]], None] | None = None,
) -> RunResult:
    """Work on a task in several trajectories and merge them; `session` is the run that merges.

    Usage and steps of the result count all of them. `on_trajectories` is told them before the
    merge.
    """
    done: list[Trajectory] = []

    async def first(run: Run) -> None:
        done.extend(await roll_out(session.agent, run, task, trajectories))
        if on_trajectories is not None:
            on_trajectories(done)
        await prepare_merge(session.agent, run, done)

    result = await session.run(task, before=first)
    chosen = verified_majority(done)
    if chosen is not None and not result.answer:
        # The merge could not be asked for, so the run has failed; but its work is not lost.
        answer, verdict = chosen.result.answer, chosen.result.verdict
        result = dataclasses.replace(result, answer=answer, verdict=verdict)
    usage = sum((each.result.usage for each in done), result.usage)
    steps = sum(each.result.steps for each in done) + result.steps
    return dataclasses.replace(result, usage=usage, steps=steps)


async def roll_out(agent: RunRules, run: Run, task: Content, count: int) -> list[Trajectory]:
    """Run the trajectories side by side; one that fails is one less."""
    store = SnapshotStore(agent.home)
    origin = run.copy.origin if run.copy else run.workspace
    copies: list[WorkingCopy | None] = [None] * count
    if agent.tools:
        for number in range(count):
            place = run.folder / "trajectories" / str(number + 1)
            copies[number] = await asyncio.to_thread(
                WorkingCopy.make, store, origin, place, f"{run.id}-t{number + 1}"
            )
    try:
        works = [_one(agent, run, task, n + 1, copy) for n, copy in enumerate(copies)]
        ended = await run.guarded(asyncio.gather(*works, return_exceptions=True))
    finally:
        for copy in copies:
            if copy is not None:
                run.closers.append(partial(asyncio.to_thread, copy.remove))
    found = [each for each in ended if isinstance(each, Trajectory)]
    if not found:
        raise next(each for each in ended if isinstance(each, BaseException))
    return found


async def prepare_merge(agent: RunRules, run: Run, done: Sequence[Trajectory]) -> None:
    """Put the trajectories before the model, and their files and findings into the run."""
    evidence = RunEvidence(run.folder / "evidence", run.stage)
    for each in done:
        own = RunEvidence(run.folder.parent / each.result.run / "evidence", _nowhere)
        for kept in each.state.evidence.values():
            if kept.id not in evidence:
                text, digits = own.text(kept.id), len(kept.id) - len("ev:")
                evidence.keep(kept.source, text, title=kept.title, digits=digits)
        run.stage(
            TrajectoryFinished(
                run=each.result.run,
                number=each.number,
                reason=each.result.reason,
                answer=each.result.answer,
                passed=each.result.ok,
                usage=each.result.usage,
            )
        )
    run.others = [each.state for each in done]
    chosen = verified_majority(done)
    files = ""
    if chosen is not None:
        run.fallback = Fallback(chosen.result.answer, chosen.result.verdict, chosen.number)
        if chosen.changes and chosen.copy is not None:
            files = await _take_files(agent, run, chosen)
    answers = "\n\n".join(_shown(each, run.context.window, len(done)) for each in done)
    majority = f"answer {chosen.number}" if chosen else "there is none"
    run.tools = ToolRegistry()
    run.budget = dataclasses.replace(run.budget, steps=MERGE_STEPS)
    words = Path(__file__).with_name("merge.md").read_text("utf-8").strip()
    run.say(words.format(count=len(done), majority=majority, files=files, answers=answers))
    await run.durable()


def verified_majority(done: Sequence[Trajectory]) -> Trajectory | None:
    """Of the results that passed their checks, the one that most of them gave.

    Ties: the one with the fewest tokens, then the first. None when no result passed.
    """
    groups: dict[tuple[str, str], list[Trajectory]] = {}
    for each in done:
        if each.result.ok:
            groups.setdefault(each.key, []).append(each)
    if not groups:
        return None

    def rank(group: list[Trajectory]) -> tuple[int, int, int]:
        cheapest = min(each.result.usage.total_tokens for each in group)
        return -len(group), cheapest, group[0].number

    best = min(groups.values(), key=rank)
    return min(best, key=lambda each: (each.result.usage.total_tokens, each.number))


_MARKED = re.compile(r"^\W*(?:the )?(?:final )?answer(?: is)?\W*[:=]\s*(.+)$", re.I | re.M | re.S)


def normal_answer(answer: str) -> str:
    """An answer without what does not change it: citations, marks, case, marks of thousands."""
    marked = _MARKED.search(answer)
    text = (marked[1] if marked else answer).casefold()
    text = re.sub(r"\[ev:[^\]]*\]", " ", text)
    text = re.sub(r"(?<=\d)[,\s](?=\d{3}\b)", "", text)
    text = re.sub(r"(\.\d*?)0+(?=\D|$)", r"\1", text)
    return " ".join(re.findall(r"[-−]?\d+(?:\.\d+)?|[^\W_]+", text))


async def _one(
    agent: RunRules, run: Run, task: Content, number: int, copy: WorkingCopy | None
) -> Trajectory:
    name = f"t{number}"
    sampling = agent.sampling
    if sampling.seed is not None:
        sampling = dataclasses.replace(sampling, seed=sampling.seed + number)
    child = agent.copy_with(
        workspace=copy.folder if copy else run.workspace,
        sampling=sampling,
        name=name,
        parent_run=run.id,
        snapshot=False,
        on_record=None,
    )
    async with Session(child) as session:
        run.show(ToolProgress(call_id=name, text=f"trajectory {number} begins: {session.id}"))
        result = await session.run(task)
        state = session.state
    if state.copy is not None:  # its own copy of the copy; nobody goes on with a trajectory
        await asyncio.to_thread(shutil.rmtree, Path(state.copy.folder).parent, True)
    changes = None
    if copy is not None:
        changes = await asyncio.to_thread(copy.changes, f"{run.id}-{name}-after")
    words = f"trajectory {number}: {result.reason}, {result.steps} steps"
    run.show(ToolProgress(call_id=name, text=words))
    return Trajectory(number, result, state, copy, changes)


async def _take_files(agent: RunRules, run: Run, chosen: Trajectory) -> str:
    """Put the chosen trajectory's changes where the run works; words on them for the model."""
    assert chosen.changes is not None
    assert chosen.copy is not None
    names = ", ".join(chosen.changes.files[:12])
    if run.copy is None:
        if not run.state.snapshot_before:
            run.append(taken(chosen.copy.base))
        conflicts = await asyncio.to_thread(
            chosen.copy.apply, chosen.changes, f"{run.id}-before-apply"
        )
        if conflicts:
            return f"The files could not be taken over, for {', '.join(conflicts[:5])} changed."
    else:
        entries = {path: chosen.changes.after.entries.get(path) for path in chosen.changes.paths}
        await asyncio.to_thread(run.copy.store.put, run.copy.folder, entries)
    return f"The files of the workspace are those of answer {chosen.number}: {names}.\n"


def _shown(each: Trajectory, window: int | None, count: int) -> str:
    """One answer with its verdict, cut so that all of them fit half of the window."""
    most = _ANSWER_CHARACTERS
    if window:
        most = min(most, 3 * window // (2 * count))
    answer = each.result.answer.strip() or "(none)"
    if len(answer) > most:
        answer = f"{answer[: most // 2]}\n[...]\n{answer[-most // 2 :]}"
    verdict = each.result.verdict
    if each.result.ok:
        names = ", ".join(check.name for check in verdict.checks) if verdict else ""
        said = f"passed its checks{f' ({names})' if names else ''}"
    else:
        problems = "; ".join(verdict.problems[:_PROBLEMS_SHOWN]) if verdict else ""
        said = f"did not pass: {problems or each.result.reason}"
    return f"## Answer {each.number} ({said})\n{answer}"


def _nowhere(event: Event) -> None:
    pass
