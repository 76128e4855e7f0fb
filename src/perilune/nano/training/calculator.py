"""The value of the small expressions that episodes calculate, as the `python` tool would show it.

Training data needs thousands of results a second, more than the sandbox gives. Only what episodes
write is understood, by walking the syntax tree: numbers, strings, tuples, lists, + - * / **,
comparisons, `max`, `min`, `round`, `sorted`, `sum`, and comprehensions over lists of tuples.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator
from typing import Any

from perilune.errors import UsageError

_OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: lambda base, exponent: _power(base, exponent),
    ast.Gt: operator.gt,
    ast.Lt: operator.lt,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs, "max": max, "min": min, "round": round, "sorted": sorted, "sum": sum,
}  # fmt: skip


_LARGEST_EXPONENT = 64


def _power(base: float, exponent: float) -> float:
    """Bounded, for a tower of powers never ends."""
    if not (abs(base) < 10**6 and 0 <= exponent <= _LARGEST_EXPONENT):
        raise UsageError(f"{base} ** {exponent} is no power of an episode")
    return float(base**exponent) if isinstance(exponent, float) else base**exponent


def shown_value(code: str) -> str:
    """The `repr` of the expression's value. Raises UsageError for anything else than those."""
    try:
        return repr(_value(ast.parse(code, mode="eval").body, {}))
    except (SyntaxError, KeyError, TypeError, ArithmeticError) as error:
        raise UsageError(f"{code!r} is no expression of an episode: {error!r}") from None


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    match node:
        case ast.Constant(value=int() | float() | str() as constant):
            return constant
        case ast.Name(id=name):
            return names[name]
        case ast.Tuple(elts=parts):
            return tuple(_value(part, names) for part in parts)
        case ast.List(elts=parts):
            return [_value(part, names) for part in parts]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, names)
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_value(left, names), _value(right, names))
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return _OPERATORS[type(op)](_value(left, names), _value(right, names))
        case ast.Subscript(value=value, slice=index):
            return _value(value, names)[_value(index, names)]
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            named = {str(each.arg): _flag(each.value) for each in keywords}
            return _FUNCTIONS[name](*(_value(arg, names) for arg in args), **named)
        case ast.ListComp(elt=element, generators=[loop]):
            return list(_loop(element, loop, names))
        case ast.GeneratorExp(elt=element, generators=[loop]):
            return _loop(element, loop, names)
    raise UsageError(f"an expression of an episode has no {type(node).__name__}")


def _loop(element: ast.expr, loop: ast.comprehension, names: dict[str, Any]) -> Iterator[Any]:
    for item in _value(loop.iter, names):
        if isinstance(loop.target, ast.Tuple):
            bound = dict(zip((each.id for each in loop.target.elts if isinstance(each, ast.Name)),
                             item, strict=True))  # fmt: skip
        else:
            assert isinstance(loop.target, ast.Name)
            bound = {loop.target.id: item}
        inner = names | bound
        if all(_value(test, inner) for test in loop.ifs):
            yield _value(element, inner)


def _flag(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=bool() as flag):
            return flag
    raise UsageError("a named argument of an episode is True or False")
