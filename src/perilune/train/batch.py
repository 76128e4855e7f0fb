"""A ragged batch: the tokens of many documents in one row of ids, headers once.

Documents that begin with the same header (tool declarations, system prompt) share its tokens:
they are computed once, each document attends to the header's keys and then to its own, and its
positions go on after the header's. Losses and gradients are those of the header written out
before every document.

Shape suffixes: N all tokens, M trained tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perilune.train.data.document import Document
from perilune.train.functions import Span


@dataclass(frozen=True, slots=True)
class RaggedBatch:
    """Token ids with their documents. Headers lie before the documents that see them."""

    ids_N: Tensor
    positions_N: Tensor
    multiplicity_N: Tensor
    """How many documents a token belongs to, float32: 1, or a header's number of documents."""
    spans: tuple[Span, ...]
    documents: tuple[int, ...]
    """Indices into `spans` of the documents proper, in the order they were given."""
    rows_M: Tensor
    """Row whose output predicts a trained token; the last row of a header may come often."""
    labels_M: Tensor
    document_M: Tensor
    """Which document (0, 1, ... in the order they were given) a trained token belongs to."""

    @property
    def tokens(self) -> int:
        """Tokens that are computed."""
        return len(self.ids_N)

    @property
    def trained(self) -> int:
        return len(self.labels_M)

    def to(self, device: torch.device) -> RaggedBatch:
        if device.type == "cpu":
            return self
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("ids_N", "positions_N", "multiplicity_N", "rows_M", "labels_M")
        }
        return RaggedBatch(
            spans=self.spans, documents=self.documents,
            document_M=self.document_M.to(device), **moved,
        )  # fmt: skip


def collate(documents: Sequence[Document]) -> RaggedBatch:
    """Documents -> one batch, each distinct header written once."""
    ids: list[int] = []
    positions: list[int] = []
    multiplicity: list[int] = []
    spans: list[Span] = []
    headers: dict[tuple[int, ...], Span] = {}
    used: dict[tuple[int, ...], int] = {}
    for document in documents:
        header = tuple(document.header)
        used[header] = used.get(header, 0) + 1
        if header and header not in headers:
            headers[header] = Span(len(ids), len(header))
            spans.append(headers[header])
            ids += header
            positions += range(len(header))
    for header in headers:
        multiplicity += [used[header]] * len(header)
    rows: list[int] = []
    labels: list[int] = []
    owner: list[int] = []
    for number, document in enumerate(documents):
        start, known = len(ids), headers.get(tuple(document.header))
        before, length = (known.start, known.length) if known else (0, 0)
        spans.append(Span(start, len(document.ids), before, length))
        for i, (token, trained) in enumerate(zip(document.ids, document.trained, strict=True)):
            if not trained or (i == 0 and not known):
                continue  # nothing predicts the first token of all
            rows.append(start + i - 1 if i else before + length - 1)
            labels.append(token)
            owner.append(number)
        ids += document.ids
        positions += range(length, length + len(document.ids))
        multiplicity += [1] * len(document.ids)
    return RaggedBatch(
        ids_N=torch.tensor(ids),
        positions_N=torch.tensor(positions),
        multiplicity_N=torch.tensor(multiplicity, dtype=torch.float32),
        spans=tuple(spans),
        documents=tuple(range(len(headers), len(spans))),
        rows_M=torch.tensor(rows, dtype=torch.int64),
        labels_M=torch.tensor(labels, dtype=torch.int64),
        document_M=torch.tensor(owner, dtype=torch.int64),
    )


def split_documents(documents: Iterable[Document], parts: int) -> list[list[Document]]:
    """Deal the documents of a step into `parts` lists of about equal cost, headers kept together.

    Deterministic. A part may stay empty where there are fewer documents than parts.
    """
    ordered = sorted(documents, key=lambda d: (tuple(d.header), len(d.ids)))
    total = sum(len(d.ids) for d in ordered)
    out: list[list[Document]] = [[] for _ in range(parts)]
    seen = 0
    for document in ordered:
        middle = seen + len(document.ids) / 2
        out[min(int(middle * parts / max(total, 1)), parts - 1)].append(document)
        seen += len(document.ids)
    return out
