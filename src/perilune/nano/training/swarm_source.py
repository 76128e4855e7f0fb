"""Episodes of nano in a swarm as a source of documents (`nano-swarm` in a configuration).

Three kinds: `swarm`, the orchestrator's part behind its own header; `row`, a sub-agent's part; and
`table`, the same tables by nano alone. Rows and tables have the header of all other episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from perilune.chat.tokenizer import Tokenizer
from perilune.errors import UsageError
from perilune.nano.training.episode import Episode, Faults, play
from perilune.nano.training.facts import facts_of_seed
from perilune.nano.training.mixture import lookup_faults
from perilune.nano.training.policy import POLICIES, Policy, UnsolvableError
from perilune.nano.training.render import Renderer, orchestrator_renderer
from perilune.nano.training.tables import (
    parallel_table,
    row,
    serial_table,
    split_comparison,
    split_lookup,
)
from perilune.train.data.document import Document
from perilune.train.data.sources import Source
from perilune.world.families import generate_task
from perilune.world.seed import Seed, Split, Stream, weighted
from perilune.world.task import Task
from perilune.world.world import generate_world

Form = Literal["mixed", "serial", "parallel"]
"""Whether the orchestrator splits: as often as `SPLIT_SHARE` says, never, or wherever it can."""
FORMS: tuple[Form, ...] = ("mixed", "serial", "parallel")

KIND_WEIGHTS = {"swarm": 5, "row": 8, "table": 1}
"""Rows come often: a table that is split is as good as its rows."""
FAMILY_WEIGHTS = {"wide_table": 64, "lookup": 9, "hops": 10, "unanswerable": 5, "comparison": 12}
"""What the orchestrator is asked."""
ROWS = tuple(range(2, 13))
COMPARED = (2, 3, 4)
SPLIT_SHARE = {2: 0.12, 3: 0.15, 4: 0.4, 5: 0.6, 6: 0.85, 7: 0.92}
"""Of the tables of so many rows; wider ones as 7. The few that are split too much or too little are
what reinforcement learning chooses from."""
SPLIT_COMPARISONS = 0.1
SPLIT_LOOKUPS = 0.03
_FIRST_SEED = 2**61
"""Of the worlds, far from those of `nano-episodes`."""
_BLOCK = 4
"""Indices that share a world, of which a mixture draws some: making one takes long."""
_LOST = (
    "Error: the sub-agent died.",
    "Error: the sub-agent was stopped.",
    "Error: the sub-agent ran out of its budget.",
)
_LOST_SHARE = 0.05


def nano_swarm_source(
    seed: int,
    tokenizer: Path | None,
    *,
    kinds: dict[str, int] | None = None,
    form: Form = "mixed",
    rows: Sequence[int] = ROWS,
) -> Source:
    """An episode a document; only what the model says is trained.

    kinds: weights of `swarm`, `row` and `table`. form: of the orchestrator's episodes. rows: how
    many a table may have, each as often.
    """
    if tokenizer is None:
        raise UsageError("nano-swarm needs a tokenizer", remedy="Name its folder: tokenizer = ...")
    unknown = set(kinds or ()) - set(KIND_WEIGHTS)
    if unknown:
        raise UsageError(
            f"nano's swarm has no episodes of kind {sorted(unknown)[0]!r}",
            remedy=f"Use {[*KIND_WEIGHTS]}",
        )
    if form not in FORMS:
        raise UsageError(f"there is no form {form!r}", remedy=f"Use one of {[*FORMS]}")
    vocabulary = Tokenizer.from_pretrained(tokenizer)
    alone, orchestrator = Renderer(vocabulary), orchestrator_renderer(vocabulary)

    def document(index: int) -> Document:
        played = swarm_episode(seed * 2**44 + index, kinds or KIND_WEIGHTS, form, rows)
        renderer = orchestrator if played.kind.startswith("swarm") else alone
        ids, trained = renderer.render(played.messages)
        return Document(ids, trained, renderer.header, played.kind)

    return document


def swarm_episode(
    index: int,
    kinds: Mapping[str, int] = KIND_WEIGHTS,
    form: Form = "mixed",
    rows: Sequence[int] = ROWS,
) -> Episode:
    """The episode of an index: a pure function, and never of an exam's seed.

    Its kind is `row`, `table`, or `swarm-` and how it was solved.
    """
    seed = Seed(Split.TRAIN, _FIRST_SEED + index // _BLOCK)
    stream = Seed(Split.TRAIN, index).stream("episode of a swarm")
    while True:
        kind = weighted(stream, kinds)
        try:
            return _PLAYS[kind](seed, stream, form, rows)
        except UnsolvableError:
            continue


def _row(seed: Seed, stream: Stream, form: Form, rows: Sequence[int]) -> Episode:
    """What an orchestrator may ask of a sub-agent, sometimes of what no source says."""
    world = generate_world(seed)
    name = stream.pick(tuple(world.entities))
    attributes = [
        each for each in world.kind_of(name).attributes if (name, each.name) not in world.disputed
    ]
    known = [each for each in attributes if world.settled(name, each.name)]
    chosen = known if stream.chance(0.9) else attributes
    count = min(len(chosen), stream.pick((1, 2, 2, 2, 3, 3, 3)))
    labels = [stream.pick(each.labels) for each in stream.sample(chosen, count)]
    prompt = f"{', '.join(labels)}\n{name}"
    played = play(prompt, row(prompt), facts_of_seed(seed), lookup_faults(stream))
    return replace(played, kind="row")


def _table(seed: Seed, stream: Stream, form: Form, rows: Sequence[int]) -> Episode:
    task = generate_task(seed, "wide_table", size=stream.pick(rows))
    faults = lookup_faults(stream)
    return replace(play(task.prompt, serial_table(task), facts_of_seed(seed), faults), kind="table")


def _swarm(seed: Seed, stream: Stream, form: Form, rows: Sequence[int]) -> Episode:
    family = weighted(stream, FAMILY_WEIGHTS)
    size = None
    if family == "wide_table":
        size = stream.pick(rows)
    elif family == "comparison":
        size = stream.pick(COMPARED)
    task = generate_task(seed, family, size=size)
    split = _split(task, stream, form)
    faults = _lost(stream, task.width) if split else lookup_faults(stream)
    played = play(task.prompt, _policy(task, split), facts_of_seed(seed), faults)
    way = f"{'split-' if split else ''}{'table' if family == 'wide_table' else family}"
    return replace(played, kind=f"swarm-{way}")


def _split(task: Task, stream: Stream, form: Form) -> bool:
    share = {
        "wide_table": SPLIT_SHARE.get(task.width, SPLIT_SHARE[7]),
        "comparison": SPLIT_COMPARISONS,
        "lookup": SPLIT_LOOKUPS,
    }.get(task.family, 0.0)
    if form == "parallel" and task.width > 1:
        share = float(share > 0)
    return stream.chance(0.0 if form == "serial" else share)


def _policy(task: Task, split: bool) -> Policy:
    policies: Mapping[str, Callable[[Task], Policy]] = POLICIES | {"wide_table": serial_table}
    if split:
        policies = {
            "wide_table": parallel_table,
            "comparison": split_comparison,
            "lookup": split_lookup,
        }
    return policies[task.family](task)


def _lost(stream: Stream, width: int) -> Faults:
    """Rarely one of the sub-agents fails; the calls are numbered, and making it is call 0."""
    if not stream.chance(_LOST_SHARE):
        return {}
    return {1 + stream.below(width): stream.pick(_LOST)}


_PLAYS = {"swarm": _swarm, "row": _row, "table": _table}
