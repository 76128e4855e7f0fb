"""Numbers: each stands in a source, in a tool's output or in the task, or is computed anew.

Only what can be shown to be wrong is refused: a false equation, a number that the pages cited with
it do not hold, a long number of a source that was copied with digits lost or exchanged. Any other
number without ground may be advice or general knowledge: it is noted, and refused only where the
recipe demands a ground (`strict`).

A number may be rounded, scaled ("4.1 million") or a percentage of what stands there. What code that
ran computes with counts as what it prints. An equation in the answer is computed; its result counts
when its operands do. A number with a citation must stand in the pages cited, or come from a tool
that computes. Not looked at: code, addresses, the numbers of list items and headings, words for
numbers.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from perilune.agent.checks.check import ECHOES, Proposal, made, plain_text
from perilune.agent.checks.copies import miscopied
from perilune.agent.checks.equations import Equation, equations, excuse
from perilune.agent.checks.figures import Figure, figures_in, values_in
from perilune.agent.evidence.passages import GROUP, cited_for, passages, prose
from perilune.events import CheckMade

_ADDRESS = re.compile(r"(?:https?://|corpus:|almanac:|www\.)\S+|\]\([^)\s]*\)|\b10\.\d{4,9}/\S+")
_NOT_FIGURES = re.compile(
    r"^\s{0,8}(?:#{1,6}\s*)?\d{1,3}(?:\.\d{1,3})*[.)](?=\s)|\b(?:step|part|option|phase|chapter|section|figure|"
    r"table|item|point|no\.|number|question|example|version|python|http)\s+#?\d[\d.]*|#\d+|\[\^?\d{1,3}\]|"
    r"\b\d+(?:\.\d+){2,}\b|\b\d+\s?(?:\^|\*\*)\s?-?\d+",
    re.I | re.M,
)
_COMPUTING = frozenset({"python", "bash", "run_tests"})
_LISTED = re.compile(r"^\s*(?:[-*+]|\d{1,3}[.)])\s+\S|^\s*\|(?!\s*:?-)", re.M)


class Numbers:
    """Every number has its ground. `strict`: one without any is refused; else it is noted as the
    model's own, unless it can be shown to be wrong."""

    name = "numbers"

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict

    async def examine(self, proposal: Proposal) -> CheckMade | None:
        found = figures(proposal.text)
        sums = equations(prose(proposal.text))
        if not found and not sums:
            return None
        grounds = Grounds.of(proposal)
        problems, evidence = _judge_equations(sums, grounds)
        without: list[str] = []
        for sentence in passages(_without_own(proposal.text)).sentences:
            for figure in figures_in(_blanked(sentence.whole)):
                cited = cited_for(sentence.whole, figure.start, figure.end)
                ground = grounds.ground(figure, cited)
                if ground is None and _counts_list(figure, proposal.text):
                    ground = "counted in the answer"
                if ground is not None:
                    evidence.append(f"{figure.text}: {ground}")
                elif wrong := _shown_wrong(figure, sentence.text, cited, grounds):
                    problems.append(wrong)
                elif self._strict:
                    problems.append(_objection(figure, sentence.text))
                else:
                    without.append(f"{figure.text} in {sentence.text[:60]!r} stands in no source")
        return made(
            self.name,
            list(dict.fromkeys(problems)),
            notes=list(dict.fromkeys(without)),
            evidence=list(dict.fromkeys(evidence)),
        )


