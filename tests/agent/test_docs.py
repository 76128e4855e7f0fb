"""The Python of docs/agent.md runs as it stands, and its promises name tests that exist."""

from __future__ import annotations

import asyncio
import re
import textwrap
from pathlib import Path

import pytest

from perilune.agent import EndpointModel
from perilune.agent.endings import RunEnded
from perilune.agent.models.scripted import Call, Reply, ScriptedModel
from perilune.cli.main import VERBS
from tests.agent.openai_server import OpenAIServer, call, delta

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "agent.md").read_text("utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("PERILUNE_HOME", str(home))


def test_there_are_four_snippets():
    assert len(SNIPPETS) == 4


def test_the_agent_and_its_session(workspace: Path, capsys):
    arguments = '{"path": "a.txt", "content": "hi"}'
    write = [delta(tool_calls=[call(0, None, "write_file", arguments)], finish="tool_calls")]
    say = [delta(content="Written.", finish="stop")]
    with OpenAIServer([write, say, write, say, say]) as server:
        names = {"url": server.url, "workspace": workspace, "asyncio": asyncio}
        exec(SNIPPETS[0], names)
        assert capsys.readouterr().out.startswith("Written. done 2 ")
        assert (workspace / "a.txt").read_text() == "hi"
        body = textwrap.indent(SNIPPETS[1], "    ")
        exec(f"async def talk():\n{body}\n    return result", names)

        async def talk_and_close():
            try:
                return await names["talk"]()
            finally:
                await names["agent"].model.close()

        result = asyncio.run(talk_and_close())
    assert result.ok
    said = [m["content"] for m in server.requests[-1]["messages"] if m["role"] == "user"]
    assert said == ["Write hi into a.txt.", "In capital letters.", "Now read it back."]


def test_a_tool_in_ten_lines(workspace: Path, capsys):
    (workspace / "poem.txt").write_text("the moon is far away")

    def tape(messages, declared):
        if messages[-1]["role"] == "tool":
            return Reply(messages[-1]["content"])
        assert declared[0]["function"]["name"] == "count_words"
        assert list(declared[0]["function"]["parameters"]["properties"]) == ["path"]
        return Reply(calls=[Call("count_words", {"path": "poem.txt"})])

    exec(SNIPPETS[2], {"model": ScriptedModel(tape), "workspace": workspace})
    assert capsys.readouterr().out == "poem.txt has 5 words\n"
    definition = SNIPPETS[2].split("@tool")[1].split("\n\n")[0]
    assert len(definition.splitlines()) <= 10


def test_settings_make_an_agent_and_a_swarm(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(workspace)
    names: dict[str, object] = {}
    exec(SNIPPETS[3], names)
    agent, swarm = names["agent"], names["swarm"]
    assert agent.workspace == workspace.resolve() and agent.budget.steps == 50
    assert (swarm.limits.parallel, swarm.limits.main_steps) == (4, 50)


def test_named_tests_exist():
    for name in set(re.findall(r"`(test_\w+\.py)`", PAGE)):
        assert list(Path(__file__).parent.rglob(name)), name


def test_every_ending_is_named():
    def kinds(base: type) -> list[type]:
        return [base, *(kind for sub in base.__subclasses__() for kind in kinds(sub))]

    import perilune.agent.workspace.snapshot  # noqa: F401  (defines one)

    for kind in kinds(RunEnded)[1:]:
        reason = getattr(kind, "reason", None)
        if reason not in (None, "ended"):
            assert f"`{reason}`" in PAGE, kind


def test_named_verbs_exist():
    for verb in set(re.findall(r"(?<!from )perilune ([a-z-]+)", PAGE)):
        assert verb in VERBS, verb


def test_public_names():
    import perilune

    assert perilune.Agent is perilune.agent.Agent
    assert EndpointModel.__module__ == "perilune.agent.models.endpoint"
