"""What a tool is: a name, a description, a JSON schema and `async run(arguments, context)`.

A tool is any object that has the attributes of `Tool`; `@tool` makes one of a function. The
registry checks arguments against the schema before a call, so `run` may rely on them.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import re
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from perilune.agent.pictures.part import Picture
from perilune.errors import UsageError
from perilune.events import Content, Event, ToolProgress

DEFAULT_TIMEOUT = 120.0
"""Seconds that a tool gets when it names no time of its own."""
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""What the APIs take as the name of a function."""


@dataclass(slots=True)
class ToolResult:
    """What a call gave.

    `content` is what the model is shown: text, or OpenAI-shaped parts (`{"type": "text", ...}`,
    `{"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}`, with a `name` for
    people). The run keeps pictures by hash; one that is none becomes a text that says so. A tool
    that cut its output puts the whole text in `full_output`; the loop keeps it in a file and names
    it to the model. `files` are workspace-relative paths that were made or changed, `evidence` the
    ids of sources that were kept.
    """

    content: Content
    is_error: bool = False
    files: list[str] = field(default_factory=list)
    evidence: list[str] = field(default_factory=list)
    full_output: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """A source kept by content hash. The model cites it as `[id]`, e.g. `[ev:1a2b3c4d]`."""

    id: str
    source: str
    title: str
    sha256: str


class EvidenceStore(Protocol):
    """Keeps the texts that answers may cite."""

    def keep(self, source: str, text: str, *, title: str = "", digits: int = 8) -> Evidence:
        """Keep a text that came from `source` (a URL, a path); the same text has the same id.

        `digits`: length of the id, which grows where another text of the run has the same one.
        """

    def text(self, evidence_id: str) -> str:
        """The kept text. Raises `KeyError` for an id that was never given out."""

    def describe(self, evidence_id: str) -> Evidence:
        """What was kept, without its text. Raises `KeyError` likewise."""

    def __contains__(self, evidence_id: object) -> bool: ...


class Pictures(Protocol):
    """The pictures of a run."""

    def given(self) -> list[Picture]:
        """Those that persons gave, in order."""

    def read(self, picture: Picture) -> bytes:
        """A picture's bytes. Raises `PictureLost` when its file is not what was kept."""


