"""Kill -9 of a whole swarm: it goes on from the journals, and nothing is done twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from perilune.agent.journal.journal import read_journal
from perilune.events import AssistantMessage, ToolFinished, ToolStarted
from perilune.home import find_run
from perilune.swarm.state import fold_swarm
from tests.swarm.killed_swarm import AGENTS, LINES, make

ROOT = Path(__file__).resolve().parents[2]
WHOLE = f"{AGENTS} parts of {LINES} lines. Missing: []"


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    home, workspace = str(folder / "home"), str(folder / "workspace")
    command = [sys.executable, "-m", "tests.swarm.killed_swarm", home, workspace, *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def killed_twice(folder: Path, first: float, second: float, *options: str) -> dict[str, object]:
    """Kill the process at these seconds of its work, resume it, and let it end."""
    (folder / "workspace").mkdir(exist_ok=True)
    resume: list[str] = []
    for seconds in (first, second):
        process = start(folder, *options, *resume, "--die-after", f"{seconds}")
        out, _ = process.communicate(timeout=120)
        if process.returncode == 0:
            return json.loads(out)
        assert process.returncode == -signal.SIGKILL
        resume = ["--resume"]
    process = start(folder, *options, *resume)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return json.loads(out)


def lines_of(folder: Path) -> Counter[str]:
    return Counter((folder / "workspace" / "shared.txt").read_text().splitlines())


ONCE = Counter(f"part-{i}:{n}" for i in range(AGENTS) for n in range(LINES))


@pytest.mark.parametrize(("first", "second"), [(0.15, 0.2), (0.4, 0.3)])
def test_a_swarm_killed_twice_ends_like_an_undisturbed_one(tmp_path: Path, first, second):
    result = killed_twice(tmp_path, first, second)
    assert (result["answer"], result["reason"], result["missing"]) == (WHOLE, "done", [])
    assert lines_of(tmp_path) == ONCE
    folder = find_run("last", tmp_path / "home")
    state = fold_swarm(read_journal(folder).records)
    steps = {}
    for journal in (folder / "swarm").glob("*/journal.db"):
        records = read_journal(journal.parent).records
        steps[journal.parent.name] = sum(isinstance(r.event, AssistantMessage) for r in records)
        started = {r.event.call_id for r in records if isinstance(r.event, ToolStarted)}
        finished = [r.event.call_id for r in records if isinstance(r.event, ToolFinished)]
        assert len(finished) == len(set(finished))
        assert set(finished) == started
    assert len(steps) == AGENTS
    assert {each.name: each.steps for each in state.assignments.values()} == steps
    assert result["critical"] == 2 + max(steps.values())
    assert result["serial"] == 2 + sum(steps.values())


def test_faults_and_kills_together(tmp_path: Path):
    """A crash, a hang and bursts of 429 besides: the work is whole, and done once."""
    result = killed_twice(tmp_path, 0.5, 0.7, "--faults")
    assert (result["answer"], result["reason"], result["missing"]) == (WHOLE, "done", [])
    assert lines_of(tmp_path) == ONCE


def test_an_ended_swarm_is_not_run_again(tmp_path: Path):
    (tmp_path / "workspace").mkdir()
    swarm = make(tmp_path / "home", tmp_path / "workspace", faults=False, delay=0.0)
    result = swarm.run("Write the parts.")
    again = make(tmp_path / "home", tmp_path / "workspace", faults=False).run(resume=result.run)
    assert (again.answer, again.critical_steps) == (result.answer, result.critical_steps)
    assert (again.tool_calls, again.usage) == (result.tool_calls, result.usage)
    assert lines_of(tmp_path) == ONCE


def test_work_that_ended_before_its_report_arrived_is_not_done_again(tmp_path: Path):
    """The crash falls between a sub-agent's end and the orchestrator's note of it."""
    (tmp_path / "workspace").mkdir()
    swarm = make(tmp_path / "home", tmp_path / "workspace", faults=False, delay=0.0)
    result = swarm.run("Write the parts.")
    folder = find_run(result.run, tmp_path / "home")
    records = read_journal(folder).records
    first_end = next(i for i, r in enumerate(records) if _ends_assignment(r))
    (folder / "journal.db").unlink()
    from perilune.agent.journal.journal import Journal

    journal = Journal(folder)
    journal.import_records(records[:first_end])
    journal.release()
    again = make(tmp_path / "home", tmp_path / "workspace", faults=False, delay=0.0)
    calls: list[str] = []
    inner = again.agent.model._tape
    again.agent.model._tape = lambda messages, tools: (
        calls.append(str(messages[1]["content"])) or inner(messages, tools)
    )
    ended = again.run(resume=result.run)
    assert ended.answer == WHOLE
    assert set(calls) == {"Write the parts."}, "no sub-agent asked its model again"
    assert (ended.critical_steps, ended.serial_steps) == (7, 2 + AGENTS * (LINES + 1))
    assert lines_of(tmp_path) == ONCE


def _ends_assignment(record) -> bool:
    return isinstance(record.event, ToolFinished) and record.event.name == "assign_task"
