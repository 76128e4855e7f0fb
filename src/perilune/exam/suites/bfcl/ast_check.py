"""Whether calls are among the possible answers, judged as `bfcl-eval` 2026.3 judges Python calls.

Its rules, oddities included, so that figures compare: strings without spaces, case and the signs
`,./-_*^`; whole numbers pass for floats and not the other way round; a value of the ground truth's
own type passes where that differs from the declared one (a variable); "" among the possible values
means that a parameter may be left out. `tests/exam` compares with the package's own checker.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from perilune.exam.suites.bfcl.data import tool_name

Calls = Sequence[tuple[str, Mapping[str, Any]]]
"""Name (as declared to the model) and arguments, in order."""

_TYPES: Mapping[str, type] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
}


def check_calls(
    functions: Sequence[Mapping[str, Any]],
    calls: Calls,
    truth: Sequence[Mapping[str, Any]],
    *,
    any_order: bool,
) -> str:
    """Why the calls are wrong; empty where they are right.

    `truth` holds one call each: `{name: {parameter: [possible values]}}`.
    """
    if len(calls) != len(truth):
        return f"{len(calls)} calls instead of {len(truth)}"
    documents = {function["name"]: function for function in functions}
    left = list(calls)
    for expected in truth:
        ((name, possible),) = expected.items()
        problems = []
        for call in left:
            problem = _check_call(documents[name], call, possible)
            if not problem:
                left.remove(call)
                break
            problems.append(problem)
            if not any_order:
                return problem
        else:
            return f"no call fits {name}: {'; '.join(problems)}"
    return ""


def _check_call(
    function: Mapping[str, Any], call: tuple[str, Mapping[str, Any]], possible: Mapping[str, Any]
) -> str:
    name, arguments = call
    if name != tool_name(function["name"]):
        return f"{name} was called, not {function['name']}"
    declared = function["parameters"]["properties"]
    for parameter in function["parameters"]["required"]:
        if parameter not in arguments:
            return f"{parameter} is missing"
    for parameter, value in arguments.items():
        if parameter not in declared or parameter not in possible:
            return f"{parameter} was not asked for"
        problem = _check_value(declared[parameter], value, possible[parameter])
        if problem:
            return f"{parameter}: {problem}"
    for parameter, values in possible.items():
        if parameter not in arguments and "" not in values:
            return f"{parameter} is missing"
    return ""


def _check_value(declared: Mapping[str, Any], given: Any, possible: Sequence[Any]) -> str:
    expected = _TYPES[declared["type"]]
    nested = _TYPES[declared["items"]["type"]] if declared["type"] in ("array", "tuple") else None
    value: Any = given
    if declared["type"] == "float" and type(given) is int:
        value = float(given)
    fits, is_variable = _fits(value, possible, expected, nested)
    if not fits:
        return f"{value!r} is not a {declared['type']}"
    if not is_variable:
        if expected is dict:
            return "" if _is_dict(value, possible) else f"{value!r} is not expected"
        if expected is list and nested is dict:
            return "" if _is_list_of_dicts(value, possible) else f"{value!r} is not expected"
        if expected is str:
            strings = [_plain(each) for each in possible if isinstance(each, str)]
            return "" if _plain(value) in strings else f"{value!r} is not expected"
        if expected is list:
            lists = [[_plain(item) for item in each] for each in possible]
            return "" if [_plain(item) for item in value] in lists else f"{value!r} is not expected"
    return "" if value in possible else f"{value!r} is not expected"


def _fits(
    value: Any, possible: Sequence[Any], expected: type, nested: type | None
) -> tuple[bool, bool]:
    """Whether the type is right, and whether the ground truth is of another than declared."""
    of_truth = next((type(each) for each in possible if each != ""), None)
    is_variable = of_truth is not None and of_truth is not expected
    as_declared = type(value) is expected
    if as_declared:
        if nested is None:
            return True, is_variable
        fits = any(
            not isinstance(each, list) or all(_fits(item, each, nested, None)[0] for item in value)
            for each in possible
        )
        return fits, is_variable
    return type(value) is of_truth, True


def _plain(value: Any) -> Any:
    """A string without what does not matter; anything else as it is."""
    if not isinstance(value, str):
        return value
    return re.sub(r"[ ,./\-_*^]", "", value).lower().replace("'", '"')


def _is_dict(given: Mapping[str, Any], possible: Sequence[Any]) -> bool:
    return any(each != "" and _fits_dict(given, each) for each in possible)


def _fits_dict(given: Mapping[str, Any], expected: Mapping[str, Sequence[Any]]) -> bool:
    return all(
        key in expected and _plain(value) in [_plain(each) for each in expected[key]]
        for key, value in given.items()
    ) and all(key in given or "" in values for key, values in expected.items())


def _is_list_of_dicts(given: Sequence[Any], possible: Sequence[Any]) -> bool:
    return any(
        len(given) == len(each)
        and all(_is_dict(one, [other]) for one, other in zip(given, each, strict=True))
        for each in possible
    )
