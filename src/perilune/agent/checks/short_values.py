"""A short answer that is a value or names: whose it is, and whether it stands whole in a record."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from perilune.agent.checks.arithmetic import expected_names
from perilune.agent.checks.case import Case
from perilune.agent.checks.figures import Figure, figures_in
from perilune.agent.checks.question import content_words
from perilune.agent.checks.question_fit import asked_by_query, fits_question, wrong_type
from perilune.agent.checks.records import Record, words_of
from perilune.search.almanac.text import key


def value_problems(case: Case, text: str, rows: list[Record]) -> Iterable[str]:
    """Of a value that stands in records: whose, for what, of when."""
    asked = case.asked
    reached = case.reached()
    own = [each for each in rows if key(each.entity) in reached]
    if not own and any(key(text) == key(each.entity) for each in case.records):
        # The name of an entity that has a value which the question names.
        yield from name_problems(case, text, [_entity(case, text)], [])
        return
    if not own:
        yield from _foreign(case, text, rows)
        return
    if all(wrong_type(asked.text, each) for each in own):
        yield f"{text} is {own[0].line}, which is not what the question asks for."
        return
    fitting = [each for each in own if fits_question(case, each)]
    if not fitting:
        if _may_be_entity(case, text):
            return
        wanted = ", ".join(sorted(asked.attributes)) or "something else"
        yield f"{text} is {own[0].line}, but the question asks for {wanted}."
        return
    own = fitting
    further = _further(case, text, own)
    if further is not None:
        yield f"{text} is only on the way: the question goes on to {further.line}."
        return
    if (
        case.cited
        and not any(each.id in case.cited for each in own)
        and any(each.id for each in own)
    ):
        where = next(each for each in own if each.id)
        cited = case.cited[0]
        yield f"{text} does not stand in [{cited}]; it stands in [{where.id}]: {where.line}."
        return
    yield from _year_problems(case, text, own)


def _further(case: Case, text: str, rows: Sequence[Record]) -> Record | None:
    """A record about the entity that the answer is, which the question asks for in the end."""
    if case.asked.phrases == 1 and case.asked.sure:
        return None
    said = content_words(case.asked.text)
    taken = {each.attribute for each in rows}
    for each in case.records:
        if key(each.entity) != key(text) or each.attribute in taken:
            continue
        if is_said(each, case.asked.text):
            continue  # that is what it is known by, and not what is asked of it
        words = content_words(each.attribute)
        if (words <= said or asked_by_query(case, each)) and words - content_words(text):
            return each
    return None


def _entity(case: Case, text: str) -> str:
    return next(each.entity for each in case.records if key(each.entity) == key(text))


def _may_be_entity(case: Case, text: str) -> bool:
    """Whether words are an entity that has a value which the question names."""
    return any(
        key(each.entity) == key(text) and is_said(each, case.asked.text) for each in case.records
    )


def _foreign(case: Case, text: str, rows: Sequence[Record]) -> Iterable[str]:
    """A value that stands only in records of entities that were not asked for."""
    asked, first = case.asked, rows[0]
    if asked.names:
        yield (
            f"{text} is {first.line}; the question is about {', '.join(asked.names[:3])}. "
            "Give the value of what was asked for, or say that no source has it."
        )
    elif case.meant and not any(each.address in case.meant[:8] for each in rows):
        if not any(each.address in case.meant for each in case.records):
            yield (
                f"{text} is {first.line}, and the question does not name {first.entity}. "
                "Look up what was asked for, or say that no source has it."
            )
    elif case.meant and any(each.address in case.meant for each in case.records):
        own = next(each for each in case.records if each.address in case.meant)
        if not any(each.address in case.meant for each in rows):
            yield f"{text} is {first.line}; the question is about {own.entity}."
    elif (
        not any(is_said(each, asked.text) for each in case.records)
        and len(_entities(case.records)) > 1
        and _queried(case)
        and not any(key(r.entity) in _queried(case) for r in rows)
    ):
        yield f"{text} is {first.line}, and nothing asked for {first.entity}."


def _entities(records: Iterable[Record]) -> set[str]:
    return {key(each.entity) for each in records}


def _queried(case: Case) -> str:
    return " ".join(key(query) for _, query, _ in case.queries)


def _year_problems(case: Case, text: str, rows: Sequence[Record]) -> Iterable[str]:
    asked = case.asked
    dated = [each for each in case.records if each.year and _same(each, rows[0])]
    if asked.latest and len({each.year for each in dated}) > 1:
        latest = max(dated, key=lambda each: each.year)
        if not any(each.year == latest.year for each in rows):
            yield f"{text} is {rows[0].line}, but the latest is {latest.line}."
        return
    years = [each for each in asked.years if not re.search(rf"(?<!\d){each}(?!\d)", text)]
    if years and dated and all(each.year and each.year not in years for each in rows):
        right = next((each for each in dated if each.year in years), None)
        if right is not None:
            yield f"{text} is {rows[0].line}, but the question asks for {right.year}: {right.line}."
        elif rows[0].number is not None and not any(
            year in each.value for each in case.records for year in years
        ):
            yield (
                f"{text} is {rows[0].line}; the question asks for {', '.join(years)}, for which no "
                "source has it. Say of which year the value is."
            )


def _same(one: Record, other: Record) -> bool:
    return key(one.entity) == key(other.entity) and one.attribute == other.attribute


def name_problems(
    case: Case, text: str, names: list[str], figures: Sequence[Figure]
) -> Iterable[str]:
    asked = case.asked
    wanted = expected_names(asked, case.records)
    if wanted is not None:
        right, shown, ordered = wanted
        said = [key(each) for each in names]
        if (said if ordered else sorted(said)) != (
            [key(each) for each in right] if ordered else sorted(key(each) for each in right)
        ):
            yield f"{text} is not right: {shown}."
        return
    excepted = {key(each) for each in asked.excepted}
    for name in names:
        if key(name) in excepted:
            yield f"The question asks for another one than {name}."
            return
    asked_for = {key(each) for each in asked.names}
    if asked.operation in ("pick", "second", "order", "above") and len(asked_for) > 1:
        strange = [each for each in names if key(each) not in asked_for]
        if strange:
            yield f"{strange[0]} is none of those that the question names."
            return
    if all(key(each) in asked_for for each in names):
        return
    rows = [r for r in case.records if is_said(r, asked.text) and key(r.entity) not in asked_for]
    for name in names:
        own = [r for r in case.records if key(r.entity) == key(name)]
        stands = [r for r in case.records if key(name) in words_of(r.value)]
        if rows and not any(is_said(r, asked.text) for r in own) and not stands:
            yield f"{name} has not what the question names; {rows[0].line} has."
            return
    left_out = {key(r.entity): r for r in rows if key(r.entity) not in {key(n) for n in names}}
    if re.search(r"\b(?:list all|every|all)\b", asked.text, re.I):
        for missing in left_out.values():
            if missing.attribute == rows[0].attribute and _of_one_kind(
                case, [missing.entity, *names]
            ):
                yield f"{missing.entity} is left out: {missing.line}."
                return


def _of_one_kind(case: Case, names: Sequence[str]) -> bool:
    """Whether entities have mostly the same attributes: a bridge over a river is no city on it."""
    known = [{r.attribute for r in case.records if key(r.entity) == key(name)} for name in names]
    first, *others = (each for each in known if each)
    return all(2 * len(first & each) >= len(first | each) for each in others)


def is_said(record: Record, question: str) -> bool:
    """Whether a question names a record's value: its number whole, or its words."""
    if record.number is not None:
        return any(each.value == record.number for each in figures_in(question))
    said = f" {key(question)} "
    return len(record.value) > 1 and f" {key(record.value)} " in said