@dataclass(slots=True)
class Grounds:
    """The numbers that stand somewhere, by where."""

    places: list[tuple[str, set[Decimal]]]
    """Where they stand, as "task", "python" or an evidence id, and which they are."""
    results: list[tuple[str, Decimal]]
    sources: set[str]
    """The places that are sources which the run kept."""

    @classmethod
    def of(cls, proposal: Proposal) -> Grounds:
        places = [("task", values_in("\n".join(proposal.said())))]
        sources: set[str] = set()
        for each in proposal.state.evidence:
            try:
                places.append((each, values_in(proposal.evidence.text(each))))
            except KeyError:
                continue
            sources.add(each)
        for state in (proposal.state, *proposal.others):
            for message, origin in zip(state.messages, state.origins, strict=True):
                name = str(message.get("name", ""))
                if origin == "tool" and name not in ECHOES:
                    places.append((name, values_in(plain_text(message.get("content") or ""))))
            for done in state.ledger:
                if done.name == "python" and done.outcome == "ok":
                    places.append((done.name, constants(str(done.arguments.get("code", "")))))
        return cls(places, [], sources)

    def ground(self, figure: Figure, cited: Sequence[str] = ()) -> str | None:
        """Where a number stands; a sentence that cites pages must have it from them, or from what
        computes."""
        allowed = {*cited, *_COMPUTING, "task"} if cited else None
        for equation, value in self.results:
            if figure.fits(value):
                return f"computed: {equation}"
        for place, values in self.places:
            if (allowed is None or place in allowed) and any(map(figure.fits, values)):
                return place
        return None

    def knows(self, value: Decimal) -> bool:
        return any(value in values for _, values in self.places) or any(
            value == result for _, result in self.results
        )


def constants(code: str) -> set[Decimal]:
    """The numbers that a program computes with; comments and texts are none."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    found = (each.value for each in ast.walk(tree) if isinstance(each, ast.Constant))
    return {Decimal(str(v)) for v in found if isinstance(v, int | float) and abs(v) < 1e15}


def figures(text: str) -> list[Figure]:
    """The numbers of an answer that need a ground."""
    return figures_in(GROUP.sub(" ", _without_own(text)))


def _blanked(text: str) -> str:
    """The same length, with blanks for citations."""
    return GROUP.sub(lambda match: " " * len(match[0]), text)


def _without_own(text: str) -> str:
    """Without code, addresses, and the numbers that count the answer's own parts."""
    return _NOT_FIGURES.sub(" ", _ADDRESS.sub(" ", prose(text)))


def _judge_equations(sums: Iterable[Equation], grounds: Grounds) -> tuple[list[str], list[str]]:
    problems, evidence = [], []
    for each in sums:
        stated = figures_in(each.right)
        if not stated:
            continue
        if not stated[0].fits(each.value):
            if not excuse(each, stated[0].value):
                problems.append(
                    f"{each.left} = {each.right} does not hold: the left side is {each.shown}."
                )
        elif all(grounds.knows(operand) or abs(operand) <= 100 for operand in each.operands):
            grounds.results.append((f"{each.left} = {each.shown}", each.value))
            grounds.results += [(f"operand of {each.left}", number) for number in each.operands]
            evidence.append(f"computed: {each.left} = {each.shown}")
    return problems, evidence


def _counts_list(figure: Figure, text: str) -> bool:
    """Whether a small whole number is that of the answer's own items or rows."""
    if figure.value != figure.value.to_integral_value() or not 0 < figure.value <= 200:
        return False
    items = len(_LISTED.findall(text))
    rows = len(re.findall(r"^\s*\|\s*:?-", text, re.M))
    return bool(items) and int(figure.value) in (items, items - rows)


def _shown_wrong(figure: Figure, sentence: str, cited: Sequence[str], grounds: Grounds) -> str:
    """Why a number without ground is wrong; "" where that cannot be shown."""
    if any(each in grounds.sources for each in cited):
        where = grounds.ground(figure)
        pages = " or ".join(f"[{each}]" for each in cited)
        stands = f"it stands in {where}" if where else "nor does it stand in any other source"
        return (
            f"The number {figure.text} does not stand in {pages}, which {sentence[:80]!r} cites; "
            f"{stands}."
        )
    for place, values in grounds.places:
        if place in grounds.sources and (whole := miscopied(figure.value, values)) is not None:
            return (
                f"The number {figure.text} in {sentence[:80]!r} is no whole number of a source: "
                f"[{place}] has {whole:f}. Copy it whole."
            )
    return ""


def _objection(figure: Figure, sentence: str) -> str:
    return (
        f"The number {figure.text} in {sentence[:80]!r} stands in no source and no tool's output. "
        "Look it up, compute it with a tool, or show the equation; or leave it out."
    )
