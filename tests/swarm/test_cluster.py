"""A swarm past one machine, on a real PostgreSQL: a worker dies, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from perilune.agent.agent import Agent
from perilune.agent.endings import LeaseLost
from perilune.agent.journal.journal import read_journal
from perilune.agent.models.scripted import ScriptedModel
from perilune.errors import UsageError
from perilune.events import AssignmentFinished, AssistantMessage, NoteTaken, ToolFinished
from perilune.home import find_run
from perilune.swarm.swarm import Swarm
from tests.swarm.killed_swarm import LINES, Shared, main_tape
from tests.swarm.postgres import need_postgres, postgres_server

pytest.importorskip("dbos", reason="the cluster extra is not installed")

ROOT = Path(__file__).resolve().parents[2]
AGENTS = 9


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    need_postgres()
    with postgres_server() as address:
        yield address


@pytest.fixture
def workers(url: str, tmp_path: Path) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Three processes that take assignments."""
    started = {
        name: subprocess.Popen(
            [sys.executable, "-m", "tests.swarm.cluster_worker", url, name, str(tmp_path)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )
        for name in ("one", "two", "three")
    }  # fmt: skip
    try:
        for process in started.values():
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield started
    finally:
        for process in started.values():
            process.kill()
            process.wait()


def make_swarm(url: str, folder: Path) -> Swarm:
    from perilune.swarm.cluster.backend import cluster_backend

    (folder / "workspace").mkdir(exist_ok=True)
    agent = Agent(
        ScriptedModel(lambda messages, tools: main_tape(messages, AGENTS)),
        Shared(folder / "shared.txt").tools,
        workspace=folder / "workspace",
        home=folder / "home",
        snapshot=False,
        verifiers=(),
    )
    return Swarm(agent, workspaces="empty", make_backend=cluster_backend(url))


def test_a_worker_is_killed_and_its_work_is_done_by_others_once(url, workers, tmp_path: Path):
    import psycopg

    swarm = make_swarm(url, tmp_path)
    seen: list[str] = []
    swarm.agent.on_record = lambda record: seen.append(record.agent)

    async def run():
        async with swarm.session() as session:
            work = asyncio.create_task(session.run("Write the parts."))
            victim = tmp_path / "two" / "cluster"
            while not list(victim.glob("*/*/journal.db")):
                await asyncio.sleep(0.05)
            while not (tmp_path / "shared.txt").exists():
                await asyncio.sleep(0.05)
            workers["two"].send_signal(signal.SIGKILL)
            return await asyncio.wait_for(work, 300)

    result = asyncio.run(run())
    assert result.answer == f"{AGENTS} parts of {LINES} lines. Missing: []"
    assert result.missing == []
    lines = Counter((tmp_path / "shared.txt").read_text().splitlines())
    assert lines == Counter(f"part-{i}:{n}" for i in range(AGENTS) for n in range(LINES))
    assert "worker" in seen, "what sub-agents do is shown while they do it"
    with psycopg.connect(url) as connection:
        outcomes = connection.execute(
            "SELECT count(*), count(DISTINCT workflow) FROM perilune.outcomes "
            "WHERE workflow LIKE %s", (f"{result.run}:%",),
        ).fetchone()  # fmt: skip
        tokens = [token for (token,) in connection.execute("SELECT token FROM perilune.leases")]
        done = connection.execute(
            "SELECT status, count(*) FROM dbos.workflow_status GROUP BY status"
        ).fetchall()
    assert outcomes == (AGENTS, AGENTS)
    assert max(tokens) >= 2, "somebody took over what the dead worker had begun"
    assert done == [("SUCCESS", AGENTS)]
    folder = find_run(result.run, tmp_path / "home")
    ended = [
        each.event for each in read_journal(folder).records
        if isinstance(each.event, AssignmentFinished)
    ]  # fmt: skip
    for each in ended:
        records = read_journal(folder / "swarm" / each.folder).records
        assert [record.seq for record in records] == list(range(1, len(records) + 1))
        steps = sum(isinstance(record.event, AssistantMessage) for record in records)
        finished = [r.event.call_id for r in records if isinstance(r.event, ToolFinished)]
        assert each.steps == steps
        assert len(finished) == len(set(finished))
    assert result.critical_steps == 2 + max(each.steps for each in ended)


def test_a_worker_that_was_thought_dead_can_write_nothing_more(url, tmp_path: Path):
    """The lease's token fences it off, before a side effect as well as at the end."""
    from perilune.swarm.cluster.database import Database, LeaseTaken
    from perilune.swarm.cluster.shared_journal import SharedJournal

    database = Database(url)
    token = database.take_lease("run:a")
    (tmp_path / "a").mkdir()
    journal = SharedJournal(tmp_path / "a", database=database, key="run:a", token=token)

    async def write() -> None:
        journal.append(NoteTaken(text="mine"))
        await journal.durable()
        later = database.take_lease("run:a")
        assert later == token + 1
        journal.append(NoteTaken(text="too late"))
        with pytest.raises(LeaseLost):
            await journal.durable()

    asyncio.run(write())
    journal.release()
    assert [each.event.text for each in database.records("run:a", "a")] == ["mine"]
    with pytest.raises(LeaseTaken):
        database.save_outcome("w", "run:a", token, "late", {})
    kept = database.save_outcome("w", "run:a", token + 1, "first", {"files/a": b"1"})
    again = database.save_outcome("w", "run:a", token + 1, "second", {})
    assert kept == again == database.outcome("w") == "first"
    assert database.files("run:a") == {"files/a": b"1"}
    database.close()


def test_tool_calls_are_counted_for_all_machines(url):
    from perilune.swarm.cluster.database import Database

    one, other = Database(url), Database(url)
    granted = [each.take_call("r", 5) for each in (one, other) * 4]
    assert granted == [True] * 5 + [False] * 3
    assert one.take_call("unlimited", None)
    one.close()
    other.close()


def test_a_database_that_is_not_there_is_said():
    from perilune.swarm.cluster.database import Database

    with pytest.raises(UsageError, match="cannot be used") as caught:
        Database("postgresql://someone:secret@127.0.0.1:1/none")
    assert "secret" not in str(caught.value)
