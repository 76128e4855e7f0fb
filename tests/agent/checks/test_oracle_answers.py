"""Right answers over generated worlds, of their oracle: none is refused by the check of facts.

The oracle's answers are passed by the tasks' verifiers; what is refused of them is a false alarm.
"""

from __future__ import annotations

import pytest

from perilune.agent.checks.facts import Facts
from perilune.sandbox import Sandbox
from perilune.train.episodes import Rejected, record_episodes
from perilune.world import FAMILIES, Seed, Split
from tests.agent.tools.conftest import opened_sandbox  # noqa: F401  (a fixture)

RESEARCH = [each for each in FAMILIES if each not in ("code_repair", "writing")]


async def _none_is_refused(family: str, numbers: range, sandbox: Sandbox, patch) -> None:
    refused: dict[tuple[str, str], list[str]] = {}
    looked_at = 0
    examine = Facts.examine

    async def noting(self, proposal):
        nonlocal looked_at
        made = await examine(self, proposal)
        looked_at += 1
        if made is not None and made.problems:
            refused[list(proposal.said())[-1], proposal.text] = made.problems
        return made

    patch.setattr(Facts, "examine", noting)
    wanted = [(Seed(split, n), family) for split in (Split.TRAIN, Split.EXAM) for n in numbers]
    played = [each async for each in record_episodes(wanted, sandbox=sandbox)]
    assert refused == {}
    assert [each for each in played if isinstance(each, Rejected)] == []
    assert looked_at == len(wanted)


@pytest.mark.parametrize("family", RESEARCH)
async def test_right_answers_of_the_oracle_pass(family, opened_sandbox, monkeypatch):  # noqa: F811
    await _none_is_refused(family, range(8), opened_sandbox, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("family", RESEARCH)
async def test_right_answers_of_many_worlds_pass(family, opened_sandbox, monkeypatch):  # noqa: F811
    await _none_is_refused(family, range(1000, 1200), opened_sandbox, monkeypatch)
