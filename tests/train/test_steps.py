from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.errors import TrainingError
from perilune.train.data.document import Document
from perilune.train.steps import draw, micro_batches
from tests.train.shared import documents


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 4), st.integers(5, 200), st.integers(0, 99))
def test_micro_batches_divide_among_those_who_compute(
    many: int, workers: int, micro_tokens: int, seed: int
) -> None:
    listed = documents(many, seed=seed)
    parts, batches = micro_batches(listed, micro_tokens, workers)
    assert sum(len(part) for part in parts) == many and all(parts)
    assert len(parts) % workers == 0 or len(parts) == many < workers
    assert [len(batch.documents) for batch in batches] == [len(part) for part in parts]


def test_a_step_draws_until_it_has_its_tokens() -> None:
    header = tuple(range(50))
    stream = (Document([1] * (10 + i % 3), [True] * (10 + i % 3), header) for i in count())
    drawn, skipped = draw(stream, 100, longest=61)
    # 50 for the header, once; those of 12 are longer than 61 with it.
    assert sum(len(d.ids) for d in drawn) + 50 in range(100, 111)
    assert skipped == len([d for d in drawn if len(d.ids) == 11]) - (len(drawn[-1].ids) == 11)


def test_documents_that_never_fit_are_an_error() -> None:
    with pytest.raises(TrainingError, match="longer than max_tokens"):
        draw(iter(documents(2000, headers=0)), 10, longest=0)
