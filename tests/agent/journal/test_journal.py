"""The journal: durable, append-only, honest about damage and a full disk."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perilune.agent.agent import Agent
from perilune.agent.endings import JournalFailed
from perilune.agent.journal.journal import FILE_NAME, Journal, read_journal, repair
from perilune.agent.journal.state import fold
from perilune.agent.loop.session import DAMAGED
from perilune.agent.models.scripted import Call, Reply, ScriptedModel
from perilune.errors import AgentError, UsageError
from perilune.events import NoteTaken, RunResumed, ToolFinished, ToolStarted, Unknown, UserMessage
from perilune.home import find_run
from tests.agent import simple_tools as tools
from tests.agent.conftest import MakeAgent


def write(folder: Path, count: int, size: int = 200) -> None:
    journal = Journal(folder)
    for i in range(count):
        journal.append(NoteTaken(text=f"{i} " + "x" * size))
    journal.release()


def notes(folder: Path) -> list[int]:
    return [int(r.event.text.split()[0]) for r in read_journal(folder).records]


async def test_what_was_appended_is_read_in_order(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.append(NoteTaken(text="0"), NoteTaken(text="1"))
    staged = journal.stage(NoteTaken(text="2"))
    (record,) = journal.append(NoteTaken(text="3"), agent="sub")
    await journal.durable()
    assert (staged.seq, record.seq, record.agent) == (3, 4, "sub")
    assert notes(tmp_path) == [0, 1, 2, 3]
    assert [r.seq for r in read_journal(tmp_path, after=2).records] == [3, 4]
    journal.release()
    again = Journal(tmp_path)
    assert again.append(NoteTaken(text="4"))[0].seq == 5
    again.release()


def test_rows_are_never_changed(tmp_path: Path):
    write(tmp_path, 3)
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        for statement in ("DELETE FROM events", "UPDATE events SET time = 0"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                db.execute(statement)


def test_full_synchronous_write_ahead(tmp_path: Path):
    journal = Journal(tmp_path)
    pragma = {
        name: journal._db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous")
    }
    journal.release()
    assert pragma == {"journal_mode": "wal", "synchronous": 2}


def test_durable_survives_kill_9(tmp_path: Path):
    import asyncio

    child = os.fork()
    if child == 0:

        async def work() -> None:
            journal = Journal(tmp_path)
            for i in range(10):
                journal.append(NoteTaken(text=str(i)))
            await journal.durable()
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(work())
    os.waitpid(child, 0)
    assert notes(tmp_path) == list(range(10))


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.9, 0.6, 0.3])
def test_a_truncated_file_yields_its_beginning(tmp_path: Path, share: float):
    write(tmp_path, 400, 300)
    path = tmp_path / FILE_NAME
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share) // 4096 * 4096])
    history = read_journal(tmp_path)
    found = [int(r.event.text.split()[0]) for r in history.records]
    assert found == list(range(len(found)))
    assert history.damage
    assert len(found) > 400 * share * 0.6


def test_nothing_at_all_is_no_crash(tmp_path: Path):
    with pytest.raises(AgentError):
        read_journal(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(b"")
    assert read_journal(tmp_path).damage
    (tmp_path / FILE_NAME).write_bytes(b"not a database at all" * 300)
    history = read_journal(tmp_path)
    assert history.damage
    assert history.records == []


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of 60 events."""
    folder = tmp_path_factory.mktemp("healthy")
    write(folder, 60, 120)
    return folder / FILE_NAME


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32), cuts=st.integers(1, 30))
def test_random_damage_never_invents_or_raises(tmp_path: Path, healthy: Path, seed: int, cuts: int):
    dice = random.Random(seed)
    folder = tmp_path / f"{seed}-{cuts}"
    folder.mkdir(exist_ok=True)
    data = bytearray(healthy.read_bytes())
    for _ in range(cuts):
        place = dice.randrange(4096, len(data))  # past the schema page
        data[place] ^= 1 << dice.randrange(8)
    (folder / FILE_NAME).write_bytes(data)
    try:
        history = read_journal(folder)
    except AgentError:
        return
    whole = read_journal(healthy.parent).records
    assert [r.event for r in history.records] == [r.event for r in whole[: len(history.records)]]
    assert history.damage or len(history.records) == len(whole)
    if dice.random() < 0.2:
        assert len(repair(folder).records) == len(read_journal(folder).records)


def test_repair_keeps_the_old_file(tmp_path: Path):
    write(tmp_path, 400, 300)
    path = tmp_path / FILE_NAME
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    history = repair(tmp_path)
    assert history.damage
    whole = read_journal(tmp_path)
    assert not whole.damage
    assert len(whole.records) == len(history.records) > 100
    (aside,) = tmp_path.glob("damaged-*")
    assert (aside / FILE_NAME).stat().st_size == len(data) // 2
    assert repair(tmp_path).damage == ""


