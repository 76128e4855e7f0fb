"""A longer answer held against the records, sentence by sentence and cell by cell.

Refused is only what the records contradict: a number that is another entity's, or another
attribute's than the sentence names; one that was copied with digits lost; another unit. A number
that no record has is left to the check of numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from perilune.agent.checks.copies import miscopied
from perilune.agent.checks.figures import Figure, figures_in
from perilune.agent.checks.question import attributes_in, content_words, named_in, related
from perilune.agent.checks.records import Record
from perilune.agent.checks.units import agree
from perilune.agent.evidence.passages import GROUP, prose
from perilune.search.almanac.text import key

_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_SMALL = Decimal(20)
"""Numbers up to this are counts of all kinds of things."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A figure, the entity it is said of, the words around it, and what stands behind it."""

    figure: Figure
    entity: str
    words: str
    behind: str


def told_problems(
    answer: str, records: Sequence[Record], aliases: Mapping[str, set[str]]
) -> Iterable[str]:
    """What the records contradict in a longer answer."""
    text = prose(GROUP.sub("", answer))
    numeric = [each for each in records if each.number is not None]
    for claim in (*_sentences(text, records, dict(aliases)), *_cells(text, records, dict(aliases))):
        yield from _judge(claim, numeric)


def _sentences(
    text: str, records: Sequence[Record], aliases: dict[str, set[str]]
) -> Iterator[Claim]:
    entities = {each.entity for each in records}
    for sentence in _SENTENCE.split(text):
        if not sentence.strip() or sentence.lstrip().startswith("|"):
            continue
        names = [
            name
            for name in named_in(sentence, entities, aliases)
            if _strictly(name, sentence, aliases)
        ]
        # Where a sentence names several, which number is whose is a matter of grammar: only a
        # number that none of them has can be said to be wrong.
        for figure in figures_in(sentence):
            for name in names if len(names) == 1 else ():
                yield Claim(figure, name, sentence, sentence[figure.end : figure.end + 24])
            if len(names) > 1:
                yield Claim(
                    figure, "\0".join(names), sentence, sentence[figure.end : figure.end + 24]
                )


def _strictly(name: str, sentence: str, aliases: dict[str, set[str]]) -> bool:
    said = f" {key(sentence)} "
    return any(f" {each} " in said for each in (key(name), *aliases.get(name, ())))


def _cells(text: str, records: Sequence[Record], aliases: dict[str, set[str]]) -> Iterator[Claim]:
    entities = {each.entity for each in records}
    header: list[str] = []
    for line in text.splitlines():
        if not line.strip().startswith("|"):
            header = []
            continue
        cells = [each.strip() for each in line.strip().strip("|").split("|")]
        if not header:
            header = cells
            continue
        names = [
            n for n in named_in(cells[0], entities, aliases) if _strictly(n, cells[0], aliases)
        ]
        if len(names) != 1:
            continue
        for title, cell in list(zip(header, cells, strict=False))[1:]:
            for figure in figures_in(cell)[:1]:
                yield Claim(figure, names[0], title, cell[figure.end :] + " " + title)


def _judge(claim: Claim, records: Sequence[Record]) -> Iterable[str]:
    figure = claim.figure
    if abs(figure.value) <= _SMALL or figure.percent or figure.hedged:
        return
    names = {key(each) for each in claim.entity.split("\0")}
    own = [each for each in records if key(each.entity) in names]
    if not own:
        return
    shown = " and ".join(claim.entity.split("\0")[:3])
    rows = [each for each in records if each.number is not None and figure.fits(each.number)]
    if any(str(figure.value) == each.year for each in records):
        return
    fitting = [each for each in rows if each in own]
    if rows and not fitting:
        said = content_words(claim.words)
        named, _ = attributes_in(claim.words, {each.attribute for each in own})
        if any(
            row.attribute in named or related(content_words(row.attribute), said) for row in rows
        ):
            yield f"{figure.text} in {claim.words[:80]!r} is {rows[0].line}, and not of {shown}."
        return
    if not rows:
        values = [each.number for each in own if each.number is not None]
        whole = miscopied(figure.value, values)
        if whole is not None:
            line = next(each.line for each in own if each.number == whole)
            yield f"{figure.text} in {claim.words[:80]!r} is no whole number of a source: {line}."
        return
    if len(names) == 1:
        yield from _attribute_problem(claim, own, fitting)
    units = [
        agree(figure.value, claim.behind, r.number, r.unit, figure.slack)
        for r in fitting
        if r.number is not None
    ]
    if units and all(each is False for each in units):
        yield f"{figure.text} in {claim.words[:80]!r} has another unit than {fitting[0].line}."


def _attribute_problem(
    claim: Claim, own: Sequence[Record], fitting: Sequence[Record]
) -> Iterable[str]:
    """The number is that of another attribute than the one which the words name."""
    covered = set(key(claim.entity).split())
    named, _ = attributes_in(claim.words, {each.attribute for each in own}, covered)
    said = content_words(claim.words) - covered
    if any(
        each.attribute in named or related(content_words(each.attribute), said) for each in fitting
    ):
        return
    for each in own:
        if each.attribute in named and each not in fitting and len(figures_in(claim.words)) <= 1:
            yield (
                f"{claim.figure.text} in {claim.words[:80]!r} is {fitting[0].line}; "
                f"known is also {each.line}."
            )
            return
