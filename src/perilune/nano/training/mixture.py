"""Which episodes nano learns from, by index: a pure function, so that data has a position.

The same index gives the same episode in every process; exam seeds are never drawn from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from perilune.nano.training.dialogue import dialogue, drill, sum_question
from perilune.nano.training.episode import Episode, Faults, play
from perilune.nano.training.facts import facts_of_seed
from perilune.nano.training.gazetteer import lookup_question, pair_question, real_question
from perilune.nano.training.policy import POLICIES, UnsolvableError
from perilune.world.families import generate_task
from perilune.world.seed import Seed, Split, Stream, weighted

_BLOCK = 2
"""Episodes in a row that share a world, for making one takes as long as using it."""
FAMILY_WEIGHTS = {
    "lookup": 10,
    "unanswerable": 6,
    "reverse_lookup": 8,
    "hops": 14,
    "arithmetic": 18,
    "comparison": 26,
    "selection": 4,
    "conflict": 3,
}
KIND_WEIGHTS = {
    "world": 46, "almanac": 14, "real": 12, "pair": 10, "dialogue": 4, "sum": 3, "drill": 11,
}  # fmt: skip
SIZES = {"arithmetic": (2, 2, 3, 3, 4), "comparison": (2, 2, 3, 3, 4), "selection": (3, 4)}
_FAULTS = (
    "Not found.",
    "Error: the request timed out",
    "Error: the service is overloaded, try again",
    "Error: no result after 30 s; the call was stopped.",
    "Error: connection reset",
)
_FAULTY, _FAULTY_TWICE = 0.06, 0.25


def episode(index: int, weights: Mapping[str, int] = KIND_WEIGHTS) -> Episode:
    """The episode of an index. Those without a solution are passed over for the next try.

    `weights`: how often each kind comes, for a curriculum.
    """
    stream = Seed(Split.TRAIN, index).stream("episode")
    while True:
        kind = weighted(stream, weights)
        try:
            if kind == "world":
                return _world_episode(index, stream)
            question = _QUESTIONS[kind](stream)
            faults = lookup_faults(stream) if kind in ("almanac", "real", "pair") else {}
            played = play(question.text, question.policy, question.facts, faults)
            return replace(played, kind=kind)
        except UnsolvableError:
            continue


def _world_episode(index: int, stream: Stream) -> Episode:
    seed = Seed(Split.TRAIN, index // _BLOCK)
    family = weighted(stream, FAMILY_WEIGHTS)
    size = stream.pick(SIZES[family]) if family in SIZES else None
    task = generate_task(seed, family, size=size)
    played = play(task.prompt, POLICIES[family](task), facts_of_seed(seed), lookup_faults(stream))
    return replace(played, kind=family)


def lookup_faults(stream: Stream) -> Faults:
    """Rarely a call fails, or the first one finds nothing; sometimes the next call does, too."""
    if not stream.chance(_FAULTY):
        return {}
    at = stream.pick((0, 0, 0, 1, 2))
    fault = stream.pick(_FAULTS[1:] if at else _FAULTS)
    return {at: fault, at + 1: fault} if stream.chance(_FAULTY_TWICE) else {at: fault}


_QUESTIONS = {
    "almanac": lookup_question,
    "real": real_question,
    "pair": pair_question,
    "dialogue": dialogue,
    "sum": sum_question,
    "drill": drill,
}