def test_a_run_with_a_truncated_journal_goes_on_and_says_so(make_agent: MakeAgent, home, workspace):
    """The lost end may hold writes; the model is told, and looks before it goes on."""

    def tape(messages, declared):
        last = messages[-1]
        if last["content"] == DAMAGED:
            return Reply(calls=[Call("read_log", {})])
        if last.get("name") == "read_log":
            done = len(last["content"].split())
        else:
            done = sum(message.get("name") == "append_line" for message in messages)
        if done < 40:
            return Reply(calls=[Call("append_line", {"line": str(done)})], reasoning="z" * 900)
        return Reply("forty lines")

    agent = make_agent(tape, [tools.append_line, tools.read_log], context="keep")
    first = agent.run("write forty lines")
    assert first.ok
    path = find_run(first.run, home) / FILE_NAME
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])
    again = agent.run(resume=first.run)
    assert (again.reason, again.answer) == ("done", "forty lines")
    lines = (workspace / "log.txt").read_text().split()
    assert lines == [str(i) for i in range(40)], "nothing twice, although the record was lost"
    records = read_journal(find_run(first.run, home)).records
    (resumed,) = [r.event for r in records if isinstance(r.event, RunResumed)]
    assert resumed.damaged


# --- a full disk ----------------------------------------------------------------------------------


async def test_a_full_disk_ends_the_run_before_the_next_write(make_agent: MakeAgent, workspace):
    """No intent on the disk, no side effect. With room again, the run goes on."""

    def tape(messages, declared):
        done = sum(m.get("name") == "append_line" for m in messages)
        if done >= 30:
            return Reply("finished")
        return Reply(calls=[Call("append_line", {"line": str(done)})], reasoning="r" * 2000)

    agent = make_agent(tape, [tools.append_line], context="keep")
    async with agent.session() as session:
        db = session._run.journal._db
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages + 8}")
        result = await session.run("t")
        run = session.id
    assert result.reason == "journal"
    assert "full" in result.detail
    assert "Make room" in result.detail
    records = read_journal(find_run(run, agent.home)).records
    started = [r for r in records if isinstance(r.event, ToolStarted)]
    lines = (workspace / "log.txt").read_text().split()
    assert 0 < len(lines) <= len(started)

    def careful(messages, declared):
        last = messages[-1]
        if last["role"] == "tool" and "unknown" in last["content"]:
            return Reply(calls=[Call("read_log", {})])
        if last.get("name") == "read_log":
            done = len(last["content"].split())
        else:
            done = len((workspace / "log.txt").read_text().split())
        if done >= 30:
            return Reply("finished")
        return Reply(calls=[Call("append_line", {"line": str(done)})])

    again = make_agent(careful, [tools.append_line, tools.read_log])
    assert (await again.arun(resume=run)).answer == "finished"
    assert (workspace / "log.txt").read_text().split() == [str(i) for i in range(30)]


async def test_after_a_failure_nothing_more_is_written(tmp_path: Path):
    journal = Journal(tmp_path)
    journal._db.execute("PRAGMA max_page_count = 6")
    journal.append(NoteTaken(text="x" * 100_000))
    with pytest.raises(JournalFailed):
        await journal.durable()
    with pytest.raises(JournalFailed):
        journal.append(NoteTaken(text="small"))
    journal.release()
    assert read_journal(tmp_path).records == []


# --- versions and names ---------------------------------------------------------------------------


def test_events_of_a_newer_version_are_kept(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.append(Unknown(fields={"type": "moon.landed", "crater": 7}), UserMessage(content="hi"))
    journal.release()
    records = read_journal(tmp_path).records
    assert records[0].event.fields == {"type": "moon.landed", "crater": 7}
    assert fold(records).messages == [{"role": "user", "content": "hi"}]


def test_runs_are_found_by_part_of_their_name(tmp_path: Path):
    for name in ("20260101-000000-aaaaaa", "20260102-000000-bbbbbb"):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        write(folder, 1)
    assert find_run("last", tmp_path).name.endswith("bbbbbb")
    assert find_run("aaaaaa", tmp_path).name.endswith("aaaaaa")
    for name, words in (("2026", "several"), ("zzz", "no run")):
        with pytest.raises(UsageError, match=words):
            find_run(name, tmp_path)


def test_home_follows_the_environment(monkeypatch, tmp_path: Path, workspace):
    monkeypatch.setenv("PERILUNE_HOME", str(tmp_path / "elsewhere"))
    result = Agent(ScriptedModel([Reply("x")]), workspace=workspace).run("t")
    assert (tmp_path / "elsewhere" / "runs" / result.run / FILE_NAME).exists()
    monkeypatch.delenv("PERILUNE_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    result = Agent(ScriptedModel([Reply("x")]), workspace=workspace).run("t")
    assert (tmp_path / "xdg" / "perilune" / "runs" / result.run).is_dir()


def test_results_say_what_happened_to_each_call(make_agent: MakeAgent, home):
    agent = make_agent([Reply(calls=[Call("read_log", {})]), Reply("x")], [tools.read_log])
    result = agent.run("t")
    records = read_journal(find_run(result.run, home)).records
    (finished,) = [r.event for r in records if isinstance(r.event, ToolFinished)]
    assert finished.seconds >= 0
