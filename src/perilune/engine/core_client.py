"""Clients of an engine core: it runs in a thread of this process, or in a process of its own.

A process costs a copy of the messages and survives anything, also a crash of the C library; a
thread shares the model with the caller. Both speak the commands and events of
`core_messages.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

from perilune.chat.format import ChatFormat
from perilune.engine import watchdog
from perilune.engine.core_loop import CoreQueue, run_core_loop
from perilune.engine.core_messages import Command, Died, Event, Stop
from perilune.engine.engine import Engine
from perilune.engine.life import (
    OUT_OF_MEMORY,
    Ended,
    LifeEvent,
    MemoryKills,
    describe_error,
    describe_exit,
)
from perilune.engine.load import load_engine
from perilune.engine.load_reports import LoadReports
from perilune.engine.options import EngineOptions
from perilune.engine.wire import LENGTH, command_frame, load_frame, read_event, unpack
from perilune.errors import EngineDeadError, EngineError
from perilune.model.model import KimiK2Model
from perilune.processes import FIXED_FOLDER, clean_environment, python_module

OnEvent = Callable[[Event], None]
OnLife = Callable[[LifeEvent], None]
STOP_SECONDS = 10.0  # for a process to end by itself
# A standby that dies at once, again and again, must not keep a processor busy with imports.
STANDBY_PAUSE, STANDBY_MOST_PAUSE = 1.0, 60.0


class CoreClient(Protocol):
    """An engine core and how it is reached. Used from one event loop."""

    async def start(self, on_event: OnEvent) -> None:
        """Load and run; returns when requests are taken. Raises PeriluneError."""

    async def restart(self, on_event: OnEvent) -> None:
        """Run again after the engine died. Raises PeriluneError."""

    def send(self, command: Command) -> None: ...

    async def stop(self) -> None:
        """End the engine; safe to call in any state."""


class ThreadCoreClient:
    """The engine in a daemon thread. A restart keeps the weights and empties the cache."""

    def __init__(
        self,
        model: str | Path | KimiK2Model | Engine,
        options: EngineOptions,
        chat: ChatFormat | None,
    ) -> None:
        self._model: str | Path | KimiK2Model | Engine | None = model
        self._options = options
        self._chat = chat
        self._engine: Engine | None = None
        self._thread: Thread | None = None
        self._commands: CoreQueue = SimpleQueue()

    async def start(self, on_event: OnEvent) -> None:
        loop = asyncio.get_running_loop()

        def emit(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone, and so is who would listen
                loop.call_soon_threadsafe(on_event, event)

        if self._engine is None:
            assert self._model is not None
            if isinstance(self._model, Engine):
                self._engine = self._model
            else:
                self._engine = await asyncio.to_thread(
                    load_engine, self._model, self._options, chat=self._chat,
                    progress=LoadReports(emit),
                )  # fmt: skip
            self._model = None
        self._commands = SimpleQueue()
        self._thread = Thread(
            target=_run, args=(self._engine, self._commands, emit), name="perilune-engine",
            daemon=True,
        )  # fmt: skip
        self._thread.start()

    async def restart(self, on_event: OnEvent) -> None:
        await self.stop()
        if self._engine is not None:
            self._engine = self._engine.restarted()
        await self.start(on_event)

    def send(self, command: Command) -> None:
        self._commands.put(command)

    async def stop(self) -> None:
        if self._thread is not None:
            self._commands.put(Stop())
            await asyncio.to_thread(self._thread.join)
            self._thread = None


def _run(engine: Engine, commands: CoreQueue, emit: OnEvent) -> None:
    try:
        run_core_loop(engine, commands, emit)
    except Exception as error:
        why = describe_error(error)
        emit(Died(why.text, why.reason))


class ProcessCoreClient:
    """The engine in a process of its own; a restart loads the weights again.

    Beside it waits a second process that has done its imports, which take longer than loading a
    small model: it holds no weights, and takes over when the first dies. One that hangs is killed.
    """

    def __init__(
        self,
        model: str | Path,
        options: EngineOptions,
        busy: Callable[[], bool],
        on_life: OnLife = lambda event: None,
    ) -> None:
        self._model = str(Path(model).absolute())  # its process has another current folder
        self._options = options
        self._busy = busy
        self._on_life = on_life
        self._messages = 0
        self._process: asyncio.subprocess.Process | None = None
        self._standby: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None  # keeps a standby there
        self._reader: asyncio.Task[None] | None = None
        self._kills = MemoryKills()  # when the process began

    @property
    def process_id(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def start(self, on_event: OnEvent) -> None:
        self._process = await _begin()
        await self._load(await self._first_message(on_event), on_event)

    async def restart(self, on_event: OnEvent) -> None:
        await self._end_process()
        self._process = await self._take_standby() or await _begin()
        await self._load(await self._first_message(on_event), on_event)

    async def _first_message(self, on_event: OnEvent) -> tuple[str, Any] | None:
        """What the process says to being told to load, when it is done; None: it has ended."""
        self._kills = MemoryKills.now()
        self._write(load_frame(self._model, self._options))
        while True:
            message = await self._read()
            if message is None or message[0] != "loading":
                if message is None:
                    assert self._process is not None
                    await self._process.wait()
                return message
            on_event(read_event(*message))

    async def _load(self, message: tuple[str, Any] | None, on_event: OnEvent) -> None:
        assert self._process is not None
        if message is None:
            why = describe_exit(await self._process.wait(), before=self._kills)
            raise EngineDiedLoading(why)
        kind, body = message
        if kind == "failed":
            await self._process.wait()
            raise EngineError(body[0], remedy=body[1])
        self._options = replace(self._options, bandwidth=body)  # measured once
        self._reader = asyncio.create_task(self._read_events(self._process, on_event))
        with contextlib.suppress(EngineError):  # nobody needs it yet; the keeper tries again
            self._standby = await _begin()
        self._keeper = asyncio.create_task(self._keep_standby())

    # --- the process that waits ----------------------------------------------------------------

    async def _keep_standby(self) -> None:
        """Say when the standby dies, and start another, later each time that one dies young."""
        pause = STANDBY_PAUSE
        while True:
            began = time.monotonic()
            if self._standby is not None:
                await self._standby.wait()
                self._standby_died()
            if time.monotonic() - began > STANDBY_MOST_PAUSE:
                pause = STANDBY_PAUSE
            await asyncio.sleep(pause)
            pause = min(2 * pause, STANDBY_MOST_PAUSE)
            with contextlib.suppress(EngineError):
                self._standby = await _begin()

    def _standby_died(self) -> None:
        standby, self._standby = self._standby, None
        assert standby is not None and standby.returncode is not None
        why = describe_exit(standby.returncode)
        self._on_life(LifeEvent("standby_died", why.reason, why.text))

    async def _take_standby(self) -> asyncio.subprocess.Process | None:
        """The standby, which nobody keeps from now on; None where there is none that lives."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        if self._standby is not None and self._standby.returncode is not None:
            self._standby_died()
        standby, self._standby = self._standby, None
        return standby

    def send(self, command: Command) -> None:
        self._write(command_frame(command))

    async def stop(self) -> None:
        standby = await self._take_standby()
        if standby is not None:
            with contextlib.suppress(ProcessLookupError):
                standby.kill()
        await self._end_process()
        if standby is not None:
            await standby.wait()

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()  # the worker stops at the end of its commands
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader

    def _write(self, data: bytes) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):  # a dead process is reported by its reader
                self._process.stdin.write(data)

    async def _read(self) -> tuple[str, Any] | None:
        assert self._process is not None and self._process.stdout is not None
        stream = self._process.stdout
        try:
            head = await stream.readexactly(LENGTH.size)
            return unpack(await stream.readexactly(LENGTH.unpack(head)[0]))
        except asyncio.IncompleteReadError:
            return None

    async def _read_events(self, process: asyncio.subprocess.Process, on_event: OnEvent) -> None:
        watch = asyncio.create_task(
            watchdog.kill_when_hung(process.pid, lambda: self._messages, self._busy)
        )
        try:
            while self._process is process and (message := await self._read()) is not None:
                self._messages += 1
                event = read_event(*message)
                on_event(event)
                if isinstance(event, Died):
                    return
        except Exception as error:  # what is not a message of ours; it would never be seen to die
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            if self._process is process:
                why = describe_error(error)
                on_event(Died(f"its messages could not be read: {why.text}", why.reason))
            return
        finally:
            hung = watch.done() and not watch.cancelled()
            watch.cancel()
        if self._process is process:  # it was not told to stop
            why = describe_exit(
                await process.wait(),
                hung_seconds=watchdog.HUNG_SECONDS if hung else None,
                before=self._kills,
            )
            on_event(Died(why.text, why.reason))


