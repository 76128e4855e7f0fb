"""Where an engine lives: in a thread of this process, or in a process of its own.

A process costs a copy of the messages and survives anything, also a crash of the C library; a
thread shares the model with the caller. Both speak `driver`'s commands and events.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

from perilune.chat.format import ChatFormat
from perilune.engine.driver import Command, Died, Event, Stop, drive
from perilune.engine.engine import Engine
from perilune.engine.load import EngineOptions, load_engine
from perilune.engine.watchdog import kill_when_hung
from perilune.engine.wire import LENGTH, command_frame, load_frame, read_event, unpack
from perilune.errors import EngineDeadError, EngineError
from perilune.model.model import KimiK2Model
from perilune.processes import FIXED_FOLDER, clean_environment, python_module

OnEvent = Callable[[Event], None]
STOP_SECONDS = 10.0  # for a process to end by itself


class Host(Protocol):
    """A place where an engine runs. Used from one event loop."""

    async def start(self, on_event: OnEvent) -> None:
        """Load and run; returns when requests are taken. Raises PeriluneError."""

    async def restart(self, on_event: OnEvent) -> None:
        """Run again after the engine died. Raises PeriluneError."""

    def send(self, command: Command) -> None: ...

    async def stop(self) -> None:
        """End the engine; safe to call in any state."""


class ThreadHost:
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
        self._commands: SimpleQueue[Command] = SimpleQueue()

    async def start(self, on_event: OnEvent) -> None:
        if self._engine is None:
            assert self._model is not None
            if isinstance(self._model, Engine):
                self._engine = self._model
            else:
                self._engine = await asyncio.to_thread(
                    load_engine, self._model, self._options, chat=self._chat
                )
            self._model = None
        loop = asyncio.get_running_loop()

        def emit(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone, and so is who would listen
                loop.call_soon_threadsafe(on_event, event)

        self._commands = SimpleQueue()
        self._thread = Thread(
            target=_drive, args=(self._engine, self._commands, emit), name="perilune-engine",
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


def _drive(engine: Engine, commands: SimpleQueue[Command], emit: OnEvent) -> None:
    try:
        drive(engine, commands, emit)
    except Exception as error:
        emit(Died(f"{type(error).__name__}: {error}"))


class ProcessHost:
    """The engine in a process of its own; a restart loads the weights again.

    Beside it waits a second process that has done its imports, which take longer than loading a
    small model: it holds no weights, and takes over when the first dies. One that hangs is killed.
    """

    def __init__(self, model: str | Path, options: EngineOptions, busy: Callable[[], bool]) -> None:
        self._model = str(Path(model).absolute())  # its process has another current folder
        self._options = options
        self._busy = busy
        self._messages = 0
        self._process: asyncio.subprocess.Process | None = None
        self._standby: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def process_id(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def start(self, on_event: OnEvent) -> None:
        self._process = await _spawn()
        await self._load(await self._first_message(), on_event)

    async def restart(self, on_event: OnEvent) -> None:
        await self._end_process()
        self._process, self._standby = self._standby or await _spawn(), None
        message = await self._first_message()
        if message is None:  # the standby was gone as well
            await self._end_process()
            self._process = await _spawn()
            message = await self._first_message()
        await self._load(message, on_event)

    async def _first_message(self) -> tuple[str, Any] | None:
        """What the process says to being told to load; None: it has ended."""
        self._write(load_frame(self._model, self._options))
        return await self._read()

    async def _load(self, message: tuple[str, Any] | None, on_event: OnEvent) -> None:
        assert self._process is not None
        if message is None:
            code = await self._process.wait()
            raise EngineDeadError(f"the engine's process ended while loading (exit status {code})")
        kind, body = message
        if kind == "failed":
            await self._process.wait()
            raise EngineError(body[0], remedy=body[1])
        self._options = replace(self._options, bandwidth=body)  # measured once
        self._reader = asyncio.create_task(self._read_events(self._process, on_event))
        self._standby = await _spawn()

    def send(self, command: Command) -> None:
        self._write(command_frame(command))

    async def stop(self) -> None:
        standby, self._standby = self._standby, None
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
        watch = asyncio.create_task(kill_when_hung(process.pid, lambda: self._messages, self._busy))
        try:
            while self._process is process and (message := await self._read()) is not None:
                self._messages += 1
                event = read_event(*message)
                on_event(event)
                if isinstance(event, Died):
                    return
        finally:
            watch.cancel()
        if self._process is process:  # it was not told to stop
            code = await process.wait()
            on_event(Died(f"its process ended with status {code}"))


async def _spawn() -> asyncio.subprocess.Process:
    """A worker that waits to be told what to load, out of reach of the terminal's Ctrl-C."""
    return await asyncio.create_subprocess_exec(
        *python_module("perilune.engine.worker"), cwd=FIXED_FOLDER, env=clean_environment(),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, process_group=0,
    )  # fmt: skip


def make_host(
    model: str | Path | KimiK2Model | Engine,
    options: EngineOptions,
    chat: ChatFormat | None,
    isolation: str,
    busy: Callable[[], bool],
) -> Host:
    """An engine that is made already keeps its own options.

    busy: whether requests are under way, when silence means that the engine hangs.

    Raises EngineError when `isolation` is unknown or the model cannot live there.
    """
    if isolation == "thread":
        return ThreadHost(model, options, chat)
    if isolation != "process":
        raise EngineError(f"isolation {isolation!r} is neither 'thread' nor 'process'")
    if isinstance(model, KimiK2Model | Engine):
        raise EngineError(
            "a model in memory cannot move into another process",
            remedy="Give a checkpoint folder, or isolation='thread'",
        )
    return ProcessHost(model, options, busy)
