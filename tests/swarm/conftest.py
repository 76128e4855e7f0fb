"""Fixtures of the swarm's tests: an orchestrator and sub-agents on one tape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from perilune.agent.agent import Agent
from perilune.agent.journal.journal import read_journal
from perilune.agent.models.chat_model import Message
from perilune.agent.models.retry import RetryPolicy
from perilune.agent.models.scripted import Call, Reply, ScriptedModel, Turn
from perilune.home import find_run
from perilune.swarm.limits import SwarmLimits
from perilune.swarm.swarm import Swarm

MakeSwarm = Callable[..., Swarm]
SubTape = Callable[[str, int, Sequence[Message]], Turn]
"""`(prompt, turn, messages)` of a sub-agent -> its next turn."""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def is_orchestrator(tools: Sequence[dict[str, Any]]) -> bool:
    return any(each["function"]["name"] == "assign_task" for each in tools)


def prompt_of(messages: Sequence[Message]) -> str:
    return str(next(each["content"] for each in messages if each["role"] == "user"))


def turn_of(messages: Sequence[Message]) -> int:
    return sum(each["role"] == "assistant" for each in messages)


def split(*prompts: str, agent: str = "worker", create: bool = True) -> Reply:
    """A turn that creates an agent and gives it all prompts at once."""
    make = [Call("create_subagent", {"name": agent, "system_prompt": f"You are {agent}."})]
    give = [Call("assign_task", {"agent": agent, "prompt": each}) for each in prompts]
    return Reply(calls=[*make * create, *give])


def last_results(messages: Sequence[Message]) -> list[str]:
    """The tool results since the last assistant message, whatever Perilune said after them."""
    results: list[str] = []
    for message in reversed(messages):
        if message["role"] == "user":
            continue
        if message["role"] != "tool":
            break
        results.insert(0, str(message["content"]))
    return results


def answer_with_results(messages: Sequence[Message]) -> Reply:
    return Reply("\n".join(each for each in last_results(messages) if "created" not in each))


@pytest.fixture
def make_swarm(workspace: Path, home: Path) -> MakeSwarm:
    """A swarm whose orchestrator plays `main` (turns, or a function of the messages) and whose
    sub-agents play `sub`."""

    def make(
        main: Sequence[Turn] | Callable[[Sequence[Message]], Turn],
        sub: SubTape,
        tools: Any = (),
        *,
        window: int | None = None,
        limits: SwarmLimits | None = None,
        workspaces: str = "empty",
        agent_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> Swarm:
        def tape(messages: Sequence[Message], declared: Sequence[dict[str, Any]]) -> Turn:
            if not is_orchestrator(declared):
                return sub(prompt_of(messages), turn_of(messages), messages)
            if callable(main):
                return main(messages)
            turn = main[min(turn_of(messages), len(main) - 1)]
            return turn(messages) if callable(turn) else turn

        agent = Agent(
            ScriptedModel(tape, context_window=window),
            tools,
            **{
                "workspace": workspace,
                "home": home,
                "retry": RetryPolicy(base=0.001),
                "snapshot": False,
                "verifiers": (),
                **(agent_options or {}),
            },
        )
        return Swarm(agent, limits=limits, workspaces=workspaces, **options)

    return make


def events_of(home: Path, run: str, kind: Any, sub: str = "") -> list[Any]:
    folder = find_run(run, home)
    history = read_journal(folder / "swarm" / sub if sub else folder)
    assert not history.damage
    return [record.event for record in history.records if isinstance(record.event, kind)]
