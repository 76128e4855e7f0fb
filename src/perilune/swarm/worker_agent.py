"""What a sub-agent is made of: an agent, bounded by the swarm's limits."""

from __future__ import annotations

import asyncio
import dataclasses

from perilune.agent.agent import Agent
from perilune.agent.permissions.permissions import Approver, PermissionAnswer, PermissionRequest
from perilune.swarm.limits import SwarmLimits
from perilune.swarm.meter import Meter, shared

RETRY_ATTEMPTS = 20
"""A burst of refusals hits many sub-agents at once; each waits longer before it gives up."""


def bounded(worker: Agent, limits: SwarmLimits, meter: Meter | None) -> Agent:
    """The agent with the smaller of its own and the swarm's budgets, and no snapshots: it works in
    a workspace of its own."""
    seconds = [
        each
        for each in (
            worker.budget.seconds,
            limits.sub_agent_seconds,
            None if limits.seconds is None else limits.seconds * (1 - limits.reserve),
        )
        if each is not None
    ]
    steps = [each for each in (worker.budget.steps, limits.sub_agent_steps) if each is not None]
    return worker.copy_with(
        budget=shared(
            worker.budget,
            meter,
            share=1 - limits.reserve,
            steps=min(steps, default=None),
            seconds=min(seconds, default=None),
        ),
        retry=dataclasses.replace(
            worker.retry, attempts=max(worker.retry.attempts, RETRY_ATTEMPTS)
        ),
        approver=one_at_a_time(worker.approver) if worker.approver else None,
        snapshot=False,
    )


def one_at_a_time(approver: Approver) -> Approver:
    """A person can answer one question at a time."""
    lock = asyncio.Lock()

    async def ask(request: PermissionRequest) -> PermissionAnswer:
        async with lock:
            return await approver(request)

    return ask
