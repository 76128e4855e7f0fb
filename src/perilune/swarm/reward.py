"""The reward of parallel-agent reinforcement learning (PARL), as a pure function of an episode.

The published form is `r_perf + l1 r_parallel + l2 r_finish` with l1 and l2 annealed to nought
(arXiv 2602.02276). Two terms that stay are ours: without a reward for speed, strong sub-agents make
the orchestrator fall back to serial work once the shaping is gone; and a small price of each
sub-agent keeps it from splitting what needs no splitting. Counting sub-agents as such would be
answered with as many of them as are allowed, so the parallel term is measured against the task's
own width (`Task.width`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import msgspec

from perilune.swarm.assignment import FAILED

if TYPE_CHECKING:
    from perilune.swarm.state import AssignmentState, SwarmState


class RewardWeights(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The weights. `parallel` and `finish` fade over the first `anneal` of training.

    `cost` must stay below what speed pays: 0.2 * (n + 1 - 4) / (2 n + 6) / n per sub-agent for a
    task of width n, which is 0.0036 at n = 4 and 0.005 at n = 12.
    """

    parallel: float = 0.3
    finish: float = 0.2
    speed: float = 0.2
    cost: float = 0.003
    anneal: float = 0.6


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    """What the reward looks at.

    `performance` is 0 to 1 (1: the whole answer is right), `width` the task's independent
    sub-questions. `stages` counts the sub-agents of each stage that were given work of their own,
    `finished` those of all stages that delivered, `wasted` those that were given nothing or what
    another one had been given: they cost, and earn nothing. `critical_steps` as in `SwarmState`.
    """

    performance: float
    width: int
    stages: list[int]
    finished: int
    critical_steps: int
    wasted: int = 0

    @property
    def spawned(self) -> int:
        return sum(self.stages) + self.wasted


class Reward(msgspec.Struct, frozen=True, kw_only=True):
    """The terms as they entered the sum, weights included; `total` is their sum."""

    performance: float
    parallel: float
    finish: float
    speed: float
    cost: float

    @property
    def total(self) -> float:
        return self.performance + self.parallel + self.finish + self.speed + self.cost


def fade(progress: float, anneal: float) -> float:
    """1 at the beginning of training, 0 from `anneal` of it on, a line between."""
    return max(0.0, 1.0 - progress / anneal) if anneal > 0 else 0.0


def reward(episode: Episode, progress: float, weights: RewardWeights | None = None) -> Reward:
    """The reward of an episode at `progress` (0 to 1) of the training.

    An episode over its critical-step budget is cut off by whoever runs it, and has performance 0.
    """
    weights = weights or RewardWeights()
    shaping = fade(progress, weights.anneal)
    width, spawned = episode.width, episode.spawned
    # A task of width 1 has nothing to split, so no split of it is rewarded, finished or not.
    splits = width > 1 and spawned > 0
    breadth = min(max(episode.stages, default=0), width) / width if splits else 0.0
    share = episode.finished / spawned if splits else 0.0
    slack = 1.0 - episode.critical_steps / (2 * width + 6)
    solved = episode.performance >= 1.0
    return Reward(
        performance=episode.performance,
        parallel=shaping * weights.parallel * breadth,
        finish=shaping * weights.finish * share,
        speed=weights.speed * slack if solved else 0.0,
        cost=-weights.cost * spawned,
    )


def critical_step_budget(width: int, optimum: int) -> int:
    """Critical steps that an episode may take: 1.2 times the parallel optimum from width 8 on, so
    that serial work does not fit; room for serial work up to width 3; between them a line.
    """
    tight, generous = optimum * 1.2, 2.0 * width + 6
    if width >= 8:
        return max(optimum, round(tight))
    if width <= 3:
        return round(generous)
    part = (width - 3) / 5
    return max(optimum, round((1 - part) * generous + part * tight))


def advantages(rewards: Sequence[float]) -> list[float]:
    """Rewards of one prompt's group less their mean; no scaling, as K2's reports have it."""
    mean = sum(rewards) / len(rewards) if rewards else 0.0
    return [each - mean for each in rewards]


def episode_of(
    state: SwarmState,
    performance: float,
    width: int,
    *,
    names: Collection[str] | None = None,
    cut_off: bool = False,
) -> Episode:
    """An episode as the reward sees it, from the swarm's own record.

    Work that was given to the same kind of agent before, and did not fail, is wasted; so is work
    that mentions none of the `names` that the task is about. Of an episode that was cut off, what
    its last stage had under way did not finish, however far it was.
    """
    own: dict[int, list[AssignmentState]] = {}
    given: set[tuple[str, str]] = set()
    wasted = 0
    for each in state.assignments.values():
        prompt = " ".join(each.prompt.casefold().split())
        work = (state.agents.get(each.agent, ""), prompt)
        if work in given or not _mentions(prompt, names):
            wasted += 1
            continue
        if each.status not in FAILED:
            given.add(work)
        own.setdefault(each.stage, []).append(each)
    return Episode(
        performance=performance,
        width=width,
        stages=[len(stage) for stage in own.values()],
        finished=sum(
            each.status not in FAILED and each.status != "running"
            for number, stage in own.items()
            if not (cut_off and number == state.main_steps)
            for each in stage
        ),
        critical_steps=state.critical_steps,
        wasted=wasted,
    )


def _mentions(prompt: str, names: Collection[str] | None) -> bool:
    return bool(prompt) and (
        names is None
        or any(re.search(rf"\b{re.escape(name.casefold())}\b", prompt) for name in names)
    )
