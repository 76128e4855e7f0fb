"""Plays oracles through the real loop, tools and sandbox, and keeps the episodes that pass.

An episode is rejected where the run does not end with an answer, the oracle did not see what it
should, or the task's verifier objects.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from perilune.agent.agent import Agent
from perilune.agent.models.scripted import ScriptedModel
from perilune.agent.tool_registry import declaration
from perilune.agent.world_tasks import judge, set_scene
from perilune.sandbox import Sandbox
from perilune.train.episodes import repair, research
from perilune.train.episodes.episode import Episode
from perilune.train.episodes.turn import Policy, PolicyTape, in_call_order
from perilune.world.articles import Style
from perilune.world.families import generate_task
from perilune.world.seed import GENERATOR_VERSION, Seed
from perilune.world.task import Task

SYSTEM = "You complete tasks with tools. Look things up, check them, and give only the answer."
"""The system prompt of episodes: short, for it is in each of them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How an episode is to be: None leaves a choice to a coin that is a function of the seed.

    `mistakes` is the share of episodes with a planted mistake and its repair.
    """

    style: Style | None = None
    together: bool | None = None
    mistakes: float = 0.3
    system_prompt: str = SYSTEM


@dataclass(frozen=True, slots=True)
class Rejected:
    """A task whose episode is worth nothing, and why."""

    seed: Seed
    family: str
    reason: str


def oracle(task: Task, plan: Plan) -> tuple[Policy, Style, bool]:
    """The policy for a task, the style of its articles, and whether it puts calls together."""
    stream = task.seed.stream(f"episode {task.family}")
    style = stream.pick(tuple(Style))
    together = stream.chance(0.5)
    errs = stream.chance(plan.mistakes)
    style = plan.style or style
    together = together if plan.together is None else plan.together
    if task.files:
        slip = stream.pick(repair.MISTAKES) if errs else ""
        policy = repair.Repairer(task, stream, together=together, mistake=slip).play()
        return policy, style, together
    kind = stream.pick(research.mistakes_of(task)) if errs else ""
    player = research.Researcher(task, stream, together=together, mistake=kind)
    return player.play(), style, together and task.width > 1


async def record_episode(
    seed: Seed,
    family: str,
    *,
    size: int | None = None,
    plan: Plan | None = None,
    sandbox: Sandbox | None = None,
) -> Episode | Rejected:
    """Play one task. `sandbox` runs what `python` and `run_tests` run; None opens the strong one
    where it is needed, save for repairs, which need it given."""
    plan = plan or Plan()
    task = generate_task(seed, family, size=size)
    policy, style, together = oracle(task, plan)
    tape = PolicyTape(policy)
    with set_scene(task, style, within=_memory()) as scene:
        agent = Agent(
            ScriptedModel(tape, name="oracle"),
            scene.tools,
            system_prompt=plan.system_prompt,
            workspace=scene.workspace,
            context="keep",
            sandbox=sandbox,
            snapshot=False,
            home=scene.folder,
        )
        async with agent.session() as session:
            result = await session.run(task.prompt)
            messages = in_call_order(session.state.messages)
        if tape.lost or not result.ok:
            return Rejected(seed, family, tape.lost or f"{result.reason}: {result.detail}")
        verdict = await judge(scene, result.answer, sandbox)
        tools = [declaration(each) for each in scene.tools]
    if not verdict.passed:
        return Rejected(seed, family, verdict.reason)
    if plan.system_prompt:
        messages.insert(0, {"role": "system", "content": plan.system_prompt})
    own = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    return Episode(
        family=family,
        variant=task.variant,
        split=seed.split.value,
        seed=seed.index,
        generator_version=GENERATOR_VERSION,
        style=style.value,
        together=together,
        width=task.width,
        messages=messages,
        tools=tools,
        mistakes={
            at: turn.mistake for at, turn in zip(own, tape.turns, strict=True) if turn.mistake
        },
    )


def _memory() -> Path | None:
    """A folder in memory where the system has one: the journal of an episode need not last."""
    folder = Path("/dev/shm")  # noqa: S108 - a fresh folder of our own is made in it
    return folder if folder.is_dir() and os.access(folder, os.W_OK) else None
