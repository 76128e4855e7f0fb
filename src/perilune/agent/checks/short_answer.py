"""A short answer (a value, a name, a few names) held against the question and the records.

Each step says what is wrong, where the value stands and whose it is, so that it can be mended.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal

from perilune.agent.checks.arithmetic import expected_names, expected_number
from perilune.agent.checks.case import Case
from perilune.agent.checks.copies import miscopied
from perilune.agent.checks.figures import Figure, figures_in
from perilune.agent.checks.question import attributes_in, content_words, named_in, related
from perilune.agent.checks.records import Record, words_of
from perilune.agent.checks.units import agree, unit_at
from perilune.search.almanac.text import key

MOST_WORDS = 14
_LEAD = re.compile(
    r"^(?:\*\*)?(?:final answer|the answer is|answer|antwort|réponse|respuesta)\s*[:：]?\s*", re.I
)
_NUMERIC = re.compile(
    r"\byear of\b|\b(?:what|which|in which|founding|birth|opening) year\b|\bnumber only\b|"
    r"\banswer with a number\b|\b(?:answer|give a number|number only,?|reply with a number) (?:in|of) [a-z°$%]|^\W*when\b|\bhow (?:far|high|tall|long|old|deep|wide|heavy|populous)\b",  # noqa: E501
    re.I,
)
_PERSON = re.compile(r"^\W*who\b|\bname only\b|\bone name\b", re.I)
_SPLIT = re.compile(r"\s*(?:,|;|\n|\band\b|&|\bund\b|\bet\b|\by\b)\s*[-*]?\s*")


def is_short(answer: str) -> bool:
    """Whether an answer is nothing but what was asked for."""
    text = bare(answer)
    if "|" in text or "\n\n" in text:
        return False
    return len(text.split()) <= MOST_WORDS and not re.search(
        r"\b(?:is|are|was|were|has|have|had|ist|hat|est|es|tiene)\b(?!\)$)", text
    )


def bare(answer: str) -> str:
    """An answer without marks, lead-in and full stop."""
    text = re.sub(r"[*_`]{1,3}", "", answer).strip()
    text = _LEAD.sub("", text)
    return text[:-1].rstrip() if text.endswith(".") and not text.endswith("..") else text


def short_problems(case: Case) -> Iterable[str]:
    """What is wrong with a short answer; nothing where it cannot be told."""
    text = bare(case.answer)
    direct = _direct(case)
    if direct and not any(_gives(text, each) for each in direct):
        yield f"{text} is not right: known is {'; '.join(each.line for each in direct[:3])}."
        return
    whole = [each for each in case.records if key(text) in words_of(each.value)]
    choices = {key(each) for each in case.asked.names}
    one_of_named = len(choices) > 1 and key(text) in choices
    if whole and not _only_number(text) and not one_of_named:
        yield from _value_problems(case, text, whole)
        return
    figures = figures_in(text)
    names = (
        named_in(text, {each.entity for each in case.records}, case.aliases)
        if (re.search(r"[^\W\d_]{2}", text))
        else []
    )
    names = [
        each for each in names if f" {key(each)} " in f" {key(text)} " or _aliased(each, text, case)
    ]
    if figures and _only_number(text):
        yield from _number_problems(case, text, figures[0])
    elif names:
        yield from _name_problems(case, text, names, figures)
    elif not figures:
        yield from _strange_word(case, text)


def _direct(case: Case) -> list[Record]:
    """The records that the question asks for by name and attribute, and nothing else; none where
    that cannot be told."""
    asked = case.asked
    if len(asked.names) != 1 or asked.near or asked.operation or asked.excepted:
        return []
    own = [each for each in case.records if key(each.entity) == key(asked.names[0])]
    if asked.years and len({each.attribute for each in own}) == 1:
        dated = [each for each in own if each.year in asked.years]
        return dated if len(dated) == 1 and len(own) > 1 else []
    if asked.latest and len({each.attribute for each in own}) == 1 and len(own) > 1:
        return [max(own, key=lambda each: each.year)]
    if not asked.sure or asked.phrases != 1:
        return []
    return [each for each in own if each.attribute in asked.attributes]


def _gives(text: str, record: Record) -> bool:
    """Whether a short answer gives a record's value: its number, in a unit that fits, or words."""
    if key(text) in words_of(record.value) or key(record.value) in key(text):
        return True
    figures = figures_in(text)
    if record.number is None:
        return (bool(figures) and figures[0].text in re.findall(r"\d[\d,.]*", record.value)) or any(
            each in key(text) for each in words_of(record.value) if len(each) > 3
        )
    return any(_is(each, unit_of(text, each), record.number, record.unit) for each in figures[:1])


