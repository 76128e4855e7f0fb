"""Sub-agents on the embedded engine: one shared prefix, one batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from perilune.agent.agent import Agent
from perilune.agent.budgets import Budget
from perilune.agent.models.chat_model import Sampling
from perilune.agent.models.engine import EngineModel
from perilune.agent.models.scripted import Reply, ScriptedModel
from perilune.events import AssistantMessage
from perilune.swarm.limits import SwarmLimits
from perilune.swarm.sub_agent import sub_agent_prompt
from perilune.swarm.swarm import Swarm
from tests.agent import simple_tools as tools
from tests.engine.models import write_tiny
from tests.swarm.conftest import events_of, split

AGENTS = 4


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


async def test_sub_agents_share_the_prefix_and_run_as_one_batch(tmp_path: Path, workspace, home):
    """A random checkpoint babbles; what counts is where its prompts' tokens came from."""
    folder = write_tiny(tmp_path / "tiny")
    small = EngineModel.from_pretrained(
        folder, exact=True, cache_tokens=16_384, max_sequences=AGENTS, max_context=4096
    )
    at_once = most = 0
    inner = small.complete

    async def complete(messages, declared, sampling):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            async for delta in inner(messages, declared, sampling):
                yield delta
        finally:
            at_once -= 1

    small.complete = complete  # type: ignore[method-assign]
    worker = Agent(
        small,
        [tools.look_up, tools.read_log],
        system_prompt=sub_agent_prompt(),
        workspace=workspace,
        home=home,
        sampling=Sampling(max_tokens=8, temperature=0.0),
        budget=Budget(steps=1),
        verifiers=(),
    )

    def main(messages, declared):
        turn = sum(each["role"] == "assistant" for each in messages)
        if turn == 0:
            return split("First of all, warm up.")
        if turn == 1:
            return split(*(f"Do part {i}." for i in range(AGENTS)), create=False)
        return Reply("end")

    agent = Agent(ScriptedModel(main), workspace=workspace, home=home, snapshot=False,
                  verifiers=())  # fmt: skip
    swarm = Swarm(agent, worker=worker, workspaces="empty", limits=SwarmLimits())
    try:
        result = await swarm.arun("t")
    finally:
        await small.close()
    usage = [
        events_of(home, result.run, AssistantMessage, f"worker-{number}")[0].usage
        for number in range(1, AGENTS + 2)
    ]
    first, later = usage[0], usage[1:]
    assert first.cached_tokens == 0
    for each in later:
        # All but the last words of the prompt: declarations, the shared prompt, the agent's own.
        assert each.cached_tokens > 0.85 * each.prompt_tokens
    assert result.usage.cached_tokens == sum(each.cached_tokens for each in usage)
    assert most == AGENTS, "the engine had all sub-agents in flight together"
