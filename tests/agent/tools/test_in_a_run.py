"""The built-in tools in a whole run: chosen by name, sandboxed, journalled, closed at the end."""

from __future__ import annotations

from pathlib import Path

from perilune.agent.agent import Agent
from perilune.agent.journal.journal import read_journal
from perilune.agent.models.scripted import Call, Reply, ScriptedModel
from perilune.events import NoteTaken, PlanUpdated, ToolFinished
from perilune.home import runs_folder
from perilune.sandbox import Sandbox

CODE = """
def double(x):
    return 2 * x
"""


def test_a_task_from_plan_to_tests(
    workspace: Path, tmp_path: Path, opened_sandbox: Sandbox
) -> None:
    tape = [
        Reply(calls=[Call("plan", {"items": [{"text": "write and test", "status": "done"}]})]),
        Reply(
            calls=[
                Call("write_file", {"path": "lib.py", "content": CODE}),
                Call("write_file", {"path": "test_lib.py", "content": "from lib import double\n"}),
            ]
        ),
        Reply(
            calls=[
                Call(
                    "bash", {"command": "echo 'def test(): assert double(2) == 4' >> test_lib.py"}
                ),
                Call("python", {"code": "from lib import double\nn = double(21)\nn"}),
            ]
        ),
        Reply(calls=[Call("python", {"code": "n + 1"}), Call("grep", {"pattern": "double"})]),
        Reply(
            calls=[Call("rename", {"path": "lib.py", "name": "double", "new_name": "twice"})],
        ),
        Reply(calls=[Call("run_tests", {}), Call("note", {"text": "double is now twice"})]),
        Reply(calls=[Call("bash", {"command": "seq 20000"}, id="long")]),
        Reply(calls=[Call("read_file", {"path": "../home/secret"})]),
        Reply("Done."),
    ]
    agent = Agent(
        ScriptedModel(tape),
        ["code,plan,note"],
        workspace=workspace,
        home=tmp_path / "home",
        sandbox=opened_sandbox,
    )
    result = agent.run("make a library")
    assert result.ok, result
    records = read_journal(runs_folder(agent.home) / result.run).records
    events = [record.event for record in records]
    finished = [event for event in events if isinstance(event, ToolFinished)]
    said = [str(event.content) for event in finished]
    assert said[4] == "42"
    assert said[5] == "43"
    assert "lib.py:2: def double(x):" in said[6]
    assert "3 places in" in said[7] or "4 places in" in said[7]
    assert said[8].startswith("1 passed")
    assert len(said[10]) < 20_000
    assert finished[10].full_output is not None
    assert Path(finished[10].full_output).read_text().count("\n") == 20_000
    assert "out of the workspace" in said[11]
    assert [event.outcome for event in finished] == ["ok"] * 11 + ["error"]
    assert any(isinstance(event, PlanUpdated) for event in events)
    assert any(isinstance(event, NoteTaken) for event in events)
    assert "twice" in (workspace / "lib.py").read_text()
