"""The suite `world`: generated tasks of exam seeds, worked on by the agent with its tools."""

from __future__ import annotations

from collections.abc import Sequence

from perilune.agent.agent import Agent
from perilune.agent.budgets import Budget
from perilune.agent.endings import ModelFailed
from perilune.agent.tool_registry import declaration
from perilune.agent.world_tasks import judge, set_scene
from perilune.exam.suites.suite import Examinee, Outcome, Question
from perilune.world.families import FAMILIES, generate_task
from perilune.world.seed import GENERATOR_VERSION, Seed, Split

SEEDS = 1_000_000
"""Worlds of one exam seed; those of another share none with them."""


class WorldSuite:
    """`questions` of each family over unseen worlds; exam seeds never appear in training."""

    name = "world"
    about = "our generated worlds: search, hops, arithmetic, tables, conflicts, repairs, reports"
    needs_sandbox = True
    default_limit = 110

    def version(self) -> str:
        return f"generator {GENERATOR_VERSION}"

    def categories(self) -> Sequence[str]:
        return tuple(FAMILIES)

    def default_categories(self) -> Sequence[str]:
        return self.categories()

    def size(self, category: str) -> int | None:
        return None

    def question(self, category: str, index: int, seed: int) -> Question:
        world = Seed(Split.EXAM, seed * SEEDS + index)

        async def put(examinee: Examinee) -> Outcome:
            return await _put(examinee, world, category)

        return Question(f"{category}/{world.index}", category, put)

    async def close(self) -> None:
        pass


async def _put(examinee: Examinee, seed: Seed, family: str) -> Outcome:
    task = generate_task(seed, family)
    with set_scene(task) as scene:
        agent = Agent(
            examinee.model,
            scene.tools,
            workspace=scene.workspace,
            budget=Budget(steps=examinee.max_steps),
            sampling=examinee.sampling,
            sandbox=examinee.sandbox,
            snapshot=False,
            home=scene.folder,
        )
        async with agent.session() as session:
            result = await session.run(task.prompt)
            messages = list(session.state.messages)
        if result.reason == ModelFailed.reason:
            raise ModelFailed(result.detail)
        verdict = await judge(scene, result.answer, examinee.sandbox)
    # A run that ended without an answer has only what it said last; that is judged all the same.
    ending = "" if result.ok else f" ({result.reason})"
    return Outcome(
        passed=verdict.passed,
        score=verdict.score,
        answer=result.answer,
        reason="" if verdict.passed else f"{verdict.reason}{ending}",
        messages=[{"role": "system", "content": agent.system_prompt}, *messages],
        tools=[declaration(each) for each in scene.tools],
        steps=result.steps,
        usage=result.usage,
    )