def wrong_type(question: str, record: Record) -> bool:
    """Whether a number or a time is asked for, and the record has neither; or a name, and it has
    nothing but a number."""
    if _NUMERIC.search(question):
        return record.number is None and not re.search(r"\d", record.value)
    return bool(_PERSON.search(question)) and record.number is not None


def _aliased(name: str, text: str, case: Case) -> bool:
    said = f" {key(text)} "
    return any(f" {each} " in said for each in case.aliases.get(name, ()))


def _only_number(text: str) -> bool:
    """A number, perhaps with its unit."""
    match = re.fullmatch(
        r"(?:about |around |roughly |approximately |some |over |~|≈)?[-−+$€£]?\s?\d[\d,.'  ]*"
        r"(?:[eE][-+]?\d+)?(?:\s?(?:thousand|million|billion|trillion))?\s*(?P<unit>.*)",
        text,
        re.I,
    )
    return (
        bool(match)
        and len((match["unit"] if match else "").split()) <= 4
        and not re.search(r"\d", re.sub(r"[a-z]+[23]\b", "", match["unit"] if match else ""))
    )


# --- one value ------------------------------------------------------------------------------------


def _value_problems(case: Case, text: str, rows: list[Record]) -> Iterable[str]:
    """Of a value that stands in records: whose, for what, of when."""
    asked = case.asked
    reached = case.reached()
    own = [each for each in rows if key(each.entity) in reached]
    if not own and any(key(text) == key(each.entity) for each in case.records):
        # The name of an entity that has a value which the question names.
        yield from _name_problems(case, text, [_entity(case, text)], [])
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
        if _said(each, case.asked.text):
            continue  # that is what it is known by, and not what is asked of it
        words = content_words(each.attribute)
        if (words <= said or _asked_by_query(case, each)) and words - content_words(text):
            return each
    return None


def _entity(case: Case, text: str) -> str:
    return next(each.entity for each in case.records if key(each.entity) == key(text))


def _may_be_entity(case: Case, text: str) -> bool:
    """Whether words are an entity that has a value which the question names."""
    return any(
        key(each.entity) == key(text) and _said(each, case.asked.text) for each in case.records
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
        not any(_said(each, asked.text) for each in case.records)
        and len(_entities(case.records)) > 1
        and _queried(case)
        and not any(key(r.entity) in _queried(case) for r in rows)
    ):
        yield f"{text} is {first.line}, and nothing asked for {first.entity}."


def _entities(records: Iterable[Record]) -> set[str]:
    return {key(each.entity) for each in records}


def _queried(case: Case) -> str:
    return " ".join(key(query) for _, query, _ in case.queries)


def fits_question(case: Case, record: Record) -> bool:
    """Whether a record's attribute is one that the question asks for, or may be."""
    asked = case.asked
    if record.attribute in asked.attributes or _alias_of(record.attribute, asked.attributes):
        return True
    if related(content_words(record.attribute), content_words(asked.text)) and not asked.sure:
        return True
    if _asked_by_query(case, record):
        # The tool understood the words; but where the question's are all known, they decide.
        return not (asked.sure and asked.phrases == 1)
    if not asked.sure and key(record.entity) not in {key(each) for each in asked.names}:
        # Found on the way: of what is named, some led there; which words ask of it is open.
        way = case.on_the_way()
        return asked.attributes <= way and not _other_is_named(case, record, way)
    if asked.attributes and not asked.sure:
        # Words are left that are not understood: they may be another name of this attribute.
        names = {key(each) for each in asked.names}
        known = any(
            key(r.entity) in names and r.attribute in asked.attributes for r in case.records
        )
        return not known and not _other_is_named(case, record)
    return not asked.attributes and not _other_is_named(case, record)


def _alias_of(attribute: str, wanted: set[str]) -> bool:
    found, _ = attributes_in(attribute, ())
    return len(found) == 1 and bool(found & wanted)


