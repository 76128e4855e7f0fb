"""An oracle orchestrator loses nothing: item F1 of 1 and the task's own critical steps."""

from __future__ import annotations

import pytest

from perilune.agent.agent import Agent
from perilune.swarm.limits import SwarmLimits
from perilune.swarm.oracle import oracle_model, world_search
from perilune.swarm.reward import critical_step_budget, episode_of, reward
from perilune.swarm.swarm import Swarm
from perilune.world import Seed, Split, generate_task


def swarm_for(task, workspace, home, **limits) -> Swarm:
    agent = Agent(
        oracle_model(task), [world_search(task)], workspace=workspace, home=home, snapshot=False,
        verifiers=(),
    )  # fmt: skip
    return Swarm(agent, limits=SwarmLimits(**limits), workspaces="empty")


@pytest.mark.parametrize("width", range(1, 13))
async def test_every_width_is_solved_in_the_critical_steps_that_it_needs(width, workspace, home):
    # A table has at least two rows; one fact alone is a look-up.
    family, size = ("lookup", None) if width == 1 else ("wide_table", width)
    task = generate_task(Seed(Split.TRAIN, 40 + width), family, size=size)
    async with swarm_for(task, workspace, home).session() as session:
        result = await session.run(task.prompt)
    verdict = task.verify(result.answer)
    assert (verdict.passed, verdict.score) == (True, 1.0), verdict.reason
    assert result.critical_steps == task.solution.critical_steps
    assert result.sub_agents == (width if task.solution.splitting_pays else 0)
    if task.solution.splitting_pays:
        assert result.serial_steps > result.critical_steps
    episode = episode_of(session.state, verdict.score, task.width)
    assert episode.finished == episode.spawned == result.sub_agents
    assert reward(episode, 1.0).total > 1.0
    assert result.critical_steps <= critical_step_budget(task.width, task.solution.critical_steps)


async def test_the_oracle_says_only_what_it_was_told(workspace, home):
    """With one sub-agent refused, its row is missing from the table, and from nothing else."""
    task = generate_task(Seed(Split.TRAIN, 50), "wide_table", size=8)
    result = await swarm_for(task, workspace, home, sub_agents=7).arun(task.prompt)
    verdict = task.verify(result.answer)
    assert not verdict.passed
    assert verdict.score == pytest.approx(2 * 7 / (7 + 8))
    assert len(result.missing) == 1
    assert len(result.answer.splitlines()) == 2 + 7
