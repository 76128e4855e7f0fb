"""Streams, cancellation, shutdown, and a supervised life, in a thread and in a process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from perilune.chat.deltas import (
    ContentDelta,
    FinishReason,
    ReasoningDelta,
    ToolCallEnd,
    ToolCallStart,
)
from perilune.engine import watchdog
from perilune.engine.async_engine import AsyncEngine, EngineState
from perilune.engine.core_client import ProcessCoreClient, ThreadCoreClient
from perilune.engine.core_messages import Add
from perilune.engine.llm import LLM
from perilune.engine.outputs import SequenceOutput
from perilune.engine.request import OutputFormat
from perilune.engine.sampling_params import Grammar, SamplingParams
from perilune.errors import EngineDeadError, EngineError, RequestError
from perilune.runner.batch import ForwardBatch

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG = SamplingParams(max_tokens=2000, temperature=1.0, seed=1, ignore_eos=True)
SHORT = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
OPTIONS: dict[str, Any] = {"exact": True, "cache_tokens": 16_384, "max_sequences": 8}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Oslo", "Rome"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
]


async def collect(stream: Any) -> list[SequenceOutput]:
    return [output async for output in stream]


def tokens(outputs: list[SequenceOutput]) -> list[int]:
    return [token for output in outputs for token in output.tokens]


@pytest_asyncio.fixture(params=["thread", "process"], scope="module", loop_scope="module")
async def engine(request: pytest.FixtureRequest, bf16_folder: Path) -> Any:
    """Shared by the tests that leave it running: starting a process takes seconds."""
    async with AsyncEngine(bf16_folder, isolation=request.param, **OPTIONS) as engine:
        yield engine


@pytest_asyncio.fixture(loop_scope="module")
async def own_engine(bf16_folder: Path) -> Any:
    async with AsyncEngine(bf16_folder, **OPTIONS) as engine:
        yield engine


async def test_many_streams_give_what_the_sync_engine_gives(engine: AsyncEngine, llm: LLM) -> None:
    prompts = ["The Moon is", "Hello, world", "def f(x):"]
    expected = [result.answers[0].token_ids for result in llm.generate(prompts, SHORT)]
    streams = await asyncio.gather(*(collect(engine.generate(p, SHORT)) for p in prompts))
    assert [tokens(outputs) for outputs in streams] == expected
    last = streams[0][-1]
    assert last.finish_reason is FinishReason.LENGTH and last.metrics is not None
    assert last.metrics.output_tokens == 12
    assert engine.status is not None and engine.status.pages_held == 0


async def test_a_chat_with_a_forced_tool_call(engine: AsyncEngine) -> None:
    params = SamplingParams(max_tokens=300, seed=4, thinking_budget=3)
    outputs = await collect(
        engine.chat([{"role": "user", "content": "hi"}], params, tools=TOOLS,
                    tool_choice="required", parallel_tool_calls=False)
    )  # fmt: skip
    deltas = [delta for output in outputs for delta in output.deltas]
    assert [d.name for d in deltas if isinstance(d, ToolCallStart)] == ["get_weather"]
    assert any(isinstance(d, ToolCallEnd) for d in deltas)
    assert outputs[-1].finish_reason is FinishReason.TOOL_CALLS


async def test_leaving_a_stream_cancels_the_request(engine: AsyncEngine) -> None:
    async with aclosing(engine.generate("The Moon", LONG)) as stream:
        async for _ in stream:
            break
    await collect(engine.generate("x", SHORT))
    assert engine.status is not None
    assert engine.status.running == 0 and engine.status.pages_held == 0


async def test_cancel_by_id_ends_the_stream(engine: AsyncEngine) -> None:
    outputs = []
    async for output in engine.generate("The Moon", LONG, request_id="mine"):
        outputs.append(output)
        engine.cancel("mine")
    assert outputs[-1].finish_reason is FinishReason.CANCELLED
    assert len(tokens(outputs)) < 2000


async def test_a_refused_request_leaves_the_others_alone(engine: AsyncEngine) -> None:
    good = asyncio.create_task(collect(engine.generate("The Moon", SHORT)))
    with pytest.raises(RequestError) as refused:
        await collect(engine.generate("x", SamplingParams(grammar=Grammar.regex("((("))))
    assert refused.value.param == "grammar"
    assert len(tokens(await good)) == 12


async def test_shutdown_drains_and_then_refuses(own_engine: AsyncEngine) -> None:
    under_way = asyncio.create_task(collect(own_engine.generate("The Moon", SHORT)))
    await asyncio.sleep(0)
    await own_engine.close(drain_seconds=60)
    assert len(tokens(await under_way)) == 12
    with pytest.raises(EngineError, match="shutting down"):
        await collect(own_engine.generate("x", SHORT))


async def test_shutdown_without_draining_fails_what_is_under_way(own_engine: AsyncEngine) -> None:
    stream = own_engine.generate("The Moon", LONG, request_id="mine")
    await anext(stream)
    await own_engine.close()
    with pytest.raises(EngineDeadError, match="mine"):
        await collect(stream)


async def test_a_killed_process_fails_its_requests_by_name_and_comes_back(
    bf16_folder: Path,
) -> None:
    async with AsyncEngine(bf16_folder, isolation="process", **OPTIONS) as engine:
        stream = engine.generate("The Moon", LONG, request_id="mine")
        await anext(stream)
        assert isinstance(engine._core, ProcessCoreClient) and engine._core.process_id is not None
        os.kill(engine._core.process_id, signal.SIGKILL)
        with pytest.raises(EngineDeadError, match=r"mine.*-9"):
            await collect(stream)
        assert len(tokens(await collect(engine.generate("The Moon", SHORT)))) == 12


@pytest.fixture
def quick_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(watchdog, "HUNG_SECONDS", 0.5)


@pytest.mark.usefixtures("quick_watchdog")
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
async def test_a_process_that_hangs_is_killed_and_comes_back(bf16_folder: Path) -> None:
    async with AsyncEngine(bf16_folder, isolation="process", **OPTIONS) as engine:
        assert isinstance(engine._core, ProcessCoreClient) and engine._core.process_id is not None
        stopped = engine._core.process_id
        os.kill(stopped, signal.SIGSTOP)
        await asyncio.sleep(1.5)  # it has no work, so its silence means nothing
        assert psutil.Process(stopped).status() == psutil.STATUS_STOPPED
        with pytest.raises(EngineDeadError, match=r"mine.*-9"):
            await collect(engine.generate("The Moon", LONG, request_id="mine"))
        assert len(tokens(await collect(engine.generate("The Moon", SHORT)))) == 12


@pytest.mark.usefixtures("quick_watchdog")
async def test_an_answer_that_nobody_reads_is_no_hang(bf16_folder: Path) -> None:
    async with AsyncEngine(bf16_folder, isolation="process", **OPTIONS) as engine:
        stream = engine.generate("The Moon", SHORT)
        first = await anext(stream)
        await asyncio.sleep(2)
        assert len(tokens([first, *await collect(stream)])) == 12


async def test_a_standby_takes_over_and_is_not_needed(bf16_folder: Path) -> None:
    async with AsyncEngine(bf16_folder, isolation="process", **OPTIONS) as engine:
        core = engine._core
        assert isinstance(core, ProcessCoreClient) and core._standby is not None
        assert len(tokens(await collect(engine.generate("The Moon", SHORT)))) == 12
        first = _bandwidth(engine)
        standby = core._standby.pid
        _kill(core.process_id)
        await _back(engine)
        assert core.process_id == standby
        assert len(tokens(await collect(engine.generate("The Moon", SHORT)))) == 12
        assert _bandwidth(engine) == first  # measured by the first alone
        _kill(core._standby.pid)
        _kill(core.process_id)
        await _back(engine)
        assert len(tokens(await collect(engine.generate("The Moon", SHORT)))) == 12
        left = [core.process_id, core._standby.pid]
    assert not any(psutil.pid_exists(pid) for pid in left if pid is not None)


def _kill(process_id: int | None) -> None:
    assert process_id is not None
    os.kill(process_id, signal.SIGKILL)


async def _back(engine: AsyncEngine) -> None:
    """Wait until the engine has noticed its death, and lives again."""
    while engine.state is EngineState.READY:
        await asyncio.sleep(0.01)
    await engine.start()


def _bandwidth(engine: AsyncEngine) -> float:
    assert engine.status is not None and engine.status.latest_step is not None
    assert engine.status.latest_step.bandwidth is not None
    return engine.status.latest_step.bandwidth


async def test_a_crash_in_a_thread_fails_its_requests_by_name_and_comes_back(
    bf16_folder: Path,
) -> None:
    async with AsyncEngine(bf16_folder, max_restarts=1, **OPTIONS) as engine:
        assert isinstance(engine._core, ThreadCoreClient) and engine._core._engine is not None
        runner = engine._core._engine.runner
        execute = runner.execute

        def crash(step: ForwardBatch, cache: object) -> None:
            raise ArithmeticError("a kernel went wrong")

        expected = tokens(await collect(engine.generate("The Moon", SHORT)))
        runner.execute = crash  # type: ignore[method-assign]
        streams = [
            asyncio.create_task(collect(engine.generate("The Moon", LONG, request_id=name)))
            for name in ("first", "second")
        ]
        for name, stream in zip(("first", "second"), streams, strict=True):
            with pytest.raises(EngineDeadError, match=f"{name}.*a kernel went wrong"):
                await stream
        await engine.start()
        runner.execute = execute  # type: ignore[method-assign]
        assert tokens(await collect(engine.generate("The Moon", SHORT))) == expected
        runner.execute = crash  # type: ignore[method-assign]
        with pytest.raises(EngineDeadError):
            await collect(engine.generate("The Moon", SHORT))
        with pytest.raises(EngineDeadError, match="died 2 times"):
            await collect(engine.generate("The Moon", SHORT))


async def test_a_folder_that_cannot_be_loaded_says_why(tmp_path: Path, bf16_folder: Path) -> None:
    for file in bf16_folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    for isolation in ("thread", "process"):
        engine = AsyncEngine(tmp_path, isolation=isolation)  # type: ignore[arg-type]
        with pytest.raises(Exception, match="safetensors"):
            await engine.start()
        await engine.close()


async def test_a_request_is_taken_or_refused_before_its_first_output(engine: AsyncEngine) -> None:
    stream = await engine.submit(Add("taken", [1, 2, 3], SHORT))
    assert len(tokens(await collect(stream))) == 12
    with pytest.raises(RequestError, match="outside"):
        await engine.submit(Add("refused", [-1], SHORT))


async def test_thinking_ends_when_it_is_told_to(engine: AsyncEngine) -> None:
    params = SamplingParams(max_tokens=400, seed=3, logit_bias=_no_ends(engine))
    deltas: list[Any] = []
    async for output in engine.chat([{"role": "user", "content": "hi"}], params, request_id="me"):
        deltas += output.deltas
        if len(deltas) > 20:
            assert engine.end_thinking("me") or output.finish_reason
    reasoning = [d for d in deltas if isinstance(d, ReasoningDelta)]
    assert 20 < len(reasoning) < 300
    assert any(isinstance(d, ContentDelta) for d in deltas)
    assert not engine.end_thinking("me")


def _no_ends(engine: AsyncEngine) -> dict[int, float]:
    """Nothing but being told ends the thinking."""
    assert engine.chat_format is not None
    ids = engine.chat_format.special_ids
    ends = [ids.end_think, ids.tool_calls_section_begin, ids.tool_call_begin]
    return {token: -100.0 for token in [*ends, *engine.chat_format.stop_ids] if token is not None}


async def test_a_large_grammar_holds_nobody_up(engine: AsyncEngine) -> None:
    """It is compiled beside; the request can be left while that goes on."""
    properties = {f"p{n}": {"type": "string"} for n in range(1500)}
    large = Grammar.json_schema({"type": "object", "properties": properties})
    waiting = asyncio.create_task(
        engine.submit(Add("large", [1], SamplingParams(grammar=large), output=OutputFormat.TEXT))
    )
    await asyncio.sleep(0)
    assert len(tokens(await collect(engine.generate("The Moon", SHORT)))) == 12
    assert not waiting.done()
    engine.cancel("large")
    with pytest.raises(RequestError, match="cancelled"):
        await waiting
