"""Kill -9 at any point, resume, and the run ends as one that was never disturbed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from perilune.agent.agent import Agent
from perilune.agent.endings import LeaseLost, RunBusy
from perilune.agent.journal.journal import Journal, read_journal
from perilune.agent.journal.state import fold
from perilune.agent.loop.act import UNKNOWN
from perilune.agent.models.scripted import Call, Crash, Reply, ScriptedModel
from perilune.agent.tool import ToolContext, tool
from perilune.errors import SandboxError
from perilune.events import RunResumed, ToolFinished, ToolStarted, UserMessage
from perilune.home import find_run
from perilune.sandbox import open_sandbox
from tests.agent import simple_tools as tools
from tests.agent.conftest import MakeAgent

ROOT = Path(__file__).resolve().parents[3]


def start(home: Path, workspace: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.agent.long_run", str(home), str(workspace), *options]
    environment = {**os.environ, "PERILUNE_CORPUS": str(workspace.parent / "corpus")}
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)


def run_undisturbed(folder: Path, *options: str) -> None:
    process = start(folder / "home", folder / "workspace", *options)
    assert json.loads(process.communicate(timeout=120)[0])["reason"] == "done"


def run_with_kills(folder: Path, kills: int, most: int, *options: str) -> int:
    """Kill -9 at random points and resume, `kills` times; then let it end. Between two kills lie
    `most` records at most. Gives how many kills there were."""
    dice = random.Random(20)
    resume: list[str] = []
    killed = 0
    while killed < kills:
        records = str(dice.randint(1, most))
        process = start(
            folder / "home", folder / "workspace", *resume, *options, "--die-after", records
        )
        process.communicate(timeout=120)
        if process.returncode == 0:
            return killed
        assert process.returncode == -signal.SIGKILL
        killed += 1
        if any((folder / "home" / "runs").glob("*/journal.db")):
            history = read_journal(find_run("last", folder / "home"))
            resume = ["--resume"] if history.records else []
    run_undisturbed(folder, *resume, *options)
    return killed


def final_state(home: Path):
    """What must not depend on where a run was killed."""
    history = read_journal(find_run("last", home))
    assert not history.damage
    state = fold(history.records)
    # Nothing lost: every intent has exactly one result.
    started = [r.event.call_id for r in history.records if isinstance(r.event, ToolStarted)]
    finished = [r.event.call_id for r in history.records if isinstance(r.event, ToolFinished)]
    assert len(finished) == len(set(finished))
    assert set(started) == set(finished)
    assert len(history.records) > 900
    return (state.finished.answer, state.finished.reason, state.notes, sorted(state.evidence))


def files_of(workspace: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(workspace)): path.read_bytes()
        for path in sorted(workspace.rglob("*"))
        if path.is_file()
    }


def make_folders(tmp_path: Path) -> tuple[Path, Path]:
    folders = tmp_path / "calm", tmp_path / "killed"
    for folder in folders:
        (folder / "workspace").mkdir(parents=True)
        (folder / "corpus").mkdir()
        for i in range(50):
            text = f"Crater {i} lies on the far side of the Moon."
            (folder / "corpus" / f"crater-{i}.txt").write_text(text)
    return folders


def test_300_steps_killed_at_random_points(tmp_path: Path):
    calm, disturbed = make_folders(tmp_path)
    run_undisturbed(calm)
    assert run_with_kills(disturbed, 6, 200) == 6
    assert final_state(calm / "home") == final_state(disturbed / "home")
    files = files_of(disturbed / "workspace")
    assert files == files_of(calm / "workspace")
    assert files["log.txt"].decode() == "".join(f"{i}\n" for i in range(150))


@pytest.mark.slow
def test_300_steps_of_real_tools_killed_at_20_random_points(tmp_path: Path):
    """Files, the sandboxed Python and search; an edit or an append that ran twice would show."""
    try:
        open_sandbox()
    except SandboxError as error:
        pytest.skip(f"the sandbox does not hold here: {error}")
    calm, disturbed = make_folders(tmp_path)
    run_undisturbed(calm, "--real")
    assert run_with_kills(disturbed, 20, 80, "--real") == 20
    assert final_state(calm / "home") == final_state(disturbed / "home")
    files = files_of(disturbed / "workspace")
    assert files == files_of(calm / "workspace")
    assert len(files) == 51
    assert files["log.txt"].decode() == "".join(f"line-{i};\n" for i in range(50))
    assert files["items/7.txt"] == b"item 7 is final-7\n"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_around_the_effect_is_shown_as_unknown(tmp_path: Path, when: str):
    """The process dies inside the tool, just before or just after its effect."""
    home, workspace = tmp_path / "home", tmp_path / "workspace"
    workspace.mkdir()

    def run(deadly: bool, resume: bool) -> str:
        @tool()
        def append_line(line: str, context: ToolContext) -> str:
            """Append."""
            if deadly and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            with (context.workspace / "log.txt").open("a") as file:
                file.write(line + "\n")
            if deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            return "appended"

        def tape(messages, declared):
            last = messages[-1]
            if last["role"] == "user":
                return Reply(calls=[Call("append_line", {"line": "x"})])
            if last["content"] == UNKNOWN:
                return Reply(calls=[Call("read_log", {})])
            if last["name"] == "read_log" and not last["content"]:
                return Reply(calls=[Call("append_line", {"line": "x"})])
            return Reply("done")

        agent = Agent(
            ScriptedModel(tape), [append_line, tools.read_log], home=home, workspace=workspace
        )
        result = agent.run(None if resume else "t", resume="last" if resume else None)
        return result.reason

    child = os.fork()
    if child == 0:
        run(deadly=True, resume=False)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert run(deadly=False, resume=True) == "done"
    assert (workspace / "log.txt").read_text() == "x\n"
    records = read_journal(find_run("last", home)).records
    outcomes = [
        (r.event.name, r.event.outcome) for r in records if isinstance(r.event, ToolFinished)
    ]
    again = [("append_line", "ok")] if when == "before" else []
    assert outcomes == [("append_line", "unknown"), ("read_log", "ok"), *again]
    (resumed,) = [r.event for r in records if isinstance(r.event, RunResumed)]
    assert len(resumed.unknown_calls) == 1


def test_a_read_only_call_is_simply_run_again(make_agent: MakeAgent, home: Path):
    """No question to the model where nothing can have happened."""
    tape = [Reply(calls=[Call("read_log", {})]), Reply("empty")]
    agent = make_agent(tape, [tools.read_log])
    result = agent.run("t")
    folder = find_run(result.run, home)
    history = read_journal(folder)
    cut = next(i for i, r in enumerate(history.records) if isinstance(r.event, ToolFinished))
    _rewrite(folder, history.records[:cut])
    again = agent.run(resume=result.run)
    assert again.answer == "empty"
    assert agent.model.prompts[-1][-1]["content"] == ""


def test_every_prefix_of_a_journal_resumes_to_the_same_end(make_agent: MakeAgent, home, workspace):
    """A kill can come between any two events; each prefix is such a journal."""
    calls = [Call("append_line", {"line": str(i)}) for i in range(2)]
    tape = [
        Reply(reasoning="r", calls=[*calls, Call("read_log", {})]),
        Reply(calls=[Call("note", {"text": "n"}), Call("look_up", {"topic": "a"})]),
        Reply("the end"),
    ]
    agent = make_agent(tape, [tools.append_line, tools.read_log, tools.note, tools.look_up])
    first = agent.run("t")
    folder = find_run(first.run, home)
    records = read_journal(folder).records
    assert len(records) > 12
    for cut in range(2, len(records)):
        _rewrite(folder, records[:cut])
        again = agent.run(resume=first.run)
        assert (again.reason, again.answer) == ("done", "the end"), cut
        state = fold(read_journal(folder).records)
        assert not state.open_calls
        assert not state.intents
        asked = [c["id"] for m in state.messages for c in m.get("tool_calls", ())]
        answered = [m["tool_call_id"] for m in state.messages if m["role"] == "tool"]
        assert asked == answered


def _rewrite(folder: Path, records) -> None:
    for path in folder.glob("journal.db*"):
        path.unlink()
    journal = Journal(folder)
    journal.import_records(records)
    journal.release()


def test_resuming_a_finished_run_gives_its_answer(make_agent: MakeAgent):
    agent = make_agent([Reply("forty-two")])
    first = agent.run("t")
    prompts = len(agent.model.prompts)
    again = agent.run(resume=first.run)
    assert (again.answer, again.reason) == ("forty-two", "done")
    assert len(agent.model.prompts) == prompts


def test_a_new_task_goes_on_with_the_conversation(make_agent: MakeAgent):
    agent = make_agent([Reply("one"), Reply("two")])
    first = agent.run("first")
    second = agent.run("second", resume=first.run)
    assert second.answer == "two"
    contents = [message["content"] for message in agent.model.prompts[-1][1:]]
    assert contents == ["first", "one", "second"]


def test_a_crash_in_the_middle_of_a_completion_loses_nothing(tmp_path: Path):
    workspace = tmp_path / "workspace"
    workspace.mkdir()

    def agent(tape) -> Agent:
        return Agent(
            ScriptedModel(tape), [tools.append_line], home=tmp_path / "h", workspace=workspace
        )

    step = Reply(calls=[Call("append_line", {"line": "a"})])
    child = os.fork()
    if child == 0:
        agent([step, Crash()]).run("t")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    result = agent([step, Reply("fine")]).run(resume="last")
    assert result.answer == "fine"
    assert (workspace / "log.txt").read_text() == "a\n"


# --- the lease ------------------------------------------------------------------------------------


async def test_two_sessions_never_drive_one_run(make_agent: MakeAgent):
    agent = make_agent([Reply("slow", delay=0.5)])
    async with agent.session() as session:
        work = asyncio.create_task(session.run("t"))
        await asyncio.sleep(0.1)
        with pytest.raises(RunBusy, match=f"process {os.getpid()}"):
            await agent.arun(resume=session.id)
        assert (await work).ok
    assert (await agent.arun(resume="last")).ok


def test_a_dead_holder_is_succeeded_at_once(tmp_path: Path):
    child = os.fork()
    if child == 0:
        Journal(tmp_path)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    Journal(tmp_path).release()


async def test_who_lost_the_lease_cannot_write(tmp_path: Path):
    old = Journal(tmp_path)
    old._db.execute("UPDATE lease SET token = token + 1")
    old.append(UserMessage(content="too late"))
    with pytest.raises(LeaseLost):
        await old.durable()
    with pytest.raises(LeaseLost):
        old.append(UserMessage(content="still too late"))
    old.release()
    assert read_journal(tmp_path).records == []