class CancelToken:
    """Says that a run, or one call, should stop. Set once, never taken back."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.reason = ""

    def cancel(self, reason: str = "interrupted") -> None:
        if not self._event.is_set():
            self.reason = reason
            self._event.set()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        """Return when the token is cancelled."""
        await self._event.wait()


def _no_event(event: Event) -> None:
    pass


def _no_name(name: str) -> None:
    pass


def _no_callback(callback: Callable[[], Awaitable[None]]) -> None:
    pass


@dataclass(slots=True)
class ToolContext:
    """What a call may use of its run.

    `workspace` is the only folder that tools change; `outputs` holds the full texts of cut tool
    outputs and may be read, not written, by tools. `pictures` are those of the run. `state` is
    shared by all calls of the run (a live Python session, say); what is in it is closed by
    callbacks given to `on_run_end`.
    `emit` puts an event into the run's stream (`PlanUpdated`, `NoteTaken`, `ToolProgress`, ...).
    `reveal` declares a deferred tool, by name, from the next step on.
    """

    workspace: Path
    run_id: str = "run"
    call_id: str = "call"
    outputs: Path | None = None
    sandbox: Any = None
    evidence: EvidenceStore | None = None
    pictures: Pictures | None = None
    cancel: CancelToken = field(default_factory=CancelToken)
    emit: Callable[[Event], None] = _no_event
    on_run_end: Callable[[Callable[[], Awaitable[None]]], None] = _no_callback
    reveal: Callable[[str], None] = _no_name
    state: dict[str, Any] = field(default_factory=dict)
    context_window: int | None = None

    def progress(self, text: str) -> None:
        """Show the person a sign of life; the model does not see it."""
        self.emit(ToolProgress(call_id=self.call_id, text=text))


@runtime_checkable
class Tool(Protocol):
    """One thing that the model can do.

    `side_effects`: it changes something outside the conversation, so the journal writes an intent
    before it runs, and it is never run again on its own after a crash. `parallel_safe`: it may run
    beside other calls of the same turn. `timeout`: seconds, None for no limit. `run` raises
    `ToolError` for a failure that the model should read; anything else is reported as a bug of the
    tool, and the run goes on. A tool with a true attribute `deferred` can be called, but is
    declared only once `ToolContext.reveal` has named it. One with a true attribute `durable_intent`
    has no side effects, for it finds its own earlier work after a crash and goes on with it; its
    intent is on the disk before it begins all the same.
    """

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def parameters(self) -> dict[str, Any]: ...

    @property
    def side_effects(self) -> bool: ...

    @property
    def parallel_safe(self) -> bool: ...

    @property
    def timeout(self) -> float | None: ...

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult: ...


def description_beside(code_file: str) -> str:
    """The text of the Markdown file beside `code_file` (pass `__file__`), of the same name."""
    return Path(code_file).with_suffix(".md").read_text("utf-8").strip()


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A tool made of a function by `@tool`."""

    function: Callable[..., Any]
    name: str
    description: str
    parameters: dict[str, Any]
    side_effects: bool = True
    parallel_safe: bool = False
    timeout: float | None = DEFAULT_TIMEOUT

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        extra = {"context": context} if _wants_context(self.function) else {}
        if inspect.iscoroutinefunction(self.function):
            value = await self.function(**arguments, **extra)
        else:
            value = await _in_daemon_thread(partial(self.function, **arguments, **extra))
        if isinstance(value, ToolResult):
            return value
        if isinstance(value, str):
            return ToolResult(value)
        return ToolResult(json.dumps(value, ensure_ascii=False, default=str))


def tool(
    *,
    side_effects: bool = True,
    parallel_safe: bool = False,
    timeout: float | None = DEFAULT_TIMEOUT,
    name: str | None = None,
) -> Callable[[Callable[..., Any]], FunctionTool]:
    """Make a tool of a function: name, docstring and annotations become its declaration.

    A parameter called `context` is given the `ToolContext` and is not declared. The function may be
    async; a plain one runs in a thread. It returns text, a `ToolResult`, or anything JSON.
    """

    def decorate(function: Callable[..., Any]) -> FunctionTool:
        return FunctionTool(
            function=function,
            name=name or function.__name__,
            description=inspect.getdoc(function) or "",
            parameters=_parameters_of(function),
            side_effects=side_effects,
            parallel_safe=parallel_safe,
            timeout=timeout,
        )

    return decorate


async def _in_daemon_thread(work: Callable[[], Any]) -> Any:
    """Like `asyncio.to_thread`, but a call that hangs does not hold the end of the program."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(value)
        else:
            done.set_exception(error)

    def call() -> None:
        value, error = None, None
        try:
            value = work()
        except Exception as failure:
            error = failure
        with suppress(RuntimeError):  # the loop is gone, and so is who waited
            loop.call_soon_threadsafe(settle, value, error)

    run = partial(contextvars.copy_context().run, call)
    threading.Thread(target=run, daemon=True, name="tool").start()
    return await done


def _wants_context(function: Callable[..., Any]) -> bool:
    return "context" in inspect.signature(function).parameters


def _parameters_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The JSON schema of a function's parameters, from its annotations and defaults."""
    import msgspec

    signature = inspect.signature(function, eval_str=True)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.name == "context":
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise UsageError(
                f"tool {function.__name__}: *{parameter.name} cannot be declared to a model",
                remedy="Give every parameter a name and a type.",
            )
        annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
        schema = msgspec.json.schema(annotation)
        schema.pop("$defs", None)
        if parameter.default is parameter.empty:
            required.append(parameter.name)
        elif parameter.default is not None:
            schema = {**schema, "default": parameter.default}
        properties[parameter.name] = schema
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
