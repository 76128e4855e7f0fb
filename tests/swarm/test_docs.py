"""The Python of docs/swarm.md runs as it stands; what it names exists."""

from __future__ import annotations

import asyncio
import re
import textwrap
from pathlib import Path

import pytest

from perilune.agent.models.scripted import Call, Reply, ScriptedModel
from perilune.cli.main import VERBS
from perilune.swarm.assignment import FAILED
from perilune.swarm.limits import SwarmLimits
from tests.swarm.conftest import is_orchestrator, last_results, prompt_of, split, turn_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "swarm.md").read_text("utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def tape(messages, declared):
    if not is_orchestrator(declared):
        if "Count words." in [each["content"] for each in messages]:
            return Reply("counted")
        if turn_of(messages) == 0 or "slow" not in prompt_of(messages):
            return Reply(f"{prompt_of(messages)}: two lines")
        return Reply(calls=[Call("find", {"pattern": "*"})], delay=0.05)
    if turn_of(messages) == 0:
        return split("poem one", "poem two", agent="reader")
    return Reply("; ".join(each for each in last_results(messages) if "created" not in each))


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("PERILUNE_HOME", str(home))


def test_the_snippets_run(workspace: Path, capsys):
    assert len(SNIPPETS) == 2
    names = {"model": ScriptedModel(tape), "workspace": workspace, "asyncio": asyncio}
    exec(SNIPPETS[0], names)
    assert capsys.readouterr().out == (
        "poem one: two lines; poem two: two lines\n3 of 4 steps; missing: []\n"
    )

    def slow(messages, declared):
        if is_orchestrator(declared):
            return tape(messages, declared)
        return Reply("never", delay=30)

    names["model"] = ScriptedModel(slow)
    exec(SNIPPETS[0].split("result =")[0], names)
    exec(f"async def talk():\n{textwrap.indent(SNIPPETS[1], '    ')}    return result", names)
    result = asyncio.run(asyncio.wait_for(names["talk"](), 60))
    assert result.ok
    assert "was stopped" in result.answer


def test_what_is_named_exists():
    for name in set(re.findall(r"`(test_\w+\.py)`", PAGE)):
        assert (Path(__file__).parent / name).exists(), name
    for path in re.findall(r"\]\((\w[\w/.-]+)\)", PAGE):
        assert (ROOT / "docs" / path).exists(), path
    for verb in set(re.findall(r"^perilune (\w+)", PAGE, re.MULTILINE)):
        assert verb in VERBS, verb
    for status in FAILED:
        assert f"| `{status}` |" in PAGE
    for name in re.findall(r"(\w+)=\d+[, ]", PAGE):
        assert name in SwarmLimits.__struct_fields__, name
