"""A worker: takes assignments off the cluster's queue and works on them in this process."""

from __future__ import annotations

import asyncio
import re
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from perilune.agent.agent import Agent
from perilune.agent.journal.journal import FILE_NAME, Journal
from perilune.events import Record
from perilune.swarm.assignment import Outcome
from perilune.swarm.cluster.database import Database, LeaseTaken
from perilune.swarm.cluster.job import QUEUE, VERSION, WORKFLOW, Job, JsonSerializer
from perilune.swarm.cluster.shared_journal import SharedJournal
from perilune.swarm.meter import MeteredTool
from perilune.swarm.sub_agent import SubAgent
from perilune.swarm.worker_agent import bounded

if TYPE_CHECKING:
    from dbos import DBOS

BEAT_SECONDS = 1.0
SILENT_SECONDS = 30.0
"""A worker that says nothing for so long is dead; what it worked on is given to others."""
POLL_SECONDS = 1.0


class SharedCounter:
    """Grants tool calls for all machines of a run."""

    def __init__(self, database: Database, run: str, limit: int | None) -> None:
        self._database, self._run, self._limit = database, run, limit

    async def take_call(self) -> bool:
        return await asyncio.to_thread(self._database.take_call, self._run, self._limit)


class Worker:
    """Works on up to `parallel` assignments at once, each by an agent like `agent`.

    The agent's tools, permissions and sandbox are this machine's owner's; nothing that comes over
    the queue widens them. A sub-agent's workspace begins empty. `name` identifies the worker in the
    cluster; a worker that comes back under its name goes on with what it left.
    """

    def __init__(
        self,
        agent: Agent,
        url: str,
        *,
        name: str,
        parallel: int = 8,
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        self.name = name
        self._agent = agent
        self._database = Database(url)
        self._url = url
        self._parallel = parallel
        self._silent_seconds = silent_seconds
        self._at_work: dict[str, tuple[SubAgent, asyncio.AbstractEventLoop]] = {}
        self._heard: set[int] = set()
        self._ending = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True, name="keeper")
        self._dbos: type[DBOS] | None = None

    def start(self) -> None:
        """Begin to take assignments; returns at once."""
        from dbos import DBOS

        DBOS(
            config={
                "name": "perilune",
                "system_database_url": self._url,
                "application_version": VERSION,
                "executor_id": self.name,
                "serializer": JsonSerializer(),
                "log_level": "WARNING",
            }
        )
        DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)(self._workflow())
        self._database.beat(self.name)
        DBOS.launch()
        DBOS.register_queue(
            QUEUE,
            worker_concurrency=self._parallel,
            polling_interval_sec=POLL_SECONDS,
            on_conflict="always_update",
        )
        self._dbos = DBOS
        self._keeper.start()

    def close(self) -> None:
        """Stop taking assignments. Those at work are left to others, or to this worker's return."""
        from dbos import DBOS

        self._ending.set()
        self._keeper.join(timeout=5)
        DBOS.destroy()
        self._database.close()

    def _workflow(self) -> Any:
        async def assignment(text: str) -> str:
            return await self.work(text)

        return assignment

    async def work(self, text: str) -> str:
        """Work on the job in `text`; returns its outcome as JSON, the same whoever gave it."""
        job = msgspec.json.decode(text, type=Job)
        known = await asyncio.to_thread(self._database.outcome, job.workflow)
        if known is not None:
            return known
        try:
            return await self._work(job)
        except LeaseTaken:
            # Another worker has it, for we were thought dead: its outcome is the outcome.
            while (known := await asyncio.to_thread(self._database.outcome, job.workflow)) is None:
                await asyncio.sleep(POLL_SECONDS)
            return known

    async def _work(self, job: Job) -> str:
        database = self._database
        token = await asyncio.to_thread(database.take_lease, job.key)
        safe = re.sub(r"[^A-Za-z0-9_.-]", "_", job.key)
        folder = self._agent.home / "cluster" / safe / str(token)
        records = await asyncio.to_thread(database.records, job.key, job.assignment.folder)
        await asyncio.to_thread(_fill, folder, records)
        sub_agent = SubAgent(
            self._agent_for(job, token),
            job.assignment,
            folder,
            workspaces="empty",
            silence_seconds=job.limits.silence_seconds,
            observe=lambda record: None,
        )
        self._at_work[job.workflow] = sub_agent, asyncio.get_running_loop()
        try:
            outcome = await sub_agent.work()
        finally:
            del self._at_work[job.workflow]
        files = await asyncio.to_thread(_files_of, folder, outcome)
        body = msgspec.json.encode(outcome).decode()
        return await asyncio.to_thread(
            database.save_outcome, job.workflow, job.key, token, body, files
        )

    def _agent_for(self, job: Job, token: int) -> Agent:
        counter = SharedCounter(self._database, job.run, job.limits.tool_calls)
        agent = bounded(self._agent, job.limits, meter=None)
        return agent.copy_with(
            tools=[MeteredTool(each, counter, job.limits.tool_calls) for each in agent.tools],
            parent_run=job.run,
            open_journal=partial(SharedJournal, database=self._database, key=job.key, token=token),
        )

    # --- the keeper's thread ---

    def _keep(self) -> None:
        """Say that this worker lives, hear what is said to its sub-agents, look after the dead."""
        while not self._ending.wait(BEAT_SECONDS):
            with suppress(Exception):  # the database may be away for a while
                self._database.beat(self.name)
                self._hear()
                self._database.rescue(self._silent_seconds, self._rescue)
        with suppress(Exception):
            self._database.beat(self.name)

    def _hear(self) -> None:
        at_work = dict(self._at_work)
        if not at_work:
            return
        for number, workflow, verb, words in self._database.heard(list(at_work)):
            if number in self._heard:
                continue
            self._heard.add(number)
            sub_agent, loop = at_work[workflow]
            loop.call_soon_threadsafe(sub_agent.stop if verb == "stop" else sub_agent.steer, words)

    def _rescue(self, worker: str) -> None:
        """Put what a dead worker worked on back into the queue."""
        assert self._dbos is not None
        if worker == self.name:
            return
        for each in self._dbos.list_workflows(
            status="PENDING", executor_id=worker, queue_name=QUEUE, load_input=False
        ):
            self._dbos.resume_workflow(each.workflow_id, queue_name=QUEUE)


def _fill(folder: Path, records: list[Record]) -> None:
    """Put what the database knows of a sub-agent into a fresh journal."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not records or (folder / FILE_NAME).exists():
        return
    journal = Journal(folder)
    journal.import_records(records)
    journal.release()
    if journal.failure is not None:
        raise journal.failure


def _files_of(folder: Path, outcome: Outcome) -> dict[str, bytes]:
    """The evidence and the changed files of a sub-agent, by path within its folder."""
    paths = [*sorted((folder / "evidence").glob("*.txt"))]
    paths += [folder / "files" / each for each in outcome.files]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}
