"""Where sub-agents work: in this process (`LocalBackend`), or on many machines (`cluster/`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from perilune.agent.agent import Agent
from perilune.events import Record
from perilune.swarm.assignment import Assignment, Outcome
from perilune.swarm.limits import SwarmLimits
from perilune.swarm.sub_agent import SubAgent
from perilune.swarm.workspaces import WorkspaceKind


class Backend(Protocol):
    """Works on assignments; given one twice (after a crash), it does it once.

    `work` returns when the assignment has ended and its evidence and files are in `folder`. The
    records of the sub-agent are shown through `observe` as they come.
    """

    async def work(
        self, assignment: Assignment, folder: Path, observe: Callable[[Record], None]
    ) -> Outcome: ...

    async def steer(self, call_id: str, text: str) -> None: ...

    async def stop(self, call_id: str, reason: str) -> None: ...

    async def close(self) -> None: ...


class LocalBackend:
    """All sub-agents in the running event loop, at most `limits.parallel` at once."""

    def __init__(self, worker: Agent, limits: SwarmLimits, workspaces: WorkspaceKind) -> None:
        self._worker = worker
        self._limits = limits
        self._workspaces = workspaces
        self._places = asyncio.Semaphore(limits.parallel)
        self._at_work: dict[str, SubAgent] = {}
        self._early: dict[str, list[tuple[str, str]]] = {}

    async def work(
        self, assignment: Assignment, folder: Path, observe: Callable[[Record], None]
    ) -> Outcome:
        sub_agent = SubAgent(
            self._worker,
            assignment,
            folder,
            workspaces=self._workspaces,
            silence_seconds=self._limits.silence_seconds,
            observe=observe,
        )
        self._at_work[assignment.call_id] = sub_agent
        for verb, words in self._early.pop(assignment.call_id, ()):
            getattr(sub_agent, verb)(words)
        try:
            async with self._places:
                return await sub_agent.work()
        finally:
            del self._at_work[assignment.call_id]

    async def steer(self, call_id: str, text: str) -> None:
        if call_id in self._at_work:
            self._at_work[call_id].steer(text)
        else:  # its intent is on the way to the disk
            self._early.setdefault(call_id, []).append(("steer", text))

    async def stop(self, call_id: str, reason: str) -> None:
        if call_id in self._at_work:
            self._at_work[call_id].stop(reason)
        else:
            self._early.setdefault(call_id, []).append(("stop", reason))

    async def close(self) -> None:
        """Nothing is left open: each sub-agent closes what it opened."""