def _asked_by_query(case: Case, record: Record) -> bool:
    """Whether the tool gave it for words of the question."""
    said = content_words(case.asked.text)
    for tool, query, result in case.queries:
        if tool != "lookup" or record.line not in result:
            continue
        words = content_words(query) - content_words(record.entity)
        words -= {each for name in case.asked.names for each in content_words(name)}
        strange = [each for each in words if not related({each}, said) and not each.isdigit()]
        lines = [each for each in result.splitlines() if " = " in each]
        same = {each.partition(" = ")[0].rpartition(".")[2] for each in lines}
        if (
            words
            and len(strange) * 2 < len(words)
            and (len(same) == 1 or _typed(case, record) or not _has_type(case))
        ):
            return True
    return False


def _has_type(case: Case) -> bool:
    return bool(_wants_number(case.asked.text) or _wants_name(case.asked.text))


def _typed(case: Case, record: Record) -> bool:
    if _wants_number(case.asked.text):
        return record.number is not None
    return record.number is None


def _wants_number(text: str) -> bool:
    return bool(
        re.search(
            r"\b(?:number|how (?:many|much|long|high|old|tall|big|large)|year|in [a-z]+[23]?\.$)",
            text,
            re.I,
        )
    )


def _wants_name(text: str) -> bool:
    return bool(
        re.search(r"\b(?:who|name only|one name|one word|names? only|word only)\b", text, re.I)
    )


def _other_is_named(case: Case, record: Record, way: Collection[str] = ()) -> bool:
    """Whether the question's words name another attribute of the records, and not this one."""
    said = content_words(case.asked.text) - {
        each for name in case.asked.names for each in content_words(name)
    }
    if not related(content_words(record.attribute), said):
        return any(
            key(each.entity) == key(record.entity)
            and each.attribute not in way
            and related(content_words(each.attribute), said)
            for each in case.records
        )
    return False


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


# --- a number -------------------------------------------------------------------------------------


def _number_problems(case: Case, text: str, figure: Figure) -> Iterable[str]:
    asked = case.asked
    unit = unit_of(text, figure)
    wanted = expected_number(asked, case.records)
    if wanted is not None:
        values, shown, its_unit = wanted
        if asked.operation == "difference" and _of_no_unit(case, unit):
            yield f"{text} has a unit, but it is a number of years: {shown}."
            return
        if not any(_is(figure, unit, value, its_unit) for value in values):
            yield f"{text} is not right: {shown}."
        return
    if _computed(case, figure):
        yield from _unit_problem(case, text, unit)
        return
    rows = [r for r in case.records if r.number is not None and figure.fits(r.number)]
    rows += [
        r
        for r in case.records
        if r.number is None and figure.text in re.findall(r"\d[\d,.]*", r.value)
    ]
    converted = [
        r
        for r in case.records
        if r.number is not None
        and r not in rows
        and agree(figure.value, unit, r.number, r.unit, figure.slack)
    ]
    if not rows and not converted:
        yield from _no_row(case, text, figure)
        return
    right = [
        r
        for r in rows
        if r.number is None
        or agree(figure.value, unit, r.number, r.unit, figure.slack) is not False
    ] + converted
    if not right:
        yield f"{text} has another unit than its source: {rows[0].line}."
        return
    yield from _value_problems(case, text, right)


def unit_of(text: str, figure: Figure) -> str:
    """What stands behind a figure as its unit."""
    return "%" if figure.percent else text[figure.end :].strip()


def _of_no_unit(case: Case, unit: str) -> bool:
    """Whether a unit is said of years, which have none."""
    numbers = [r for r in case.records if r.number is not None]
    said = unit_at(unit)
    return (
        bool(said)
        and said not in ("year", "years", "yr", "yrs")
        and bool(numbers)
        and all(not r.unit and r.number is not None and 500 <= r.number <= 2100 for r in numbers)
    )


def _is(figure: Figure, unit: str, value: Decimal, its_unit: str) -> bool:
    same = agree(figure.value, unit, value, its_unit, figure.slack)
    if same is not None:
        return same
    return figure.fits(value) or abs(figure.value - value) <= figure.slack


def _computed(case: Case, figure: Figure) -> bool:
    return any(
        figure.fits(each.value) for _, output in case.computed for each in figures_in(output)
    )


