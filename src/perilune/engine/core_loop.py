"""The loop of an engine core: commands in, events out, whatever thread or process it is in."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from perilune.engine.core_messages import (
    Accepted,
    Add,
    Cancel,
    Command,
    EndThinking,
    Event,
    Outputs,
    Refused,
    Stop,
)
from perilune.engine.engine import Engine
from perilune.engine.input_processor import needs_compiling
from perilune.errors import RequestError


@dataclass(frozen=True, slots=True)
class _Compiled:
    """The grammars of a request are compiled, or `error` says why they cannot be."""

    add: Add
    error: RequestError | None


COMPILERS = 2
CoreQueue = SimpleQueue[Command | _Compiled]


def run_core_loop(engine: Engine, commands: CoreQueue, emit: Callable[[Event], None]) -> None:
    """Run until `Stop`. Commands are taken between steps, so a cancellation waits one at most.

    Grammars are compiled in a thread beside: a large one takes seconds, and others go on.
    """
    compiling: set[str] = set()
    pool = ThreadPoolExecutor(COMPILERS, "perilune-grammars")

    def compile_grammars(add: Add) -> None:
        commands.put(_Compiled(add, engine.compile(add.params, add.tools)))

    while True:
        for command in _waiting(commands, block=not engine.has_work):
            match command:
                case Add(request_id) if needs_compiling(command.params, command.tools):
                    compiling.add(request_id)
                    pool.submit(compile_grammars, command)
                case Add():
                    _add(engine, command, emit)
                case _Compiled(add, error) if add.request_id in compiling:
                    compiling.remove(add.request_id)
                    _add(engine, add, emit, error)
                case _Compiled():
                    pass  # it was cancelled meanwhile
                case Cancel(request_id) if request_id in compiling:
                    compiling.remove(request_id)
                    emit(Refused(request_id, "the request was cancelled"))
                case Cancel(request_id):
                    engine.cancel(request_id)
                case EndThinking(request_id):
                    engine.end_thinking(request_id)
                case Stop():
                    pool.shutdown(wait=False, cancel_futures=True)
                    engine.close()
                    return
        outputs = engine.step()
        if outputs:
            emit(Outputs(outputs, engine.status()))


def _waiting(commands: CoreQueue, *, block: bool) -> list[Command | _Compiled]:
    taken = [commands.get()] if block else []
    while True:
        try:
            taken.append(commands.get_nowait())
        except Empty:
            return taken


def _add(
    engine: Engine, add: Add, emit: Callable[[Event], None], error: RequestError | None = None
) -> None:
    try:
        if error is not None:
            raise error
        engine.add_request(
            add.prompt,
            add.params,
            request_id=add.request_id,
            priority=add.priority,
            cache_salt=add.cache_salt,
            output=add.output,
            thinking=add.thinking,
            tools=add.tools,
            media=add.media,
        )
    except RequestError as error:
        emit(Refused(add.request_id, error.message, error.param, error.remedy, error.code))
    else:
        emit(Accepted(add.request_id))
