"""Equations that an answer shows, such as `3 * (4120 - 20) / 4 = 3075`, computed exactly.

Only numbers, + - * / ^ and brackets are read, by the syntax tree; nothing is evaluated as code.
What only looks like an equation of numbers, or may be meant in another arithmetic (`x - 2 * 3 = 0`,
`7 / 2 = 3` of whole numbers, `512 * 1024 = 512 KB`), is not said to be false: see `excuse`.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

_N = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?\s?%?"
_LEFT = re.compile(
    rf"(?<![\w.,])(?P<left>[(\s]*-?{_N}(?:[\s)]*[-+*/×·÷−^][\s(]*-?{_N}|[\s)]*\*\*[\s(]*{_N})+[\s)]*)"
    rf"\s*(?P<sign>[=≈])\s*(?P<right>-?(?:{_N})(?:\s?(?:thousand|million|billion))?)"
)
_LONGEST = 400
_MOST_POWER = 64
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}
_AROUND = 80
"""Characters before and behind an equation that say in which sense it is meant."""
# What the left side is the rest of: an operator, an opening bracket of a call, a time, a root, a
# mixed number, a word for an operation.
_GOES_ON_BEFORE = re.compile(
    r"(?:[-+*/×·÷−^%√∛∑∏!:&|<>~$#@]|[^\W\d_]\(|\d|\b(?:of|mod|div|choose|log\w*|ln|sqrt|root|times|plus|"
    r"minus|over|per|by|from|to|von|mal|de|sur|von|por|base))\s*$",
    re.I,
)
_GOES_ON_BEHIND = re.compile(
    r"\s*(?:[-+*/×·÷−^:!]|\*\*)\s*[\w(√]|,\d|\.\d|[ \u00a0\u202f]\d{3}\b|'\d"
)
_OTHER_SENSE = re.compile(
    r"\b(?:mod(?:ulo|ulus)?|remainder|rest|binary|octal|hex\w*|base|radix|xor|string\w*|concat\w*|overflow\w*|"
    r"wraps?|uint\d*|int\d+|o'clock|uhr|clock|midnight|integer|floor\w*|truncat\w*|round\w*|float\w*|"
    r"wrong|false|falsch\w*|faux|incorrect\w*|not|never|instead|bugs?|mistakes?|errors?|should|would|joke|"
    r"nein|nicht|pas|no|matrix|vector\w*|date\w*|range|lines?|rows?|pages?|roughly|about|approx\w*)\b|n't\b|错|不",
    re.I,
)
_UNIT_BEHIND = re.compile(r"\s?(?P<unit>[^\W\d_]+|°|″|′)")
_FACTORS = frozenset(
    Fraction(each)
    for each in (
        *(10**n for n in range(1, 13)),
        *(1024**n for n in range(1, 5)),
        2,
        4,
        7,
        8,
        12,
        16,
        24,
        30,
        36,
        52,
        60,
        90,
        100,
        180,
        360,
        365,
        1440,
        3600,
        10080,
        86400,
    )
)
"""By how much two units of one kind often differ: bytes, times, lengths, parts of a hundred."""


@dataclass(frozen=True, slots=True)
class Equation:
    """`left` computed is `value`; `right` is what the answer says that it is. `before` and `behind`
    are the words around it; `about` that it is written with `≈`."""

    left: str
    right: str
    value: Decimal
    operands: tuple[Decimal, ...]
    before: str = ""
    behind: str = ""
    about: bool = False

    @property
    def shown(self) -> str:
        return f"{self.value.normalize():f}"


def equations(text: str) -> list[Equation]:
    """All equations of a text whose left side can be computed."""
    found = []
    text = re.sub(r"[`$]|\\(?:times|cdot|div|text\{[^}]*\})", lambda m: _TEX.get(m[0], " "), text)
    text = text[:200_000]
    for match in _LEFT.finditer(text):
        left = " ".join(match["left"].split())
        value = compute(left)
        if value is not None:
            numbers = [
                Decimal(each.replace(",", "")) for each in re.findall(r"\d[\d,]*(?:\.\d+)?", left)
            ]
            around = (
                text[max(0, match.start() - _AROUND) : match.start()],
                text[match.end() : match.end() + _AROUND],
            )
            found.append(
                Equation(
                    left,
                    match["right"].strip(),
                    value,
                    tuple(numbers),
                    *around,
                    about=match["sign"] == "≈",
                )
            )
    return found


_TEX = {"\\times": "*", "\\cdot": "*", "\\div": "/"}


def excuse(equation: Equation, stated: Decimal) -> str:
    """In which sense an equation that does not hold exactly may be right all the same; "" where
    none is known, and so it is false. `stated` is the value of its right side."""
    value = equation.value
    if _GOES_ON_BEFORE.search(equation.before):
        return "its left side begins earlier"
    if _GOES_ON_BEHIND.match(equation.behind):
        return "its right side goes on"
    if re.search(r"[a-z]$", equation.right) and stated and value:
        scaled = Decimal(stated) / value
        if scaled in (Decimal(10) ** 3, Decimal(10) ** 6, Decimal(10) ** 9):
            return "the left side may be in thousands"
    if equation.about and abs(stated - value) <= abs(value) / 10:
        return "it is said to be about so"
    if "/" in equation.left and stated in (math.floor(value), math.ceil(value), int(value)):
        return "the division may be of whole numbers"
    if re.fullmatch(r"[\d.,%]+[-−][\d.,%]+", equation.left.replace(" ", "")) and (
        " " not in equation.left.strip()
    ):
        return "the line may stand for a range"
    if re.match(r"\(?(?:19|20)\d\d-\d\d?-\d\d?", equation.left):
        return "it begins with a date"
    if stated in _other_readings(equation):
        return "it holds in another arithmetic"
    sense = _sentence(equation)
    if _OTHER_SENSE.search(sense):
        return "the sentence gives it another sense"
    if _UNIT_BEHIND.match(equation.behind) and stated and value:
        ratio = abs(Fraction(stated) / Fraction(value))
        if any(
            abs(each * factor - 1) < Fraction(1, 20)
            for factor in _FACTORS
            for each in (ratio, 1 / ratio)
        ):
            return "the right side may be in another unit"
    return ""


def _sentence(equation: Equation) -> str:
    """The words around an equation, of its own sentence."""
    before = re.split(r"[.!?\n]\s", equation.before)[-1]
    behind = re.split(r"[.!?](?:\s|$)|\n", equation.behind)[0]
    return f"{before} {behind}"


def _other_readings(equation: Equation) -> list[Decimal]:
    """What the left side is with percentages as on a calculator, in binary numbers, with `^` as
    exclusive or, and in the floating point of computers."""
    left = equation.left
    found: list[Decimal] = []
    percent = re.sub(r"([-+−])\s*(\d[\d.]*)\s?%", r"*(1\1(\2/100))", left)
    readings = [percent] if percent != left else []
    for each in readings:
        value = compute(each)
        if value is not None:
            found.append(value)
    whole = re.fullmatch(r"\s*(\d+)\s*([-+*^−])\s*(\d+)\s*", left)
    if whole:
        one, other = int(whole[1]), int(whole[3])
        if whole[2] == "^":
            found.append(Decimal(one ^ other))
        digits = {*whole[1], *whole[3]}
        if digits <= {"0", "1"} and whole[2] in "+-*":
            a, b = int(whole[1], 2), int(whole[3], 2)
            total = {"+": a + b, "-": a - b, "*": a * b}[whole[2]]
            found.append(Decimal(f"{total:b}"))
    parts = re.fullmatch(r"\s*(\d*\.\d+)\s*([-+*/])\s*(\d*\.?\d+)\s*", left)
    if parts:
        a_, b_ = float(parts[1]), float(parts[3])
        shown = {"+": a_ + b_, "-": a_ - b_, "*": a_ * b_, "/": a_ / b_ if b_ else 0.0}[parts[2]]
        found.append(Decimal(repr(shown)))
    return found


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
