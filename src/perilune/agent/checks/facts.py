"""Facts: a value stands in a record about the entity that was asked for, for what was asked of it.

Looked at where tools gave records (`records.py`): lines of `lookup`, articles, tables. A short
answer is held against the question (`read_question`), code that compared or added against the
records that its numbers come from, a longer text sentence by sentence. What the question does not
tell is left open: then a value must only stand whole in a record of an entity that is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from perilune.agent.checks.case import ALMANAC, MOST_MEANT, Case, case_of
from perilune.agent.checks.check import Proposal, made
from perilune.agent.checks.operands import code_problems
from perilune.agent.checks.question import (
    attributes_in,
    content_words,
    named_in,
    related,
    says_unknown,
)
from perilune.agent.checks.question_fit import wrong_type
from perilune.agent.checks.records import records_of
from perilune.agent.checks.short_answer import is_short, short_problems
from perilune.agent.checks.told import told_problems
from perilune.errors import UsageError
from perilune.events import CheckMade
from perilune.search.almanac.text import key

_FAILED = re.compile(r"\b(?:error|failed|timed out|time-?out|refused|unreachable|stopped)\b", re.I)


class Facts:
    """Each value is that of its entity and attribute, and whole."""

    name = "facts"

    async def examine(self, proposal: Proposal) -> CheckMade | None:
        records = records_of(proposal)
        case = case_of(proposal, records)
        if not records and not case.queries:
            return None
        problems = list(dict.fromkeys(_problems(case)))
        if not problems and not records:
            return None
        return made(self.name, problems, evidence=_grounds(case))


def _problems(case: Case) -> Iterable[str]:
    if says_unknown(case.answer):
        yield from _unknown_problems(case)
        return
    if not case.records:
        return
    yield from code_problems(case.computed, case.records, case.asked.text)
    if is_short(case.answer):
        yield from short_problems(case)
    else:
        yield from told_problems(case.answer, case.records, case.aliases)


def _unknown_problems(case: Case) -> Iterable[str]:
    """It may be said that nothing was found where what was asked for was looked for."""
    if not case.queries or any(_FAILED.search(result[:200]) for _, _, result in case.queries):
        return
    wanted = _wanted_names(case)
    words = content_words(case.asked.text) - {
        part for name in wanted for part in content_words(name)
    }
    if any(
        _looks_for(case.asked.text, query, tool, wanted, words) for tool, query, _ in case.queries
    ):
        yield from _known_after_all(case)
        return
    shown = " and ".join(sorted(wanted)) or "what was asked"
    asked = ", ".join(repr(query[:60]) for _, query, _ in case.queries[:3])
    yield (
        f"The answer says that it is not known, but no query asked for it: {shown} "
        f"({asked} did not). Look for the words of the question."
    )


def _looks_for(question: str, query: str, tool: str, wanted: set[str], words: set[str]) -> bool:
    """Whether a query has a name of the question whole, and words of what is asked of it."""
    said = content_words(query)
    parts = [content_words(name) for name in wanted]
    enough = any if tool == "search" else all
    if parts and not any(enough(related({part}, said) for part in name) for name in parts if name):
        return False
    rest = said - {part for name in parts for part in name}
    if tool == "search" or not words or not rest:
        return bool(rest) or not words or tool == "search"
    return related(words, rest) or _same_attribute(question, query)


def _known_after_all(case: Case) -> Iterable[str]:
    asked = case.asked
    if len(asked.names) != 1 or asked.near or asked.operation or asked.years:
        return
    said = content_words(asked.text) - content_words(asked.names[0])
    for each in case.records:
        words = content_words(each.attribute)
        exact = bool(words and words <= said) or each.attribute in asked.attributes
        if (
            key(each.entity) == key(asked.names[0])
            and exact
            and asked.phrases <= 1
            and (wrong_type(asked.text, each) is False)
        ):
            yield f"The answer says that it is not known, but a source says {each.line}."
            return


def _wanted_names(case: Case) -> set[str]:
    """The names in a question: of entities that are known, and words written as names."""
    names = set(case.asked.names) | _almanac_names(case)
    text = re.sub(r"(?:^|[.?!:]\s+)([A-Z][a-zà-ÿ']*)", lambda m: m[0].casefold(), case.asked.text)
    for match in re.finditer(
        r"\b[A-ZÀ-Þ][\w'’-]{2,}(?: (?:of |and |the )?[A-ZÀ-Þ][\w'’-]+)*", text
    ):
        if match[0].isupper() and attributes_in(match[0], ())[0]:
            continue  # a code that is asked for: ISO, GDP
        if not any(key(match[0]) in key(name) or key(name) in key(match[0]) for name in names):
            names.add(match[0])
    names |= set(re.findall(r"[\"“„«‘]([^\W\d_][^\"”“»’\n]{1,40})[\"”“»’]", case.asked.text))
    if names:
        return names
    # A name at the beginning of the question: what no list of words knows.
    first = re.match(r"\W*([A-ZÀ-Þ][\w'’-]{2,})", case.asked.text)
    opening = first[1] if first else ""
    return {opening} if opening and content_words(opening) and len(opening) > 4 else set()


def _almanac_names(case: Case) -> set[str]:
    """Names of places, elements and so on that the almanac knows, as the question has them."""
    if not any(tool == "lookup" for tool, _, _ in case.queries):
        return set()
    from perilune.search.almanac import open_almanac

    said = f" {key(case.asked.text)} "
    try:
        almanac = open_almanac()
        names = [
            name
            for address in almanac.meant_by(case.asked.text)[:MOST_MEANT]
            if not address.startswith(f"{ALMANAC}word/")
            for name in almanac.names_of(address)
            if f" {name} " in said and content_words(name)
        ]
    except UsageError:
        return set()
    return {max(names, key=len)} if names else set()


def _same_attribute(question: str, query: str) -> bool:
    one, _ = attributes_in(question, ())
    other, _ = attributes_in(query, ())
    return bool(one & other)


def _grounds(case: Case) -> list[str]:
    """The records that the answer names."""
    said = set(named_in(case.answer, {each.entity for each in case.records}, case.aliases))
    said |= set(case.asked.names)
    chosen = [each for each in case.records if each.entity in said]
    return [f"{each.line}{f' [{each.id}]' if each.id else ''}" for each in chosen[:8]]