def _unit_problem(case: Case, text: str, unit: str) -> Iterable[str]:
    """A computed number keeps the unit of what it was computed from."""
    units = {unit_at(r.unit) for r in case.records if r.unit and key(r.entity) in case.reached()}
    said = unit_at(unit)
    if said and units and len(units) == 1 and "" not in units:
        (its,) = units
        if agree(Decimal(1), said, Decimal(1), its, Decimal(0)) is False and said != "%":
            yield f"{text} has another unit than what it was computed from: {its}."


def _no_row(case: Case, text: str, figure: Figure) -> Iterable[str]:
    if figure.value in {each.value for each in figures_in(case.asked.text)}:
        return
    known = {r.number for r in case.records if r.number is not None}
    reached = case.reached()
    near = [
        r
        for r in case.records
        if r.number is not None and (not reached or key(r.entity) in reached)
    ]
    whole = miscopied(figure.value, [r.number for r in near if r.number is not None], least=2)
    whole = whole if whole is not None else miscopied(figure.value, known, least=4)
    if whole is not None:
        line = next(r.line for r in case.records if r.number == whole)
        yield f"{text} is no whole number of a source, which has {line}. Copy it whole."
    elif near:
        lines = "; ".join(each.line for each in near[:3])
        yield f"{text} stands in no source. Known is: {lines}."


# --- names ----------------------------------------------------------------------------------------


def _name_problems(
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
    rows = [r for r in case.records if _said(r, asked.text) and key(r.entity) not in asked_for]
    for name in names:
        own = [r for r in case.records if key(r.entity) == key(name)]
        stands = [r for r in case.records if key(name) in words_of(r.value)]
        if rows and not any(_said(r, asked.text) for r in own) and not stands:
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


def _said(record: Record, question: str) -> bool:
    """Whether a question names a record's value: its number whole, or its words."""
    if record.number is not None:
        return any(each.value == record.number for each in figures_in(question))
    said = f" {key(question)} "
    return len(record.value) > 1 and f" {key(record.value)} " in said


def _strange_word(case: Case, text: str) -> Iterable[str]:
    """Words that are neither a value nor an entity: a name that was cut, or one from nowhere."""
    if not re.search(r"[^\W_]", text):
        return
    said = key(text)
    wanted = expected_names(case.asked, case.records)
    if wanted is not None and said not in map(key, case.asked.names):
        yield f"{text} is not right: {wanted[1]}."
        return
    if (
        not said
        or f" {said} " in f" {key(case.asked.text)} "
        or said in ("yes", "no", "equal", "ja", "nein")
    ):
        return
    if any(
        key(output.strip("'\" \n")) == said or f" {said} " in f" {key(output)} "
        for _, output in case.computed
    ):
        return
    parts = [key(each) for each in _SPLIT.split(text) if key(each)]
    known = {each for r in case.records for each in (*words_of(r.value), key(r.entity))}
    strange = [each for each in parts if each not in known and not _within(each, known)]
    if not strange:
        return
    reached = case.reached()
    rows = [r for r in case.records if key(r.entity) in reached and fits_question(case, r)]
    rows = rows or [r for r in case.records if _said(r, case.asked.text)]
    cut = next(
        (r for r in case.records if _is_cut(strange[0], r.value) or _is_cut(strange[0], r.entity)),
        None,
    )
    if cut is not None:
        yield f"{text} is not whole: a source has {cut.line}. Copy it whole."
    elif rows and all(r.number is not None or len(r.value.split()) <= 8 for r in rows):
        yield f"{text} stands in no source. Known is: {'; '.join(r.line for r in rows[:3])}."


def _within(words: str, known: Iterable[str]) -> bool:
    """Whether several words stand whole in a longer value, such as a definition."""
    return len(words.split()) > 1 and any(
        f" {words} " in f" {each} " for each in known if len(each) > 40
    )


def _is_cut(words: str, value: str) -> bool:
    """Whether words are a piece of a value that begins or ends within a word, or a slip of it."""
    from perilune.search.almanac.text import edit_distance

    whole = key(value)
    if len(words) < 2 or words == whole:
        return False
    if words in whole and len(words) < len(whole) and len(whole) < 80:
        return True
    return len(words) > 3 and edit_distance(words, whole, 2) <= 2
