"""A short answer (a value, a name, a few names) held against the question and the records.

Each step says what is wrong, where the value stands and whose it is, so that it can be mended.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from perilune.agent.checks.arithmetic import expected_names
from perilune.agent.checks.case import Case
from perilune.agent.checks.figures import figures_in
from perilune.agent.checks.question import named_in
from perilune.agent.checks.question_fit import fits_question
from perilune.agent.checks.records import Record, words_of
from perilune.agent.checks.short_numbers import is_value, number_problems, unit_of
from perilune.agent.checks.short_values import is_said, name_problems, value_problems
from perilune.search.almanac.text import key

MOST_WORDS = 14
_LEAD = re.compile(
    r"^(?:\*\*)?(?:final answer|the answer is|answer|antwort|réponse|respuesta)\s*[:：]?\s*", re.I
)
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
        yield from value_problems(case, text, whole)
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
        yield from number_problems(case, text, figures[0])
    elif names:
        yield from name_problems(case, text, names, figures)
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
    return any(
        is_value(each, unit_of(text, each), record.number, record.unit) for each in figures[:1]
    )


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
    rows = rows or [r for r in case.records if is_said(r, case.asked.text)]
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
