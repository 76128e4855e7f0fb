"""`perilune verify --kimi-strict` against our own server: all rules at once, real grammars."""

from __future__ import annotations

from pathlib import Path

import pytest

from perilune.engine.async_engine import AsyncEngine
from perilune.exam.contract.check import Status
from perilune.exam.contract.runner import run_checks, select
from perilune.exam.contract.target import Settings as Chosen
from perilune.exam.contract.target import Target
from perilune.serve.settings import Settings

from .servers import socket_server


@pytest.mark.parametrize("strict", [True, False])
def test_the_vendor_rules_hold_at_once(tiny_folder: Path, strict: bool) -> None:
    """Random weights say noise, but the grammars hold; without the flag wrong values pass."""

    def make() -> AsyncEngine:
        return AsyncEngine(tiny_folder, cache_tokens=65_536, max_sequences=8, seed=1)

    with socket_server(make, Settings(kimi_strict=strict)) as url:
        target = Target.connect(
            url, settings=Chosen(kimi_strict=True, max_tokens=8, call_tokens=64)
        )
        results = run_checks(target, select(only=["kimi-strict.*"]), parallel=2)
    bad = {r.check.id: r.message for r in results if r.status is not Status.PASSED}
    if strict:
        assert not bad
    else:
        assert "kimi-strict.temperature-not-0.5-thinking" in bad
        assert "kimi-strict.tool_choice-named-thinking" in bad
        assert "kimi-strict.thinking-effort-unknown" in bad
        assert not any(r.check.rule.startswith("Accepted") for r in results if r.check.id in bad)
