"""The simulated APIs of `bfcl-eval`: methods are called by name, with values and never with code.

The package evaluates call texts; a model's words are not code here. Two worlds that had the same
calls must be in the same state and have given the same results.
"""

from __future__ import annotations

import ast
import copy
import inspect
import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from perilune.exam.suites.bfcl.data import Entry, module_of

STATELESS = ("MathAPI",)


class SimulatedAPIs:
    """Fresh instances of the APIs that a question involves."""

    def __init__(self, entry: Entry) -> None:
        self._instances: dict[str, Any] = {}
        self._methods: dict[str, Any] = {}
        for name in entry.classes:
            instance = getattr(import_module(module_of(name)), name)()
            if name not in STATELESS:
                scenario = copy.deepcopy((entry.initial or {}).get(name, {}))
                instance._load_scenario(scenario, long_context="long_context" in entry.id)
            self._instances[name] = instance
            for method, bound in inspect.getmembers(instance, inspect.ismethod):
                if not method.startswith("_"):
                    self._methods[method] = bound

    def call(self, name: str, /, *values: Any, **named: Any) -> str:
        """What a method returns, as text. Never raises for what the caller said."""
        try:
            if name not in self._methods:
                raise NameError(f"name {name!r} is not defined")
            result = self._methods[name](*values, **named)
        except Exception as error:
            return f"Error during execution: {error}"
        if isinstance(result, str):
            return result
        if isinstance(result, dict):
            try:
                return json.dumps(result)
            except (TypeError, ValueError):
                return str(result)
        return str(result)

    def call_text(self, text: str) -> str:
        """Make a call of the ground truth: a name and literals."""
        name, values, named = read_call(text)
        return self.call(name, *values, **named)

    def differences(self, other: SimulatedAPIs) -> list[str]:
        """The attributes in which two worlds differ: `Class.attribute`."""
        return [
            f"{name}.{attribute}"
            for name, instance in self._instances.items()
            for attribute, value in vars(instance).items()
            if not attribute.startswith("_") and getattr(other._instances[name], attribute) != value
        ]


def read_call(text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """`cd(folder='a')` as name, values and named values. Raises ValueError for anything else."""
    node = ast.parse(text.strip(), mode="eval").body
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError(f"{text!r} is not a call")
    values = [ast.literal_eval(each) for each in node.args]
    named = {str(each.arg): ast.literal_eval(each.value) for each in node.keywords}
    return node.func.id, values, named


def missing(wanted: Sequence[str], given: Sequence[str]) -> list[str]:
    """Results that were wanted and are not among the given ones, each counted once."""
    left = list(given)
    absent = []
    for each in wanted:
        if each in left:
            left.remove(each)
        else:
            absent.append(each)
    return absent


def judge_turns(entry: Entry, turns: Sequence[Sequence[tuple[str, Mapping[str, Any]]]]) -> str:
    """Why a conversation's calls are wrong, by the rules of the suite; empty where they are right.

    After every turn that has a ground truth both worlds must agree, and the results of the ground
    truth must be among those that the calls have given so far.
    """
    if len(turns) != len(entry.truth):
        return f"it ended in turn {len(turns)} of {len(entry.truth)}"
    ours, theirs = SimulatedAPIs(entry), SimulatedAPIs(entry)
    given: list[str] = []
    for number, (calls, truth) in enumerate(zip(turns, entry.truth, strict=True), 1):
        given += [ours.call(name, **arguments) for name, arguments in calls]
        wanted = [theirs.call_text(text) for text in truth]
        if not truth:
            continue
        if not calls:
            return f"nothing was called in turn {number}"
        differing = theirs.differences(ours)
        if differing:
            return f"after turn {number} {', '.join(differing)} differ"
        absent = missing(wanted, given)
        if absent:
            return f"turn {number} lacks the result {absent[0][:200]}"
    return ""
