"""`recipes`, and what `run` and `trace` say of recipes, verdicts, changes, arguments and effort."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.agent.conftest import home, workspace  # noqa: F401  (fixtures)
from tests.agent.openai_server import OpenAIServer, call, delta
from tests.agent.test_cli import Cli

SAY = [delta(content="It is done."), delta(finish="stop")]


@pytest.fixture
def cli(workspace, home, monkeypatch: pytest.MonkeyPatch, capfd, tmp_path: Path) -> Cli:  # noqa: F811
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return Cli(workspace, home, monkeypatch, capfd)


def asks(name: str, arguments: dict) -> list:
    return [delta(tool_calls=[call(0, "c0", name, json.dumps(arguments))], finish="tool_calls")]


def test_recipes_are_listed_shown_and_chosen(cli: Cli, tmp_path: Path):
    listed = cli("recipes", "ls").stdout
    for name in ("reason", "search", "code", "write", "built in"):
        assert name in listed
    shown = cli("recipes", "show", "code").stdout
    assert "workspace: copy" in shown
    assert "Reproduce:" in shown
    assert cli("recipes", "choose", "Prove it.").stdout == "reason: the task says 'prove'\n"
    assert cli("recipes", "choose", "Hello!").stdout.startswith("none: ")
    wrong = cli("recipes", "show", "moon")
    assert wrong.returncode == 2
    assert "no recipe called 'moon'" in wrong.stderr
    own = tmp_path / "config/perilune/recipes/greet"
    own.mkdir(parents=True)
    (own / "recipe.yaml").write_text("line: say hello\nwords: [hello]\ntools: [note]\n")
    (own / "prompt.md").write_text("Greet warmly.")
    assert "yours" in cli("recipes", "ls").stdout
    with OpenAIServer([SAY]) as server:
        done = cli("run", "Hello!", "--endpoint", server.url)
    assert "recipe greet, for the task says 'hello'" in done.stderr
    sent = server.requests[0]
    assert sent["messages"][0]["content"].endswith("Greet warmly.")
    assert [t["function"]["name"] for t in sent["tools"]] == ["note", "recall"]


def test_the_recipe_is_said_and_kept_for_a_resume(cli: Cli):
    with OpenAIServer([SAY]) as server:
        none = cli("run", "Prove it.", "--endpoint", server.url, "--recipe", "none")
    assert "recipe none, for --recipe none" in none.stderr
    with OpenAIServer([SAY]) as server:
        tools = cli("run", "Prove it.", "--endpoint", server.url, "--tools", "none")
    assert "--tools says what to work with" in tools.stderr
    thought = asks("note", {"text": "x"})
    with OpenAIServer([thought, SAY]) as server:
        cut = cli("run", "Prove it.", "--endpoint", server.url, "--max-steps", "1")
    assert "recipe reason" in cut.stderr
    with OpenAIServer([SAY]) as server:
        flags = ("--resume", "last", "--endpoint", server.url, "--max-steps", "9")
        resumed = cli("run", *flags, "--output-format", "json")
    result = json.loads(resumed.stdout)
    assert result["recipe"] == "reason"
    # The argument is missing, so the checks of the recipe were at work.
    assert result["reason"] == "unverified"
    assert result["verdict"]["checks"][0]["name"] == "argument"


def test_the_verdict_is_in_the_result_and_on_the_screen(cli: Cli):
    (cli.workspace / "a.txt").write_text("It weighs 41 kg.")
    read = asks("read_file", {"path": "a.txt"})
    answer = [delta(content="It weighs 41 kg."), delta(finish="stop")]
    with OpenAIServer([read, answer]) as server:
        done = cli("run", "weigh", "--endpoint", server.url, "--output-format", "json")
    result = json.loads(done.stdout)
    assert result["verdict"]["passed"]
    assert result["verdict"]["checks"] == [
        {"name": "numbers", "outcome": "passed", "evidence": ["41 kg: read_file"]}
    ] or result["verdict"]["checks"][0]["evidence"] == ["41: read_file"]
    assert "verdict: numbers passed" in done.stderr
    exported = cli("trace", "export", "last").stdout
    assert '"answer.verified"' in exported


def test_the_argument_is_drawn(cli: Cli, tmp_path: Path):
    nodes = [
        {"id": "c", "kind": "conclusion", "text": "It is <so> & so", "state": "holds"},
        {"id": "h", "kind": "hypothesis", "text": "It may be", "supports": ["c"]},
    ]
    with OpenAIServer([asks("argue", {"nodes": nodes}), SAY]) as server:
        cli("run", "t", "--endpoint", server.url, "--tools", "argue")
    drawn = cli("trace", "show", "last", "--graph")
    assert drawn.stdout.splitlines() == [
        "✓ conclusion c: It is <so> & so",
        "└ ? hypothesis h: It may be",
    ]
    picture = Path(drawn.stderr.split("picture: ")[1].strip())
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    cli("trace", "show", "last", "--svg", str(tmp_path / "own.svg"))
    assert (tmp_path / "own.svg").read_text() == picture.read_text()
    with OpenAIServer([SAY]) as server:
        cli("run", "t", "--endpoint", server.url, "--tools", "none")
    assert "kept no argument" in cli("trace", "show", "last", "--graph").stderr


def test_efforts(cli: Cli):
    with OpenAIServer([SAY]) as server:
        done = cli("run", "t", "--endpoint", server.url, "--effort", "low", "--tools", "none")
    assert done.returncode == 0
    assert server.requests[0]["reasoning_effort"] == "low"
    with OpenAIServer([SAY] * 9) as server:
        heavy = cli("run", "t", "--endpoint", server.url, "--effort", "heavy", "--tools", "none")
    assert (heavy.returncode, heavy.stdout) == (0, "It is done.\n")
    assert len(server.requests) == 9
    assert heavy.stderr.count("trajectory ") >= 8
    assert all(each["reasoning_effort"] == "high" for each in server.requests)
    wrong = cli("run", "t", "--endpoint", "http://localhost:1", "--effort", "huge")
    assert wrong.returncode == 2
    assert "low, medium, high, heavy" in wrong.stderr
