"""Sources: index -> Document, and the table of those that a configuration can name.

A source is a pure function of (seed, index), so one integer says where in the data a run is, and
any number of workers makes the same documents. `index` counts all documents of a mixture, so a
source sees some of the numbers only; indices from `HELD_OUT` on are never trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from perilune.errors import UsageError
from perilune.train.data.document import Document

HELD_OUT = 2**40

Source = Callable[[int], Document]


class SourceMaker(Protocol):
    """Makes a source once per process; the tokenizer folder is None where the run names none."""

    def __call__(self, seed: int, tokenizer: Path | None, **options: Any) -> Source: ...


# name -> where its maker is. Imported when a run uses it.
SOURCES: dict[str, tuple[str, str]] = {
    "copy": ("perilune.train.data.synthetic", "copy_source"),
    "nano-episodes": ("perilune.nano.training.source", "nano_source"),
    "nano-questions": ("perilune.nano.training.question_source", "nano_question_source"),
    "nano-swarm": ("perilune.nano.training.swarm_source", "nano_swarm_source"),
    "shards": ("perilune.train.data.shards", "shards_source"),
    "world-text": ("perilune.train.data.world_text", "world_text_source"),
}


def make_source(name: str, seed: int, tokenizer: Path | None, options: dict[str, Any]) -> Source:
    """The source that a configuration names. Raises UsageError."""
    if name not in SOURCES:
        raise UsageError(f"there is no data source {name!r}", remedy=f"Use one of {[*SOURCES]}")
    module, maker = SOURCES[name]
    make = cast(SourceMaker, getattr(import_module(module), maker))
    try:
        return make(seed, tokenizer, **options)
    except TypeError as error:
        raise UsageError(f"the options of the data source {name!r}: {error}") from None
