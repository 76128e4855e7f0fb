"""Equations that an answer shows, such as `3 * (4120 - 20) / 4 = 3075`, computed exactly.

Only numbers, + - * / ^ and brackets are read, by the syntax tree; nothing is evaluated as code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

_N = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?\s?%?"
_LEFT = re.compile(
    rf"(?<![\w.,])(?P<left>[(\s]*-?{_N}(?:[\s)]*[-+*/×·÷−^][\s(]*-?{_N}|[\s)]*\*\*[\s(]*{_N})+[\s)]*)"
    rf"\s*[=≈]\s*(?P<right>-?(?:{_N})(?:\s?(?:thousand|million|billion))?)"
)
_LONGEST = 400
_MOST_POWER = 64
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


@dataclass(frozen=True, slots=True)
class Equation:
    """`left` computed is `value`; `right` is what the answer says that it is."""

    left: str
    right: str
    value: Decimal
    operands: tuple[Decimal, ...]

    @property
    def shown(self) -> str:
        return f"{self.value.normalize():f}"


def equations(text: str) -> list[Equation]:
    """All equations of a text whose left side can be computed."""
    found = []
    text = re.sub(r"[`$]|\\(?:times|cdot|div|text\{[^}]*\})", lambda m: _TEX.get(m[0], " "), text)
    for match in _LEFT.finditer(text[:200_000]):
        left = " ".join(match["left"].split())
        value = compute(left)
        if value is not None:
            numbers = [
                Decimal(each.replace(",", "")) for each in re.findall(r"\d[\d,]*(?:\.\d+)?", left)
            ]
            found.append(Equation(left, match["right"].strip(), value, tuple(numbers)))
    return found


_TEX = {"\\times": "*", "\\cdot": "*", "\\div": "/"}


def compute(expression: str) -> Decimal | None:
    """The value of an arithmetic expression, to 28 digits; None for what is none."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", expression)
    text = re.sub(r"(\d(?:[\d.]*))\s?%", r"(\1/100)", text)
    for sign, python in (("×", "*"), ("·", "*"), ("÷", "/"), ("−", "-"), ("^", "**")):
        text = text.replace(sign, python)
    if len(text) > _LONGEST:
        return None
    text = re.sub(r"\b0+(?=\d)", "", text)
    try:
        value = _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None
    return Decimal(value.numerator) / Decimal(value.denominator)


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            return Fraction(str(node.value))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            power = _value(right)
            if power.denominator != 1 or abs(power) > _MOST_POWER:
                raise ValueError("a power that is not computed")
            return Fraction(_value(left) ** int(power))
        case ast.BinOp(left=left, op=operation, right=right):
            return _OPERATIONS[type(operation)](_value(left), _value(right))
    raise ValueError("not arithmetic")
