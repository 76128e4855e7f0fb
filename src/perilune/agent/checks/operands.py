"""Numbers in code that a run computed with: each is a whole one of a record, and of its entity.

A small model that copies 557517 for 55751717 compares the wrong number with the right one, and the
name that comes out stands in the evidence all the same.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal

from perilune.agent.checks.copies import miscopied
from perilune.agent.checks.records import Record
from perilune.search.almanac.text import key

LEAST_DIGITS = 4
_ALWAYS_KNOWN = 100
"""Numbers up to this are counts, places and factors."""
_PLAIN = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.operator,
    ast.unaryop,
    ast.Constant,
    ast.Call,
    ast.Name,
    ast.Load,
    ast.Tuple,
    ast.List,
    ast.keyword,
    ast.ListComp,
    ast.GeneratorExp,
    ast.comprehension,
    ast.Compare,
    ast.cmpop,
    ast.Store,
    ast.Subscript,
    ast.Slice,
)


def code_problems(
    computed: Sequence[tuple[str, str]], records: Sequence[Record], question: str
) -> Iterable[str]:
    """What is wrong with the numbers of code. `computed`: code and output of each call."""
    known = {each.number for each in records if each.number is not None}
    if not known:
        return
    known |= {abs(each) for each in known} | _numbers(question)
    for each in records:
        known |= _numbers(f"{each.value} {each.year}")
    for code, output in computed:
        if output.startswith("Error"):
            continue
        tree = _tree(code)
        if tree is None:
            continue
        yield from _pair_problems(tree, records, known)
        yield from _constant_problems(tree, records, known)
        known |= _numbers(output)


def _tree(code: str) -> ast.AST | None:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _numbers(text: str) -> set[Decimal]:
    found = set()
    for each in re.findall(r"\d[\d,]*(?:\.\d+)?", text):
        found.add(Decimal(each.replace(",", "")))
        found |= {Decimal(part) for part in re.findall(r"\d+(?:\.\d+)?", each)}
    return found


def _number(node: ast.AST) -> Decimal | None:
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node, sign = node.operand, -1
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        value = Decimal(str(node.value))
        return sign * value if value.is_finite() else None
    return None


def _pairs(tree: ast.AST) -> Iterable[tuple[str, Decimal]]:
    """Names and numbers that stand beside each other: `(3, 'A')`, `('A', 3)`, `{'A': 3}`."""
    for node in ast.walk(tree):
        sides: list[tuple[ast.AST | None, ast.AST]] = []
        if isinstance(node, ast.Tuple | ast.List) and len(node.elts) == 2:
            sides = [(node.elts[0], node.elts[1]), (node.elts[1], node.elts[0])]
        elif isinstance(node, ast.Dict):
            sides = list(zip(node.keys, node.values, strict=True))
        for name, value in sides:
            number = _number(value)
            if (
                isinstance(name, ast.Constant)
                and isinstance(name.value, str)
                and number is not None
            ):
                yield name.value, number


def _pair_problems(tree: ast.AST, records: Sequence[Record], known: set[Decimal]) -> Iterable[str]:
    for name, number in _pairs(tree):
        own = [r for r in records if key(r.entity) == key(name) and r.number is not None]
        if not own or any(r.number == number or _scaled(number, r.number) for r in own):
            continue
        others = [r for r in records if r.number == number and key(r.entity) != key(name)]
        values = {r.number for r in own if r.number is not None}
        if others and number not in _numbers(" ".join(r.value for r in own)):
            yield (
                f"The code takes {number} for {name}, but that is {others[0].line}; "
                f"of {name} it is known: {own[0].line}."
            )
        elif (whole := miscopied(number, values, least=3)) is not None:
            yield f"The code takes {number} for {name}; its source has {whole:f}. Copy it whole."


def _scaled(number: Decimal, other: Decimal | None) -> bool:
    """Whether a number is another one in thousands, millions or the like, perhaps rounded."""
    if not number or not other:
        return False
    ratio = abs(other / number)
    powers = (Decimal(10) ** n for n in (0, 3, 6, 9, 12))
    return any(abs(ratio / each - 1) < Decimal("0.06") for each in powers) and (
        abs(number) != abs(number).to_integral_value() or ratio > 2
    )


def _constant_problems(
    tree: ast.AST, records: Sequence[Record], known: set[Decimal]
) -> Iterable[str]:
    paired = {number for _, number in _pairs(tree)}
    plain = all(isinstance(node, (*_PLAIN, ast.Module, ast.Expr)) for node in ast.walk(tree))
    values = [each.number for each in records if each.number is not None]
    for node in ast.walk(tree):
        number = _number(node) if isinstance(node, ast.Constant) else None
        if number is None or number in known or number in paired or -number in known:
            continue
        if (whole := miscopied(number, values, least=LEAST_DIGITS)) is not None:
            line = next(r.line for r in records if r.number == whole)
            yield f"The code computes with {number}, but its source has {line}. Copy it whole."
        elif plain and abs(number) > _ALWAYS_KNOWN and not _factor(number, values):
            yield f"The code computes with {number}, which stands in no source and not in the task."
    if plain:
        yield from _strange_pairs(tree, records, known)


def _strange_pairs(tree: ast.AST, records: Sequence[Record], known: set[Decimal]) -> Iterable[str]:
    for name, number in _pairs(tree):
        own = [r for r in records if key(r.entity) == key(name) and r.number is not None]
        if own and number not in known and not any(_scaled(number, r.number) for r in own):
            yield f"The code takes {number} for {name}, but its source has {own[0].line}."


def _factor(number: Decimal, values: Iterable[Decimal]) -> bool:
    """Whether a number is a factor as people use them, or a scaled value."""
    text = f"{abs(number):f}".rstrip("0").rstrip(".")
    if text.strip("0.") in ("1", "") or number in (360, 365, 1024, 1440, 3600, 86400, 1609, 4047):
        return True
    return number != number.to_integral_value() or any(_scaled(number, each) for each in values)
