"""A step whose experts cannot be had: only the requests that need them fail.

The rows of a step share one forward. Where its experts could not be brought into memory, each
sequence is computed alone: writing the same latents once more changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from perilune.engine.prepare_inputs import prepare_inputs
from perilune.engine.scheduler_output import ScheduledSequence, SchedulerOutput
from perilune.errors import ExpertStoreError
from perilune.runner.cache import PagedLatentCache
from perilune.runner.runner import ModelRunner

Failed = list[tuple[ScheduledSequence, ExpertStoreError]]


def execute(
    runner: ModelRunner, batch: SchedulerOutput, cache: PagedLatentCache, vocab_size: int
) -> tuple[Tensor, Failed]:
    """-> logits of all wanted rows, and the sequences that failed, whose logits are zero."""
    try:
        return runner.execute(prepare_inputs(batch), cache), []
    except ExpertStoreError as error:
        if len(batch.scheduled) == 1:
            (rows,) = batch.scheduled
            return torch.zeros(rows.num_wanted, vocab_size), [(rows, error)]
    parts = [
        execute(runner, SchedulerOutput([rows]), cache, vocab_size) for rows in batch.scheduled
    ]
    return (
        torch.cat([logits for logits, _ in parts]),
        [failure for _, failed in parts for failure in failed],
    )
