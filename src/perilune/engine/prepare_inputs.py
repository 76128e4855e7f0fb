"""What the scheduler decided -> what a model runner reads."""

from __future__ import annotations

from perilune.engine.scheduler_output import ScheduledSequence, SchedulerOutput
from perilune.runner.batch import ForwardBatch, SequenceRows, build_batch


def prepare_inputs(output: SchedulerOutput) -> ForwardBatch:
    """The tokens of a step as flat tensors, sequence by sequence."""
    return build_batch([_rows(part) for part in output.scheduled])


def _rows(part: ScheduledSequence) -> SequenceRows:
    sequence = part.sequence
    tokens = sequence.tokens[part.start : part.start + part.count] + part.drafts
    until = sequence.expanded_until or 0
    return SequenceRows(tokens, part.start, sequence.pages, part.num_wanted, until, part.vectors)
