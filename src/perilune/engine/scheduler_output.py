"""What the scheduler decided for one step: which rows of which sequences, and page copies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perilune.engine.request import SequenceState
    from perilune.runner.batch import RowVectors


@dataclass(eq=False, slots=True)
class ScheduledSequence:
    """A sequence's part in a step: `count` of its tokens from `start`, then guessed `drafts`."""

    sequence: SequenceState
    start: int
    count: int
    drafts: list[int] = field(default_factory=list)
    vectors: RowVectors | None = None  # of the rows that are of pictures

    @property
    def completes(self) -> bool:
        """After these rows none of its tokens is pending, so the next one is picked."""
        return self.start + self.count == len(self.sequence.tokens)

    @property
    def scores_prompt(self) -> bool:
        """Whether the log probabilities of the prompt's own tokens are asked for."""
        return self.sequence.scores_prompt

    @property
    def num_wanted(self) -> int:
        """Rows whose logits are wanted, counted from the last."""
        if self.scores_prompt:
            return self.count
        return self.num_sampled

    @property
    def num_sampled(self) -> int:
        """Rows that a token is sampled from, counted from the last."""
        return 1 + len(self.drafts) if self.completes else 0


@dataclass(eq=False, slots=True)
class SchedulerOutput:
    """What the scheduler decided for one step: the rows, and the page copies to make before."""

    scheduled: list[ScheduledSequence]
    copies: list[tuple[int, int]] = field(default_factory=list)  # (from, to), made in order

    @property
    def num_tokens(self) -> int:
        return sum(rows.count + len(rows.drafts) for rows in self.scheduled)
