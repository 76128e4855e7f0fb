"""Luck that can be repeated, and the last words of a test run: what was skipped, and why.

Hypothesis: the usual suite is the same every time in CI (`CI=true`), so that it fails for what was
changed and not by luck; everywhere else, and in the long suite (`make test-all`), examples are
random, with a seed that is said at the end. `--hypothesis-seed` repeats a run, in CI too.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# No test may fail for a slow machine: neither an example's time nor that of drawing it counts.
UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}
settings.register_profile("always-the-same", derandomize=True, database=None, **UNTIMED)
settings.register_profile("random", derandomize=False, **UNTIMED)

MOST_REASONS = 30


@pytest.hookimpl(tryfirst=True)  # before hypothesis's own, which reads the options
def pytest_configure(config: pytest.Config) -> None:
    option: Any = config.option
    if hasattr(config, "workerinput") and option.hypothesis_seed is not None:
        settings.load_profile("random")  # the seed is the one that the main process chose
        return
    usual = "not slow" in (option.markexpr or "")
    in_ci = os.environ.get("CI", "").lower() in ("1", "true", "yes")
    if usual and in_ci and option.hypothesis_seed is None:
        settings.load_profile("always-the-same")
        return
    settings.load_profile("random")
    if option.hypothesis_seed is None:
        option.hypothesis_seed = str(random.SystemRandom().randrange(2**32))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Skips by reason, a line each, and the seed; pytest's own closing line comes after."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", ()):
        where = report.longrepr
        reason = where[2] if isinstance(where, tuple) else str(where)
        reasons[" ".join(reason.removeprefix("Skipped: ").split()) or "no reason given"] += 1
    seed = terminalreporter.config.option.hypothesis_seed
    told = "the same examples every time" if seed is None else f"--hypothesis-seed={seed}"
    terminalreporter.write_line(f"hypothesis: {told}")
    if not reasons:
        return
    terminalreporter.write_line(f"{reasons.total()} skipped:")
    for reason, count in reasons.most_common(MOST_REASONS):
        terminalreporter.write_line(f"  {count} x {reason[:200]}")
    if (more := len(reasons) - MOST_REASONS) > 0:
        terminalreporter.write_line(f"  and {more} more reasons")
