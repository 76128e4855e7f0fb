"""An engine in a loop of its own: commands in, events out, whatever thread or process it is in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from perilune.engine.engine import Engine
from perilune.engine.intake import needs_compiling
from perilune.engine.metrics import EngineStatus
from perilune.engine.request import OutputFormat, SequenceOutput, Tools
from perilune.engine.sampling_params import SamplingParams
from perilune.errors import RequestError


@dataclass(frozen=True, slots=True)
class Add:
    """Queue a request. The fields are those of `Engine.add_request`."""

    request_id: str
    prompt: Sequence[int]
    params: SamplingParams
    priority: int = 0
    salt: str = ""
    output: OutputFormat = OutputFormat.TOKENS
    thinking: bool = True
    tools: Tools | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    request_id: str


@dataclass(frozen=True, slots=True)
class EndThinking:
    """Close the thinking of a request at its next token."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the loop; what is under way is cancelled without a word."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A request is queued: from here on it cannot be refused any more."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a step brought, and how the engine stands after it."""

    outputs: Sequence[SequenceOutput]
    status: EngineStatus


@dataclass(frozen=True, slots=True)
class Refused:
    """A request was not taken: the parts of a RequestError."""

    request_id: str
    message: str
    param: str | None = None
    remedy: str = ""
    code: str = RequestError.code


@dataclass(frozen=True, slots=True)
class Died:
    """The loop has ended with an error; nothing comes after this. `reason`: see `life.Ended`."""

    cause: str
    reason: str = "error"


@dataclass(frozen=True, slots=True)
class Loading:
    """How far a load has come. `done` and `total` in bytes of weights, `seconds` since its start.

    phase: "weights", then "preparing", where they are brought into the form that is computed with.
    """

    phase: str
    done: int
    total: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes a second so far."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """None until something has been read."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None


@dataclass(frozen=True, slots=True)
class _Compiled:
    """The grammars of a request are compiled, or `error` says why they cannot be."""

    add: Add
    error: RequestError | None


COMPILERS = 2
Command = Add | Cancel | EndThinking | Stop | _Compiled
Event = Taken | Outputs | Refused | Died | Loading


def drive(engine: Engine, commands: SimpleQueue[Command], emit: Callable[[Event], None]) -> None:
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


def _waiting(commands: SimpleQueue[Command], *, block: bool) -> list[Command]:
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
            salt=add.salt,
            output=add.output,
            thinking=add.thinking,
            tools=add.tools,
        )
    except RequestError as error:
        emit(Refused(add.request_id, error.message, error.param, error.remedy, error.code))
    else:
        emit(Taken(add.request_id))
