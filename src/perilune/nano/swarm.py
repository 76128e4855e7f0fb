"""How `nano`, the embedded model, orchestrates a swarm of itself: its prompt, tools and limits.

The orchestrator has a header of its own, which it was trained with; its sub-agents are nano as
`perilune.nano.agent` runs it, down to the last token of their prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perilune.agent.agent import Agent
from perilune.agent.models.chat_model import ChatModel, Sampling
from perilune.nano.agent import nano_agent
from perilune.search.facts import FactStore
from perilune.swarm.backend import LocalBackend
from perilune.swarm.limits import SwarmLimits
from perilune.swarm.swarm import MakeBackend, Swarm
from perilune.swarm.workspaces import WorkspaceKind

ORCHESTRATOR_PROMPT = "You are nano. Look up facts, calculate with python, or split a table."

SAMPLING = Sampling(temperature=0.0, max_tokens=1024)
"""Twelve assignments of one turn are about 600 tokens."""

LIMITS = SwarmLimits(main_steps=50, sub_agent_steps=12, sub_agents=16, tool_calls=200)
"""A table of 12 rows of 3, looked up serially, takes 37 steps."""


def nano_swarm(
    orchestrator: ChatModel | Path,
    worker: ChatModel | Path | None = None,
    store: FactStore | None = None,
    *,
    sampling: Sampling = SAMPLING,
    limits: SwarmLimits = LIMITS,
    workspaces: WorkspaceKind = "empty",
    **options: Any,
) -> Swarm:
    """A swarm whose orchestrator was trained as nano was; `store` None: the almanac.

    `worker`: the sub-agents' model, left out: the orchestrator's. `sampling` is the orchestrator's;
    sub-agents are greedy. `options` are those of `Agent`, for both.
    """
    agent = nano_agent(orchestrator, store, **options)
    return swarm_of(
        agent,
        nano_agent(worker, store, **options) if worker is not None else agent,
        sampling=sampling,
        limits=limits,
        workspaces=workspaces,
    )


def swarm_of(
    agent: Agent,
    worker: Agent | None = None,
    *,
    sampling: Sampling = SAMPLING,
    limits: SwarmLimits = LIMITS,
    workspaces: WorkspaceKind = "empty",
    make_backend: MakeBackend = LocalBackend,
) -> Swarm:
    """The swarm of one that `nano_agent` made, and of sub-agents like it or like `worker`."""
    return Swarm(
        agent.copy_with(system_prompt=ORCHESTRATOR_PROMPT, sampling=sampling),
        worker=worker or agent,
        limits=limits,
        workspaces=workspaces,
        helpers=False,
        compact=True,
        make_backend=make_backend,
    )
