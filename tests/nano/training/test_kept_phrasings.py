"""No training question has a phrasing that examinations keep, nor an entity that they ask about."""

from __future__ import annotations

import pytest

from perilune.nano.training.gazetteer import _worded
from perilune.nano.training.policy import UnsolvableError
from perilune.search.almanac.questions import COLLOQUIAL, phrasings_by_kind, pool
from perilune.search.facts import normalised
from perilune.world.seed import Seed, Split

KEPT = [
    phrasing
    for attributes in phrasings_by_kind().values()
    for ways in attributes.values()
    for style in COLLOQUIAL
    for phrasing in ways[style]
]


def test_a_kept_phrasing_never_comes_out() -> None:
    forms = {normalised(each.replace("{e}", " e ")) for each in KEPT}
    refused = 0
    for index, phrasing in enumerate(KEPT):
        stream = Seed(Split.TRAIN, index).stream("kept phrasings")
        try:
            text, _, _ = _worded(stream, phrasing.replace("{e}", "{x}"), "", ["Qov"])
        except UnsolvableError:
            refused += 1
            continue
        assert normalised(text.replace("Qov", " e ").replace("qov", " e ")) not in forms
    assert refused > len(KEPT) // 2  # the others came out with a slip


@pytest.mark.parametrize("kind", list(phrasings_by_kind()))
def test_examinations_have_entities_of_their_own(kind: str) -> None:
    train, exam = pool(kind, "train"), pool(kind, "exam")
    assert train and exam and not set(train) & set(exam)
