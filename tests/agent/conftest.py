"""Fixtures of the agent's tests: a workspace, a home for runs, and an agent on a tape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perilune.agent.agent import Agent
from perilune.agent.models.retry import RetryPolicy
from perilune.agent.models.scripted import ScriptedModel, Tape

MakeAgent = Callable[..., Agent]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def make_agent(workspace: Path, home: Path) -> MakeAgent:
    """An agent that plays a tape, with retries that do not make the test wait."""

    def make(tape: Tape, tools: Any = (), *, window: int | None = None, **options: Any) -> Agent:
        options.setdefault("retry", RetryPolicy(base=0.001))
        options.setdefault("workspace", workspace)
        options.setdefault("home", home)
        model = ScriptedModel(tape, context_window=window)
        return Agent(model, tools, **options)

    return make
