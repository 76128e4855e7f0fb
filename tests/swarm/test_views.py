"""What is shown: `run --swarm`, `trace show` with --tree, --timeline and --agent, and drawings."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from perilune.agent.models.scripted import Reply
from perilune.errors import UsageError
from perilune.events import AssignmentFinished, SubAgentCreated, decode_record
from perilune.home import find_run
from perilune.swarm.build import parse_limits
from perilune.swarm.timeline import render_timeline, save_timeline
from perilune.swarm.trace import read_trace
from perilune.swarm.tree import render_tree
from tests.agent.openai_server import OpenAIServer, call, delta
from tests.agent.test_cli import Cli
from tests.swarm.conftest import MakeSwarm, answer_with_results, split


@pytest.fixture
def cli(workspace: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> Cli:
    return Cli(workspace, home, monkeypatch, capfd)


def turn(*calls: tuple[str, dict[str, str]]) -> list[object]:
    pieces = [
        call(i, f"functions.{name}:{i}", name, json.dumps(arguments))
        for i, (name, arguments) in enumerate(calls)
    ]
    return [delta(tool_calls=[piece]) for piece in pieces] + [delta(finish="tool_calls")]


SPLIT = turn(
    ("create_subagent", {"name": "Reader", "system_prompt": "Read."}),
    ("assign_task", {"agent": "Reader", "prompt": "Read one."}),
    ("assign_task", {"agent": "Reader", "prompt": "Read two."}),
)
PART = [delta(content="A part."), delta(finish="stop")]
END = [delta(content="The whole."), delta(finish="stop")]


def test_run_swarm_and_look_at_it(cli: Cli, tmp_path: Path):
    with OpenAIServer([SPLIT, PART, PART, END]) as server:
        done = cli("run", "--swarm", "--swarm-limits", "sub_agents=5,tool_calls=none", "Read all.",
                   "--endpoint", server.url, "--tools", "none")  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "The whole.\n"), done.stderr
    assert "reader-1 done (1 steps" in done.stderr
    assert "2 assignments, 3 critical steps of 4 serial" in done.stderr
    declared = [each["function"]["name"] for each in server.requests[0]["tools"]]
    assert declared[:2] == ["create_subagent", "assign_task"]
    tree = cli("trace", "show", "last", "--tree")
    assert "step 1: 2 sub-agents, 1 step" in tree.stdout
    assert "reader-2 done" in tree.stdout
    assert "done: The whole." in tree.stdout
    timeline = cli("trace", "show", "last", "--timeline", "--to", str(tmp_path / "t.svg"))
    assert "orchestrator" in timeline.stdout
    assert "critical path" in timeline.stdout
    assert "<svg" in (tmp_path / "t.svg").read_text()
    own = cli("trace", "show", "last", "--agent", "reader-1")
    assert "Read one." in own.stdout or "Read two." in own.stdout
    unknown = cli("trace", "show", "last", "--agent", "nobody")
    assert unknown.returncode == 2
    assert "reader-1, reader-2" in unknown.stderr


def test_stream_json_holds_all_agents_and_a_resume_needs_no_flag(cli: Cli):
    with OpenAIServer([SPLIT, PART, PART, (400, {}, {"error": {"message": "bad"}}), END]) as server:
        words = ["--endpoint", server.url, "--tools", "none"]
        cut = cli("run", "--swarm", "--output-format", "stream-json", "Read all.", *words)
        assert cut.returncode == 1
        again = cli("run", "--resume", "last", "--output-format", "json")
    records = [decode_record(line) for line in cut.stdout.splitlines()]
    assert {each.agent for each in records} == {"main", "Reader"}
    kinds = {type(each.event) for each in records}
    assert {SubAgentCreated, AssignmentFinished} <= kinds
    result = json.loads(again.stdout)
    assert (result["answer"], result["critical_steps"], result["sub_agents"]) == (
        "The whole.",
        3,
        2,
    )
    assert len(server.requests) == 5, "the sub-agents were not asked again"


def test_a_run_without_sub_agents_has_no_tree(cli: Cli):
    with OpenAIServer([END]) as server:
        cli("run", "Say it.", "--endpoint", server.url, "--tools", "none")
    shown = cli("trace", "show", "last", "--tree")
    assert shown.returncode == 2
    assert "has no sub-agents" in shown.stderr


def test_limits_as_text():
    limits = parse_limits("main_steps=100, seconds=1.5,tool_calls=none", {"parallel": 7})
    assert (limits.main_steps, limits.seconds, limits.tool_calls) == (100, 1.5, None)
    assert (limits.parallel, limits.sub_agents) == (7, 100)
    for text in ("steps=3", "parallel", "parallel=many"):
        with pytest.raises(UsageError):
            parse_limits(text, {})


# --- drawings -------------------------------------------------------------------------------------


def test_drawings_show_every_lane_and_mark_what_the_time_hung_on(
    make_swarm: MakeSwarm, home, tmp_path: Path
):
    def sub(prompt, turn, messages):
        return Reply("\x1b[2Jodd", delay={"long": 0.5, "short": 0.01}[prompt])

    result = make_swarm([split("short", "long"), answer_with_results], sub).run("t \x1b[31m")
    trace = read_trace(find_run(result.run, home))
    assert [(lane.name, lane.critical) for lane in trace.lanes] == [
        ("orchestrator", True), ("worker-1", False), ("worker-2", True),
    ]  # fmt: skip
    assert trace.lanes[2].ended - trace.lanes[2].began >= 0.5
    assert 0.5 <= trace.critical_seconds <= result.seconds + 0.1
    console = Console(width=90, record=True, file=sys.stderr)
    console.print(render_tree(trace))
    console.print(render_timeline(trace, 90))
    text = console.export_text()
    assert "\x1b" not in text
    assert "★ worker-1 done" in text
    assert max(map(len, text.splitlines())) <= 90
    for name in ("t.svg", "t.png"):
        save_timeline(trace, tmp_path / name)
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    drawing = (tmp_path / "t.svg").read_text()
    assert drawing.count("worker-") == 2
    with pytest.raises(UsageError, match=r"neither .svg nor .png"):
        save_timeline(trace, tmp_path / "t.gif")


def test_a_broken_off_swarm_can_be_drawn(make_swarm: MakeSwarm, home):
    from perilune.agent.journal.journal import Journal, read_journal

    result = make_swarm([split("a", "b"), answer_with_results], lambda *_: Reply("x")).run("t")
    folder = find_run(result.run, home)
    records = read_journal(folder).records
    for length in range(2, len(records)):
        (folder / "journal.db").unlink()
        journal = Journal(folder)
        journal.import_records(records[:length])
        journal.release()
        try:
            trace = read_trace(folder)
        except UsageError:
            continue  # before there was a sub-agent
        Console(width=80, file=sys.stderr).print(render_tree(trace), render_timeline(trace, 80))
        assert trace.state.critical_steps <= 3
