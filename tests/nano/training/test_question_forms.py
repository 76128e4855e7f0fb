"""The forms that people wrote: well formed, of every kind and language, and in one half only."""

from __future__ import annotations

from collections import Counter

from perilune.nano.training.question_forms import (
    KINDS,
    LANGUAGES,
    SLOTS,
    all_forms,
    examination_forms,
    likeness,
    training_forms,
)
from perilune.search.almanac.attributes import read_attributes

NEEDS = {
    "fact": {"a"}, "reverse": {"value"}, "yesno": {"a", "value"}, "yesno_compare": {"a", "b"},
    "two_hop": {"a"}, "three_hop": {"a"}, "compare2": {"a", "b"}, "sum": {"a", "b"},
    "difference": {"a", "b"}, "share": {"a", "b"}, "ratio": {"a", "b"}, "listing": {"a"},
    "unit": {"a"}, "year": {"a"}, "percentage": {"p", "x"}, "definition": {"word"},
    "distractor": {"a"},
}  # fmt: skip


def test_every_form_is_well_formed() -> None:
    attributes = {each.name for each in read_attributes()}
    for form in all_forms():
        slots = set(form.slots)
        assert form.kind in KINDS and form.language in LANGUAGES, form
        assert form.text.strip() and slots <= SLOTS, form
        assert form.text.count("{") == len(form.slots) == form.text.count("}"), form
        assert NEEDS.get(form.kind, set()) <= slots, form
        named = [*form.asks.get("path", ()), *form.asks.get("attributes", ())]
        named += [form.asks["attribute"]] if "attribute" in form.asks else []
        assert set(named) <= attributes, form
        if form.kind in ("compare2", "compare_many", "topk", "yesno_compare"):
            assert form.asks["direction"] in ("most", "least"), form


def test_there_are_many_of_every_kind_and_language_by_many_hands() -> None:
    forms = all_forms()
    assert len(forms) >= 4000
    assert len({form.author for form in forms}) >= 15
    assert min(Counter(form.kind for form in forms)[kind] for kind in KINDS) >= 80
    assert min(Counter(form.language for form in forms)[each] for each in LANGUAGES) >= 400


def test_no_form_is_in_both_halves() -> None:
    asked = {likeness(form.text) for form in examination_forms()}
    trained = {likeness(form.text) for form in training_forms()}
    assert not asked & trained
    assert all(form.author % 10 == 0 for form in examination_forms())
    assert all(form.author % 10 for form in training_forms())
    assert len(examination_forms()) >= 500
    for language in LANGUAGES:
        assert sum(form.language == language for form in examination_forms()) >= 80


def test_filling_a_form() -> None:
    form = next(form for form in all_forms() if set(form.slots) == {"a", "b"})
    text = form.fill(a="Chad", b="Niger")
    assert "Chad" in text and "Niger" in text and "{" not in text
