"""The smallest environment: repeat the letters that stand before the separator."""

from __future__ import annotations

from pathlib import Path

from perilune.train.data.sources import HELD_OUT
from perilune.train.data.synthetic import copy_source
from perilune.train.rl.rollout import Environment, Policy, Trajectory


class CopyTask:
    """Tasks of `copy_source`, from another part of its indices than training reads."""

    def __init__(self, seed: int, **options: int) -> None:
        self._source = copy_source(seed, None, **options)

    def _task(self, index: int) -> tuple[list[int], list[int], tuple[int, ...]]:
        document = self._source(2 * HELD_OUT + index)
        split = document.trained.index(True)
        return list(document.ids[:split]), list(document.ids[split:]), tuple(document.header)

    def rollouts(
        self,
        policy: Policy,
        index: int,
        *,
        samples: int,
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> list[Trajectory]:
        prompt, _, header = self._task(index)
        drawn = policy.sample(
            [*header, *prompt], samples=samples, max_tokens=max_tokens, temperature=temperature,
            stop_ids=(0,), seed=seed,
        )  # fmt: skip
        return [
            Trajectory(
                [*prompt, *one.ids],
                [False] * len(prompt) + [True] * len(one.ids),
                one.logprobs,
                one.finished,
                header,
            )
            for one in drawn
        ]

    def reward(self, index: int, trajectory: Trajectory) -> float:
        """The share of right tokens at their places; 1 only for all of them and the end."""
        prompt, answer, _ = self._task(index)
        said = trajectory.ids[len(prompt) :]
        same = sum(a == b for a, b in zip(said, answer, strict=False))
        return same / max(len(said), len(answer))


def copy_environment(seed: int, tokenizer: Path | None, **options: int) -> Environment:
    """Options as in `copy_source`."""
    return CopyTask(seed, **options)
