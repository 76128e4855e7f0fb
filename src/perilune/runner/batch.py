"""What one forward of the network is given: rows of many sequences, flattened, and where they read.

Shape legend: T rows of this step, S sequences, P pages of the longest sequence, R wanted rows,
V vocabulary, N rows that are given as vectors, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from perilune.errors import UsageError
from perilune.runner.pages import pages_for


@dataclass(frozen=True, slots=True)
class RowVectors:
    """Rows whose embedding is given and not looked up, as a picture's are.

    `values` are in the activation type of the model (the dtype of its embedding table) or in
    float32. The ids of such rows are placeholders: any of the vocabulary.
    """

    rows: Tensor  # int32 [N], ascending, each once
    values: Tensor  # [N, D]

    def between(self, start: int, end: int) -> RowVectors | None:
        """Those of rows `start` to `end` (exclusive), counted from `start`; None: there are none.

        This is how a chunk of a prompt gets its part of the prompt's vectors.
        """
        inside = (self.rows >= start) & (self.rows < end)
        if not bool(inside.any()):
            return None
        return RowVectors(self.rows[inside] - start, self.values[inside])

    def check(self, num_rows: int, hidden: int, dtype: torch.dtype) -> None:
        """Raise UsageError where these are not vectors of a step of `num_rows` rows.

        `dtype` is the activation type, `hidden` the width of the model.
        """
        if self.rows.dim() != 1 or self.rows.dtype != torch.int32:
            raise UsageError(
                f"rows of vectors must be int32 [N], not {self.rows.dtype} {list(self.rows.shape)}"
            )
        if self.rows.device.type != "cpu":
            raise UsageError(f"rows of vectors must be on the CPU, not on {self.rows.device}")
        wanted = (self.rows.shape[0], hidden)
        if tuple(self.values.shape) != wanted:
            raise UsageError(
                f"vectors of shape {list(self.values.shape)} where {list(wanted)} is needed",
                remedy="One vector of the model's hidden size for each row",
            )
        if self.values.dtype not in (dtype, torch.float32):
            raise UsageError(f"vectors must be {dtype} or {torch.float32}, not {self.values.dtype}")
        rows = self.rows.tolist()
        if wrong := [row for row in rows if not 0 <= row < num_rows]:
            raise UsageError(f"row {wrong[0]} has a vector, but the step has {num_rows} rows")
        for before, row in pairwise(rows):
            if row == before:
                raise UsageError(f"row {row} has two vectors")
            if row < before:
                raise UsageError(f"rows of vectors must ascend, {row} comes after {before}")


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """One forward of a mixed prefill and decode batch. All tensors are int32 on the CPU, but for
    the values of `vectors`, which may be anywhere.

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
    vectors: RowVectors | None = None  # rows of T whose embedding is given

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
    vectors: RowVectors | None = None  # rows counted from the first of these


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
        vectors=_join_vectors(sequences, starts),
    )


def _join_vectors(sequences: Sequence[SequenceRows], starts: Sequence[int]) -> RowVectors | None:
    """Those of all sequences, rows counted over the whole batch. Raises UsageError."""
    found: list[tuple[Tensor, Tensor]] = []
    for sequence, start in zip(sequences, starts, strict=False):
        given = sequence.vectors
        if given is None:
            continue
        if given.values.dim() != 2:
            raise UsageError(f"vectors must be [N, hidden], not {list(given.values.shape)}")
        given.check(len(sequence.tokens), given.values.shape[1], given.values.dtype)
        found.append((given.rows + start, given.values))
    if not found:
        return None
    rows, values = zip(*found, strict=True)
    if len({(part.shape[1], part.dtype, part.device) for part in values}) > 1:
        raise UsageError("the vectors of a batch must be of one width, dtype and device")
    return RowVectors(torch.cat(rows), torch.cat(values))
