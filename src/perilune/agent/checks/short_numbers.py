"""A short answer that is a number: of what, in which unit, computed from what."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal

from perilune.agent.checks.arithmetic import expected_number
from perilune.agent.checks.case import Case
from perilune.agent.checks.copies import miscopied
from perilune.agent.checks.figures import Figure, figures_in
from perilune.agent.checks.short_values import value_problems
from perilune.agent.checks.units import agree, unit_at
from perilune.search.almanac.text import key


def number_problems(case: Case, text: str, figure: Figure) -> Iterable[str]:
    asked = case.asked
    unit = unit_of(text, figure)
    wanted = expected_number(asked, case.records)
    if wanted is not None:
        values, shown, its_unit = wanted
        if asked.operation == "difference" and _of_no_unit(case, unit):
            yield f"{text} has a unit, but it is a number of years: {shown}."
            return
        if not any(is_value(figure, unit, value, its_unit) for value in values):
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
    yield from value_problems(case, text, right)


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


def is_value(figure: Figure, unit: str, value: Decimal, its_unit: str) -> bool:
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
