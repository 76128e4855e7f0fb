"""Whether a record answers the question: its attribute, its type, whose it is."""

from __future__ import annotations

import re
from collections.abc import Collection

from perilune.agent.checks.case import Case
from perilune.agent.checks.question import attributes_in, content_words, related
from perilune.agent.checks.records import Record
from perilune.search.almanac.text import key

_NUMERIC = re.compile(
    r"\byear of\b|\b(?:what|which|in which|founding|birth|opening) year\b|\bnumber only\b|"
    r"\banswer with a number\b|\b(?:answer|give a number|number only,?|reply with a number) (?:in|of) [a-z°$%]|^\W*when\b|\bhow (?:far|high|tall|long|old|deep|wide|heavy|populous)\b",  # noqa: E501
    re.I,
)
_PERSON = re.compile(r"^\W*who\b|\bname only\b|\bone name\b", re.I)


def wrong_type(question: str, record: Record) -> bool:
    """Whether a number or a time is asked for, and the record has neither; or a name, and it has
    nothing but a number."""
    if _NUMERIC.search(question):
        return record.number is None and not re.search(r"\d", record.value)
    return bool(_PERSON.search(question)) and record.number is not None


def fits_question(case: Case, record: Record) -> bool:
    """Whether a record's attribute is one that the question asks for, or may be."""
    asked = case.asked
    if record.attribute in asked.attributes or _alias_of(record.attribute, asked.attributes):
        return True
    if related(content_words(record.attribute), content_words(asked.text)) and not asked.sure:
        return True
    if asked_by_query(case, record):
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


def asked_by_query(case: Case, record: Record) -> bool:
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
