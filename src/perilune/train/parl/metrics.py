"""What a step of PARL looked like: for each width, for dependent tasks, and for all together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import log2

from perilune.train.parl.rollout import Attempt

Numbers = dict[str, float]


def step_metrics(groups: Sequence[Sequence[Attempt]]) -> dict[str, Numbers]:
    """By width ("1" to "12"), "deep", and "all"; the attempts of a group are one task's."""
    by_stratum: dict[str, list[Sequence[Attempt]]] = {}
    for group in groups:
        stratum = group[0].task.stratum
        name = "deep" if stratum.deep else str(stratum.size)
        by_stratum.setdefault(name, []).append(group)
    order = sorted(by_stratum, key=lambda name: (not name.isdigit(), name.zfill(2)))
    return {name: _numbers(by_stratum[name]) for name in order} | {"all": _numbers(groups)}


def _numbers(groups: Sequence[Sequence[Attempt]]) -> Numbers:
    attempts = [one for group in groups for one in group]
    spawned = sum(one.episode.spawned for one in attempts)
    told = {
        "attempts": float(len(attempts)),
        "reward": _mean(one.terms.total for one in attempts),
        "performance": _mean(one.episode.performance for one in attempts),
        "f1": _mean(one.f1 for one in attempts),
        "cut_off": _mean(one.cut_off for one in attempts),
        "critical_steps": _mean(one.episode.critical_steps for one in attempts),
        # What one agent alone needs, over what was needed.
        "speed_up": _mean(
            one.task.serial_steps / max(one.episode.critical_steps, 1) for one in attempts
        ),
        "spawned": spawned / len(attempts),
        "widest_stage": _mean(max(one.episode.stages, default=0) for one in attempts),
        "over_width": _mean(one.episode.spawned > one.task.stratum.width for one in attempts),
        "wasted": sum(one.episode.wasted for one in attempts) / len(attempts),
        "died": sum(one.died for one in attempts) / len(attempts),
        "parallel_reward": _mean(one.terms.parallel for one in attempts),
        "finish_reward": _mean(one.terms.finish for one in attempts),
        "speed_reward": _mean(one.terms.speed for one in attempts),
        # In bits: 1 where half of the attempts at a task split it, 0 where all or none do.
        "spawn_entropy": _mean(
            _entropy(sum(one.episode.spawned > 0 for one in group) / len(group)) for group in groups
        ),
        "first_turn_logprob": _mean(_first_turn_logprob(one) for one in attempts),
        "groups_without_difference": float(
            sum(len({one.terms.total for one in group}) == 1 for group in groups)
        ),
    }
    if spawned:
        told["finish_rate"] = sum(one.episode.finished for one in attempts) / spawned
    return told


def _mean(values: Iterable[float]) -> float:
    listed = [float(value) for value in values]
    return sum(listed) / len(listed) if listed else 0.0


def _entropy(share: float) -> float:
    return -sum(p * log2(p) for p in (share, 1 - share) if 0 < p < 1)


def _first_turn_logprob(attempt: Attempt) -> float:
    """Mean log-probability of the tokens of the first turn, which decides whether to split."""
    marks = attempt.trajectory.generated
    if True not in marks:
        return 0.0
    begin = marks.index(True)
    length = marks[begin:].index(False) if False in marks[begin:] else len(marks) - begin
    logprobs = attempt.trajectory.logprobs[:length]
    return sum(logprobs) / len(logprobs)
