"""Many tasks of every family; `benchmarks/oracle_episodes.py` plays 2,000 of each."""

from __future__ import annotations

import pytest

from perilune.sandbox import Sandbox
from perilune.train.episodes import Rejected, record_all
from perilune.world import FAMILIES, Seed, Split


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("family", FAMILIES)
def test_all_are_verified(family: str, testing_sandbox: Sandbox) -> None:
    count = 40 if family == "code_repair" else 300
    wanted = [(Seed(Split.TRAIN, number), family) for number in range(count)]
    wanted += [(Seed(Split.EXAM, number), family) for number in range(count // 10)]
    played = list(record_all(wanted))
    assert len(played) == len(wanted)
    assert [each for each in played if isinstance(each, Rejected)] == []
