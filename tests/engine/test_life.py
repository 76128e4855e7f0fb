"""Why an engine died is said and counted once, whatever killed it and however soon it is back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from perilune.engine import async_engine, core_client, life, watchdog
from perilune.engine.async_engine import AsyncEngine, EngineState
from perilune.engine.core_client import EngineDiedLoading, ProcessCoreClient
from perilune.engine.core_messages import Died, Loading
from perilune.engine.life import LifeEvent, MemoryKills, describe_error, describe_exit
from perilune.engine.load_reports import LoadReports
from perilune.engine.sampling_params import SamplingParams
from perilune.engine.wire import event_frame, read_event, unpack
from perilune.errors import EngineDeadError, OutOfMemoryError
from perilune.weights.progress import ByteCounter, Progress

LONG = SamplingParams(max_tokens=2000, temperature=1.0, seed=1, ignore_eos=True)
SHORT = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
OPTIONS: dict[str, Any] = {"exact": True, "cache_tokens": 16_384, "max_sequences": 8}


def test_a_status_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryKills, "now", classmethod(lambda cls: MemoryKills(3, 9)))
    for status, options, reason, words in (
        (-9, {}, "SIGKILL", "SIGKILL (exit status -9)"),
        (-9, {"before": MemoryKills(3, 9)}, "SIGKILL", "by somebody"),
        (-9, {"before": MemoryKills(2, 8)}, "out_of_memory", "from 2 to 3"),
        (-9, {"before": MemoryKills(None, 8)}, "out_of_memory", "most likely out of memory"),
        (-9, {"before": MemoryKills(2, 8), "hung_seconds": 30.0}, "hung", "30 s"),
        (-11, {"before": MemoryKills(2, 8)}, "SIGSEGV", "SIGSEGV"),
        (-6, {}, "SIGABRT", "SIGABRT"),
        (-60, {}, "signal", "signal 60"),
        (0, {}, "exit", "exit status 0"),
        (3, {}, "exit", "exit status 3"),
    ):
        ended = describe_exit(status, **options)
        assert ended.reason == reason and words in ended.text, ended


def test_errors_in_words() -> None:
    no_memory = RuntimeError("[enforce fail] not enough memory: you tried to allocate 9 bytes")
    for error in (MemoryError(), OutOfMemoryError("it does not fit"), no_memory):
        assert describe_error(error).reason == "out_of_memory"
    assert describe_error(ArithmeticError("odd")) == life.Ended("error", "ArithmeticError: odd")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's counts are Linux's")
def test_the_kernel_says_how_many_it_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MemoryKills.now().machine is not None
    events = tmp_path / "memory.events"
    events.write_text("low 0\nhigh 4\noom 2\noom_kill 7\noom_group_kill 0\n")
    assert life._counted(events, "oom_kill") == 7
    assert life._counted(events, "absent") is None
    assert life._counted(tmp_path / "absent", "oom_kill") is None


def test_progress_goes_over_the_pipe_and_is_not_too_much() -> None:
    told: list[Loading] = []
    reports = LoadReports(told.append)
    for step in range(1001):
        reports(Progress(step, 1000, step / 1000))  # in a second
    assert len(told) == 5 and [t.phase for t in told] == ["weights"] * 4 + ["preparing"]
    assert told[-1] == Loading("preparing", 1000, 1000, 1.0) and told[-1].seconds_left == 0
    for event in (told[1], Died("why", "hung")):
        assert read_event(*unpack(event_frame(event)[4:])) == event


def test_counting_costs_next_to_nothing() -> None:
    """A load of 600 GB comes in 150,000 blocks; all their reports must not take seconds."""
    counter = ByteCounter(600 * 10**9, LoadReports(lambda loading: None))
    begin = time.process_time()
    for _ in range(150_000):
        counter.add(4_000_000)
    assert time.process_time() - begin < 3.0


def kill(process_id: int | None, number: int = signal.SIGKILL) -> None:
    assert process_id is not None
    os.kill(process_id, number)


async def back(engine: AsyncEngine, events: list[LifeEvent], count: int) -> None:
    async with asyncio.timeout(120):
        while sum(event.kind == "back" for event in events) < count:
            await asyncio.sleep(0.01)


@pytest.mark.asyncio
async def test_each_death_is_told_once_with_its_cause(
    bf16_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed, aborted, hung, and its standby: also when the next is there before anybody looks."""
    monkeypatch.setattr(watchdog, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(watchdog, "HUNG_SECONDS", 0.5)
    monkeypatch.setattr(core_client, "STANDBY_PAUSE", 0.05)
    events: list[LifeEvent] = []
    engine = AsyncEngine(bf16_folder, isolation="process", max_restarts=9, **OPTIONS)
    engine.on_life = events.append
    loads: list[Loading] = []
    monkeypatch.setattr(AsyncEngine, "loading", _Watched(loads), raising=False)
    async with engine:
        assert loads and loads[-1].done == loads[-1].total > 0
        assert not events and engine.loading is None
        core = engine._core
        assert isinstance(core, ProcessCoreClient)
        kill(core.process_id, signal.SIGABRT)
        await back(engine, events, 1)
        stream = engine.generate("The Moon", LONG, request_id="mine")
        await anext(stream)
        kill(core.process_id, signal.SIGSTOP)  # it has work and does nothing
        with pytest.raises(EngineDeadError, match="it hung"):
            await anext(stream)
            while True:
                await anext(stream)
        await back(engine, events, 2)
        assert core._standby is not None
        first = core._standby.pid
        kill(first)
        async with asyncio.timeout(60):
            while core._standby is None or core._standby.pid == first:
                await asyncio.sleep(0.01)
        assert [output async for output in engine.generate("The Moon", SHORT)]
    told = [(event.kind, event.reason) for event in events]
    assert told == [
        ("died", "SIGABRT"), ("back", ""), ("died", "hung"), ("back", ""),
        ("standby_died", "SIGKILL"),
    ]  # fmt: skip
    assert [event.requests for event in events if event.kind == "died"] == [0, 1]


class _Watched:
    """`loading` as a descriptor that remembers what it was."""

    def __init__(self, seen: list[Loading]) -> None:
        self.seen, self.value = seen, None

    def __get__(self, engine: Any, kind: Any) -> Any:
        return self.value

    def __set__(self, engine: Any, value: Any) -> None:
        self.value = value
        if value is not None:
            self.seen.append(value)


@pytest.mark.asyncio
async def test_a_process_killed_in_its_first_load_says_so(bf16_folder: Path) -> None:
    engine = AsyncEngine(bf16_folder, isolation="process", **OPTIONS)
    starting = asyncio.create_task(engine.start())
    core = engine._core
    assert isinstance(core, ProcessCoreClient)
    while core.process_id is None:
        await asyncio.sleep(0.01)
    kill(core.process_id, signal.SIGSEGV)
    with pytest.raises(EngineDiedLoading, match=r"while loading.*SIGSEGV") as error:
        await starting
    assert error.value.why.reason == "SIGSEGV" and error.value.remedy
    await engine.close()


class FlakyCore:
    """A core whose restarts fail as they are told to."""

    def __init__(self, failures: list[Exception]) -> None:
        self.failures, self.restarts = failures, 0

    async def start(self, on_event: Any) -> None: ...

    async def restart(self, on_event: Any) -> None:
        self.restarts += 1
        on_event(Loading("weights", 1, 2, 0.1))
        if self.failures:
            raise self.failures.pop(0)

    def send(self, command: Any) -> None: ...

    async def stop(self) -> None: ...


@pytest.mark.asyncio
@pytest.mark.parametrize("failures", [0, 1, 2, 3, 5])
async def test_a_start_that_fails_is_counted_and_tried_again_within_the_limit(
    bf16_folder: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    monkeypatch.setattr(async_engine, "RESTART_PAUSE", 0.001)
    events: list[LifeEvent] = []
    engine = AsyncEngine(bf16_folder, max_restarts=3)
    engine.on_life = events.append
    why = describe_exit(-9)
    core = engine._core = FlakyCore([EngineDiedLoading(why) for _ in range(failures)])
    await engine.start()
    engine._on_event(Died("a kernel went wrong", "error"))
    assert engine.state is EngineState.LOADING
    while engine.state is EngineState.LOADING:
        await asyncio.sleep(0.01)
    assert engine.loading is None
    kinds = [event.kind for event in events]
    if failures < 3:
        assert kinds == ["died", *["load_failed"] * failures, "back"]
        assert engine.state is EngineState.READY
    else:
        assert kinds == ["died", *["load_failed"] * 3, "gave_up"]
        assert engine.state is EngineState.DEAD and core.restarts == 3
        with pytest.raises(EngineDeadError, match="died 4 times within a minute"):
            await engine.start()
    assert {event.reason for event in events if event.kind == "load_failed"} <= {"SIGKILL"}
    await engine.close()


@pytest.mark.asyncio
async def test_messages_that_cannot_be_read_are_a_death(bf16_folder: Path) -> None:
    """A library that writes into the pipe must not leave an engine that nobody hears."""
    events: list[LifeEvent] = []
    engine = AsyncEngine(bf16_folder, isolation="process", **OPTIONS)
    engine.on_life = events.append
    async with engine:
        core = engine._core
        assert isinstance(core, ProcessCoreClient) and core._process is not None
        assert core._process.stdout is not None
        core._process.stdout.feed_data(b"\x00\x00\x00\x05hello")
        await back(engine, events, 1)
        assert [output async for output in engine.generate("The Moon", SHORT)]
    assert [event.kind for event in events] == ["died", "back"]
    assert "could not be read" in events[0].text


async def kills_at_random(folder: Path, seed: int, times: int) -> None:
    """Kill the engine or its standby at random moments, while it loads or serves."""
    draw = random.Random(seed)
    events: list[LifeEvent] = []
    engine = AsyncEngine(folder, isolation="process", max_restarts=10 * times, **OPTIONS)
    engine.on_life = events.append
    killed: set[int] = set()
    async with engine:
        core = engine._core
        assert isinstance(core, ProcessCoreClient)
        while len(killed) < times:
            await asyncio.sleep(draw.choice([0.0, 0.02, 0.2, 1.0, 3.0]))
            of_engine = draw.random() < 0.75
            process = core._process if of_engine else core._standby
            if process is not None and process.returncode is None and process.pid not in killed:
                killed.add(process.pid)
                kill(process.pid, draw.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM]))
            if draw.random() < 0.3:
                with contextlib.suppress(EngineDeadError):
                    [output async for output in engine.generate("The Moon", SHORT)]
        async with asyncio.timeout(120):
            while sum(e.kind in ("died", "load_failed", "standby_died") for e in events) < times:
                await asyncio.sleep(0.02)
            while engine.state is not EngineState.READY:
                await asyncio.sleep(0.02)
        assert [output async for output in engine.generate("The Moon", SHORT)]
        await asyncio.sleep(0.3)  # nothing more comes
    deaths = [e for e in events if e.kind in ("died", "load_failed", "standby_died")]
    assert len(deaths) == times, (seed, events)
    assert {e.reason for e in deaths} <= {"SIGKILL", "SIGSEGV", "SIGTERM"}
    assert sum(e.kind == "back" for e in events) == sum(e.kind == "died" for e in events)


@pytest.mark.asyncio
async def test_deaths_at_random_moments_are_counted_once_each(bf16_folder: Path) -> None:
    await kills_at_random(bf16_folder, seed=1, times=3)


@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.parametrize("seed", range(2))
async def test_many_deaths_at_random_moments_are_counted_once_each(
    bf16_folder: Path, seed: int
) -> None:
    await kills_at_random(bf16_folder, seed=seed, times=10)
