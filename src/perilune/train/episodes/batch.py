"""Many episodes: several at a time in one process, and several processes where asked for."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from perilune.processes import safe_spawning
from perilune.sandbox import Sandbox, SandboxKind, open_sandbox
from perilune.train.episodes.episode import Episode
from perilune.train.episodes.record import Plan, Rejected, record_episode
from perilune.world.seed import Seed

Wanted = tuple[Seed, str]
"""A seed and a family."""

_CHUNK = 25
"""Tasks that a process is given at a time."""


async def record_episodes(
    wanted: Iterable[Wanted],
    *,
    size: int | None = None,
    plan: Plan | None = None,
    sandbox: Sandbox | None = None,
    at_once: int = 4,
) -> AsyncIterator[Episode | Rejected]:
    """Play tasks, `at_once` side by side, and give their episodes in the order of the tasks."""
    waiting: list[asyncio.Task[Episode | Rejected]] = []
    try:
        for seed, family in wanted:
            work = record_episode(seed, family, size=size, plan=plan, sandbox=sandbox)
            waiting.append(asyncio.create_task(work))
            if len(waiting) >= at_once:
                yield await waiting.pop(0)
        while waiting:
            yield await waiting.pop(0)
    finally:
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def record_all(
    wanted: Iterable[Wanted],
    *,
    size: int | None = None,
    plan: Plan | None = None,
    sandbox: SandboxKind = "bubblewrap",
    jobs: int = 1,
) -> Iterator[Episode | Rejected]:
    """Play tasks in `jobs` processes, and give their episodes in the order of the tasks.

    Raises SandboxError where there is no sandbox of that kind: code is not run without one.
    """
    open_sandbox(sandbox)  # refused here, and not in a process
    tasks = list(wanted)
    chunks = [tasks[start : start + _CHUNK] for start in range(0, len(tasks), _CHUNK)]
    work = partial(_record_chunk, size=size, plan=plan, kind=sandbox)
    if jobs == 1:
        for chunk in chunks:
            yield from work(chunk)
        return
    context = multiprocessing.get_context("spawn")
    with safe_spawning(), ProcessPoolExecutor(jobs, mp_context=context) as pool:
        for episodes in pool.map(work, chunks):
            yield from episodes


def _record_chunk(
    chunk: Sequence[Wanted], *, size: int | None, plan: Plan | None, kind: SandboxKind
) -> list[Episode | Rejected]:
    async def work() -> list[Episode | Rejected]:
        played = record_episodes(chunk, size=size, plan=plan, sandbox=open_sandbox(kind))
        return [episode async for episode in played]

    return asyncio.run(work())
