"""What one forward of the network is given: rows of many sequences, flattened, and where they read.

Shape legend: T rows of this step, S sequences, P pages of the longest sequence, R wanted rows,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perilune.runner.pages import pages_for


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """One forward of a mixed prefill and decode batch. All tensors are int32 on the CPU.

    A token at position p of sequence s lives in page `page_tables[s, p // 64]`, slot `p % 64`.
    A forward writes the latents of its own rows there first and then attends, row by row, to
    positions 0..p inclusive. Anything behind `context_lengths` in a page is stale and never read.
    """

    input_ids: Tensor  # [T]
    positions: Tensor  # [T]
    query_starts: Tensor  # [S+1] rows of sequence s are query_starts[s]:query_starts[s+1]
    page_tables: Tensor  # [S, P] page ids of each sequence, padded with -1
    context_lengths: Tensor  # [S] tokens in the cache after this step, its own rows included
    logits_rows: Tensor  # [R] rows of T whose logits are wanted
    expanded_until: Tensor  # [S] rows at positions below this may attend in the expanded form

    @property
    def num_rows(self) -> int:
        return self.input_ids.shape[0]

    @property
    def num_sequences(self) -> int:
        return self.context_lengths.shape[0]


@dataclass(frozen=True, slots=True)
class SequenceRows:
    """The rows of one sequence in a step: `tokens` at positions `start`, `start + 1`, ..."""

    tokens: Sequence[int]
    start: int
    pages: Sequence[int]
    wanted: int  # logits are wanted for the last `wanted` rows
    expanded_until: int = 0


def build_batch(sequences: Sequence[SequenceRows]) -> ForwardBatch:
    """Flatten the rows of all sequences of a step, in the order given."""
    ids: list[int] = []
    positions: list[int] = []
    starts = [0]
    lengths: list[int] = []
    wanted: list[int] = []
    for rows in sequences:
        ids.extend(rows.tokens)
        end = rows.start + len(rows.tokens)
        positions.extend(range(rows.start, end))
        starts.append(len(ids))
        lengths.append(end)
        wanted.extend(range(len(ids) - rows.wanted, len(ids)))
    used = [pages_for(length) for length in lengths]
    width = max(used, default=0)
    tables = [
        [*rows.pages[:n], *([-1] * (width - n))] for rows, n in zip(sequences, used, strict=True)
    ]

    def tensor(values: object) -> Tensor:
        return torch.tensor(values, dtype=torch.int32)

    return ForwardBatch(
        input_ids=tensor(ids),
        positions=tensor(positions),
        query_starts=tensor(starts),
        page_tables=tensor(tables).reshape(len(sequences), width),
        context_lengths=tensor(lengths),
        logits_rows=tensor(wanted),
        expanded_until=tensor([rows.expanded_until for rows in sequences]),
    )
