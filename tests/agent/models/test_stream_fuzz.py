"""No reply of any server raises anything but our own errors, or gives out half a character.

Recorded streams are mutated and go through the real client code, without sockets. The seeds are
fixed, so a failure comes again; another set of seeds is `PERILUNE_FUZZ_SEED`'s.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import time

import pytest

from perilune.agent.agent import Agent
from perilune.agent.models.chat_model import ModelError, Sampling
from perilune.agent.models.endpoint import EndpointModel
from perilune.agent.models.retry import RetryPolicy
from perilune.agent.tool import tool
from perilune.chat.deltas import Finished, ToolCallStart
from perilune.events import encode_event
from tests.agent.models.mutation import RECORDED, mutated, pieces_of
from tests.agent.models.replay import TIME, USER, WEATHER, Replay, read

SEED = int(os.environ.get("PERILUNE_FUZZ_SEED", "16"))
KINDS = {"rate_limit", "overloaded", "quota", "connection", "cut", "garbled", "auth", "context",
         "max_tokens", "request"}  # fmt: skip
ENDINGS = {"done", "unverified", "model", "context", "repeat", "budget:steps", "budget:seconds"}
CALLS = {"get_weather", "get_time"}


@pytest.mark.parametrize("name", sorted(RECORDED))
async def test_the_recorded_streams_are_read_whole(name: str) -> None:
    content, reasoning, calls, reason = await read(RECORDED[name])
    assert reason == ("tool_calls" if calls else "stop")
    assert {call[1] for call in calls} <= CALLS
    assert bool(calls) == (
        "tools" in name or name in ("ollama", "spelled_section", "spelled_in_reasoning")
    )
    assert content or calls
    assert "<" not in content + reasoning


async def feed(count: int, seed: int) -> tuple[int, float]:
    """Mutated streams through one model: how many were taken, and the longest took how long."""
    rng = random.Random(seed)
    transport = Replay(b"")
    model = EndpointModel("http://test", "m", transport=transport, context_window=100_000)
    taken, slowest = 0, 0.0
    for number in range(count):
        name, data = mutated(rng)
        transport.replies = (pieces_of(data, rng),)
        transport.bodies.clear()
        # Replayed bytes never wait, and only a loop that turns lets cancelled timers go.
        await asyncio.sleep(0)
        began = time.thread_time()
        finished = None
        try:
            async for delta in model.complete(USER, [WEATHER, TIME], Sampling()):
                assert finished is None, (seed, number, name)
                repr(delta).encode("ascii", "backslashreplace")
                match delta:
                    case Finished():
                        finished = delta
                    case ToolCallStart():
                        (delta.id + delta.name).encode()
                    case _:
                        getattr(delta, "text", "").encode()
        except ModelError as error:
            assert error.kind in KINDS, (seed, number, name)
            str(error).encode()
        except Exception as error:
            raise AssertionError(f"seed {seed}, stream {number} ({name}): {data!r}") from error
        else:
            assert finished is not None, (seed, number, name)
            assert finished.reason in ("stop", "tool_calls", "length", "content_filter")
            taken += 1
        slowest = max(slowest, time.thread_time() - began)
    await model.close()
    return taken, slowest


async def test_1500_mutated_streams() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken, slowest = await feed(1500, SEED)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert taken > 300, "most mutations leave something to take; else this tests nothing"
    assert slowest < 5.0
    assert grown < 200 << 10, "kilobytes of memory that the process never held before"


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_100_000_mutated_streams() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for part in range(50):
        taken, slowest = await feed(2000, SEED * 1000 + part)
        assert taken > 400
        assert slowest < 5.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10


@tool(side_effects=False)
def get_weather(city: str = "") -> str:
    """The weather."""
    return f"rain in {city}"


@tool(side_effects=False)
def get_time(zone: str = "") -> str:
    """The time."""
    return "noon"


@pytest.mark.parametrize("seed", range(4))
def test_whole_runs_over_mutated_streams_end_by_name(seed, tmp_path) -> None:
    """Through the loop with its journal: tools run, broken replies are asked again, a run ends."""
    rng = random.Random(SEED * 100 + seed)
    for number in range(15):
        replies = [pieces_of(mutated(rng)[1], rng) for _ in range(6)]
        good = RECORDED["vllm"]
        model = EndpointModel("http://test", "m", transport=Replay(*replies, good))
        agent = Agent(
            model,
            [get_weather, get_time],
            workspace=tmp_path,
            home=tmp_path / "home",
            retry=RetryPolicy(base=0.0, attempts=4),
            snapshot=False,
            verifiers=(),
            on_record=lambda record: encode_event(record.event) and None,
        )
        result = agent.run("What is the weather?")
        assert result.reason in ENDINGS, (seed, number, result.detail)
        (result.answer + result.detail).encode()
        assert "<|tool_call" not in result.answer or "`" in result.answer, result.answer
