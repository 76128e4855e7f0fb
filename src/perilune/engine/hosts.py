"""Where an engine lives: in a thread of this process, or in a process of its own.

A process costs a copy of the messages and survives anything, also a crash of the C library; a
thread shares the model with the caller. Both speak `driver`'s commands and events.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

from perilune.chat.format import ChatFormat
from perilune.engine.driver import Command, Died, Event, Stop, drive
from perilune.engine.engine import Engine
from perilune.engine.load import EngineOptions, load_engine
from perilune.engine.wire import LENGTH, command_frame, load_frame, read_event, unpack
from perilune.errors import EngineDeadError, EngineError
from perilune.model.model import KimiK2Model

OnEvent = Callable[[Event], None]
STOP_SECONDS = 10.0  # for a process to end by itself


class Host(Protocol):
    """A place where an engine runs. Used from one event loop."""

    async def start(self, on_event: OnEvent) -> None:
        """Load (the first time) and run; returns when requests are taken. Raises PeriluneError."""

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
        else:
            self._engine = self._engine.restarted()
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
    """The engine in a process of its own; a restart loads the weights again."""

    def __init__(self, model: str | Path, options: EngineOptions) -> None:
        self._model = str(model)
        self._options = options
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def process_id(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def start(self, on_event: OnEvent) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "perilune.engine.worker",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self._write(load_frame(self._model, self._options))
        message = await self._read()
        if message is None:
            code = await self._process.wait()
            raise EngineDeadError(f"the engine's process ended while loading (exit status {code})")
        kind, body = message
        if kind == "failed":
            await self._process.wait()
            raise EngineError(body[0], remedy=body[1])
        self._reader = asyncio.create_task(self._read_events(self._process, on_event))

    def send(self, command: Command) -> None:
        self._write(command_frame(command))

    async def stop(self) -> None:
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
        if self._reader is not None:
            await self._reader

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
        while self._process is process and (message := await self._read()) is not None:
            event = read_event(*message)
            on_event(event)
            if isinstance(event, Died):
                return
        if self._process is process:  # it was not told to stop
            code = await process.wait()
            on_event(Died(f"its process ended with status {code}"))


def make_host(
    model: str | Path | KimiK2Model | Engine,
    options: EngineOptions,
    chat: ChatFormat | None,
    isolation: str,
) -> Host:
    """An engine that is made already keeps its own options.

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
    return ProcessHost(model, options)
