"""The metrics of a stage: one JSON object a line, one line a step."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from perilune.errors import DiskFullError
from perilune.train.batch import RaggedBatch
from perilune.train.data.document import Document

FILE = "metrics.jsonl"


class MetricsLog:
    """Append-only; on resume, lines after the checkpoint's step are dropped first."""

    def __init__(self, folder: Path, *, steps_done: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE
        kept = [line for line in read_metrics(self.path) if line["step"] <= steps_done]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")
        temporary.rename(self.path)

    def write(self, values: dict[str, Any]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(values) + "\n")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(
                    f"the disk of {self.path} is full; the last checkpoint is whole",
                    remedy="Free space and go on with --resume",
                ) from None
            raise


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file; a last line that was cut off is left out."""
    if not path.exists():
        return
    for line in path.read_text("utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def source_metrics(
    documents: Sequence[Sequence[Document]],
    batches: Sequence[RaggedBatch],
    results: Sequence[tuple[Any, Any]],
) -> dict[str, dict[str, float]]:
    """By source: mean loss, share of tokens right, share of documents wholly right (`exact`).

    `results` are the (losses, right) of each batch's trained tokens.
    """
    sums: dict[str, list[float]] = {}
    for listed, batch, (nll_M, right_M) in zip(documents, batches, results, strict=True):
        rows = zip(batch.document_M.tolist(), nll_M.tolist(), right_M.tolist(), strict=True)
        by_document: dict[int, list[float]] = {}
        for owner, nll, right in rows:
            one = by_document.setdefault(owner, [0.0, 0, 0])
            one[0] += nll
            one[1] += 1
            one[2] += right
        for owner, (nll, count, right) in by_document.items():
            total = sums.setdefault(listed[owner].source, [0.0, 0, 0, 0, 0])
            for i, value in enumerate((nll, count, right, right == count, 1)):
                total[i] += value
    return {
        name: {"loss": nll / count, "accuracy": right / count, "exact": exact / documents_}
        for name, (nll, count, right, exact, documents_) in sorted(sums.items())
    }