class EngineDiedLoading(EngineDeadError):
    """The engine's process ended while it loaded. `why`: as far as can be known."""

    code = "engine_died_loading"

    def __init__(self, why: Ended) -> None:
        self.why = why
        short = "Give it more memory, or a smaller cache_tokens" if (
            why.reason == OUT_OF_MEMORY
        ) else "Look into the log above; `perilune doctor` checks the installation"  # fmt: skip
        super().__init__(f"the engine died while loading: {why.text}", remedy=short)


async def _begin() -> asyncio.subprocess.Process:
    """`_spawn`. Raises EngineError where the machine has no room for a process more."""
    try:
        return await _spawn()
    except OSError as error:
        raise EngineError(f"no process can be started for the engine: {error}") from None


async def _spawn() -> asyncio.subprocess.Process:
    """A worker that waits to be told what to load, out of reach of the terminal's Ctrl-C."""
    return await asyncio.create_subprocess_exec(
        *python_module("perilune.engine.core_process"), cwd=FIXED_FOLDER, env=clean_environment(),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, process_group=0,
    )  # fmt: skip


def make_core_client(
    model: str | Path | KimiK2Model | Engine,
    options: EngineOptions,
    chat: ChatFormat | None,
    isolation: str,
    busy: Callable[[], bool],
    on_life: OnLife = lambda event: None,
) -> CoreClient:
    """An engine that is made already keeps its own options.

    busy: whether requests are under way, when silence means that the engine hangs. on_life: told
    of what no request shows, such as the death of the process that waits.

    Raises EngineError when `isolation` is unknown or the model cannot live there.
    """
    if isolation == "thread":
        return ThreadCoreClient(model, options, chat)
    if isolation != "process":
        raise EngineError(f"isolation {isolation!r} is neither 'thread' nor 'process'")
    if isinstance(model, KimiK2Model | Engine):
        raise EngineError(
            "a model in memory cannot move into another process",
            remedy="Give a checkpoint folder, or isolation='thread'",
        )
    return ProcessCoreClient(model, options, busy, on_life)
