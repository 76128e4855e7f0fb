"""Documents are pure functions of their index, whoever makes them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from perilune.errors import DataError, UsageError
from perilune.train.data.document import Document
from perilune.train.data.mixture import Mixture, MixtureSpec
from perilune.train.data.stream import DocumentStream

SPEC = MixtureSpec(
    (("copy", 3.0, {"vocabulary": 32}), ("copy", 1.0, {"vocabulary": 8, "header": 3})), 5, None
)


def test_workers_and_restarts_change_nothing() -> None:
    with DocumentStream(SPEC) as stream:
        alone = list(islice(stream, 70))
        assert stream.position == 70
    with DocumentStream(SPEC, start=13, workers=2) as stream:
        assert list(islice(stream, 57)) == alone[13:]
        assert stream.position == 70
    assert all(not p.is_alive() for p in stream._processes)


def test_the_mixture_keeps_to_its_weights() -> None:
    mixture = Mixture(SPEC)
    share = sum(bool(mixture(i).header) for i in range(2000)) / 2000
    assert 0.2 < share < 0.3
    assert mixture(7) == mixture(7)
    assert mixture(7).source == "copy"


def test_a_failing_source_stops_the_run_by_name() -> None:
    spec = MixtureSpec((("world-text", 1.0, {}),), 0, Path("/nowhere"))
    with DocumentStream(spec, workers=1) as stream, pytest.raises(DataError, match="no tokenizer"):
        next(stream)


@pytest.mark.parametrize("name, options", [("cpoy", {}), ("copy", {"vocabularyy": 3})])
def test_mistakes_in_the_configuration_are_named(name: str, options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=name):
        Mixture(MixtureSpec(((name, 1.0, options),), 0, None))


def test_a_document_needs_a_mark_for_each_id() -> None:
    with pytest.raises(UsageError, match="2 ids, but 1 trained"):
        Document([1, 2], [True])
