"""The orchestrator's side of a cluster: assignments go onto the queue, outcomes come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from perilune.agent.agent import Agent
from perilune.agent.endings import BudgetExceeded
from perilune.agent.journal.journal import FILE_NAME, Journal
from perilune.events import Record
from perilune.swarm.assignment import Assignment, Outcome
from perilune.swarm.cluster.database import Database
from perilune.swarm.cluster.job import QUEUE, VERSION, WORKFLOW, Job, JsonSerializer
from perilune.swarm.limits import SwarmLimits
from perilune.swarm.meter import SharedBudget
from perilune.swarm.workspaces import WorkspaceKind

if TYPE_CHECKING:
    from dbos import DBOSClient

POLL_SECONDS = 0.5
LOST = ("ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
STATUS_EVERY = 20
"""Polls between two looks at what DBOS says of a workflow."""


class ClusterBackend:
    """Sub-agents on other machines, or in other processes of this one.

    `worker` is not used to work, for each machine has its own; its budget says when the tokens of
    the whole are spent.
    """

    def __init__(
        self, worker: Agent, limits: SwarmLimits, workspaces: WorkspaceKind, *, url: str
    ) -> None:
        self._budget = worker.budget
        self._limits = limits
        self._url = url
        self._database = Database(url)
        self._client: DBOSClient | None = None
        self._jobs: dict[str, Job] = {}
        self._early: dict[str, list[tuple[str, str]]] = {}

    async def work(
        self, assignment: Assignment, folder: Path, observe: Callable[[Record], None]
    ) -> Outcome:
        run = folder.parent.parent.name
        job = Job(run=run, assignment=assignment, limits=self._limits)
        self._jobs[assignment.call_id] = job
        try:
            for verb, words in self._early.pop(assignment.call_id, ()):
                await self._say(assignment.call_id, verb, words)
            if await asyncio.to_thread(self._database.outcome, job.workflow) is None:
                await asyncio.to_thread(self._enqueue, job)
            body = await self._follow(job, observe)
        except asyncio.CancelledError:
            # The work goes on, or stops, on its own machine; it is picked up at a resume.
            await asyncio.shield(self.stop(assignment.call_id, "the swarm was stopped"))
            raise
        finally:
            del self._jobs[assignment.call_id]
        await asyncio.to_thread(self._fetch, job, folder)
        return msgspec.json.decode(body, type=Outcome)

    async def steer(self, call_id: str, text: str) -> None:
        await self._say(call_id, "steer", text)

    async def stop(self, call_id: str, reason: str) -> None:
        await self._say(call_id, "stop", reason)

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        if self._client is not None:
            self._client.destroy()
            self._client = None
        self._database.close()

    async def _say(self, call_id: str, verb: str, words: str) -> None:
        job = self._jobs.get(call_id)
        if job is None:  # its intent is on the way to the disk
            self._early.setdefault(call_id, []).append((verb, words))
        else:
            await asyncio.to_thread(self._database.say, job.workflow, verb, words)

    def _enqueue(self, job: Job) -> None:
        """Put a job on the queue; one that is there already stays as it is."""
        self._open_client().enqueue(
            {
                "queue_name": QUEUE,
                "workflow_name": WORKFLOW,
                "workflow_id": job.workflow,
                "app_version": VERSION,
            },
            msgspec.json.encode(job).decode(),
        )

    def _open_client(self) -> DBOSClient:
        from dbos import DBOSClient, run_dbos_database_migrations

        if self._client is None:
            run_dbos_database_migrations(system_database_url=self._url)
            self._client = DBOSClient(
                system_database_url=self._url,
                serializer=JsonSerializer(),
                application_name="perilune",
            )
        return self._client

    async def _follow(self, job: Job, observe: Callable[[Record], None]) -> str:
        """Show the sub-agent's records as they come, until its outcome is there."""
        seen = polls = 0
        stopped = False
        while True:
            polls += 1
            body = await asyncio.to_thread(self._database.outcome, job.workflow)
            # Read after the outcome, so that none is missed.
            read = partial(self._database.records, job.key, job.assignment.folder, seen)
            for record in await asyncio.to_thread(read):
                seen = record.seq
                observe(record)
            if body is not None:
                return body
            if polls % STATUS_EVERY == 0:
                why = await asyncio.to_thread(self._lost, job)
                if why:
                    return msgspec.json.encode(
                        Outcome(status="died", report="", detail=why)
                    ).decode()
            if not stopped and (spent := self._spent()):
                stopped = True
                await self.stop(job.assignment.call_id, spent)
            await asyncio.sleep(POLL_SECONDS)

    def _lost(self, job: Job) -> str:
        """Why DBOS will never finish a workflow; empty while it may."""
        found = self._open_client().list_workflows(workflow_ids=[job.workflow], load_input=False)
        status = found[0].status if found else "it is not in the queue"
        return f"the cluster gave it up: {status}" if not found or status in LOST else ""

    def _spent(self) -> str:
        budget = self._budget
        if isinstance(budget, SharedBudget) and budget.meter is not None:
            try:
                budget.meter.check(share=budget.share)
            except BudgetExceeded as error:
                return error.message
        return ""

    def _fetch(self, job: Job, folder: Path) -> None:
        """Bring what an ended sub-agent left here, as if it had worked here."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, data in self._database.files(job.key).items():
            place = folder / name
            if not place.resolve().is_relative_to(folder.resolve()):
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        (folder / FILE_NAME).unlink(missing_ok=True)
        journal = Journal(folder)
        journal.import_records(self._database.records(job.key, job.assignment.folder))
        journal.release()


def cluster_backend(url: str) -> Callable[[Agent, SwarmLimits, WorkspaceKind], ClusterBackend]:
    """For `Swarm(make_backend=...)`: sub-agents on the workers of a PostgreSQL queue."""
    return partial(ClusterBackend, url=url)
