"""`AsyncEngine`: requests as streams, the engine running beside. The API for servers and agents.

Its life is supervised: when the engine dies, every request under way fails with an error that
names it, and the engine starts again; when it keeps dying, it stays down and says why.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Literal

from perilune.chat.deltas import FinishReason
from perilune.chat.format import ChatFormat
from perilune.chat.media.reader import MediaReader
from perilune.engine.conversation import encode_conversation, recommended_sampling
from perilune.engine.core_client import EngineDiedLoading, make_core_client
from perilune.engine.core_messages import (
    Accepted,
    Add,
    Cancel,
    Died,
    EndThinking,
    Event,
    Loading,
    Outputs,
    Refused,
)
from perilune.engine.engine import Engine
from perilune.engine.life import LifeEvent
from perilune.engine.llm import read_options
from perilune.engine.load import reader_for
from perilune.engine.metrics import EngineStatus
from perilune.engine.outputs import SequenceOutput
from perilune.engine.request import OutputFormat
from perilune.engine.sampling_params import SamplingParams
from perilune.errors import (
    EngineDeadError,
    EngineError,
    PeriluneError,
    RequestError,
    UsageError,
    request_error,
)
from perilune.model.model import KimiK2Model

RESTART_WINDOW = 60.0  # seconds in which `max_restarts` are allowed
RESTART_PAUSE = 0.25  # seconds after a start that failed, doubled each time


class EngineState(StrEnum):
    """Where an engine is in its life."""

    NEW = "new"
    LOADING = "loading"  # also after a crash
    READY = "ready"
    DEAD = "dead"  # it cannot be started (any more)
    CLOSED = "closed"


_Item = SequenceOutput | PeriluneError | None  # None: the request is accepted


class AsyncEngine:
    """An engine in its own thread or process.

        async with AsyncEngine("path/to/checkpoint") as engine:
            async for output in engine.chat([{"role": "user", "content": "Hello"}]):
                for delta in output.deltas: ...

    Leaving a stream early cancels its request. `options` are the fields of `EngineOptions`. Use it
    from one event loop.
    """

    def __init__(
        self,
        model: str | Path | KimiK2Model | Engine,
        *,
        chat: ChatFormat | None = None,
        isolation: Literal["thread", "process"] = "thread",
        max_restarts: int = 3,
        **options: Any,
    ) -> None:
        if isinstance(model, Engine):
            chat = model.chat
        elif chat is None and not isinstance(model, KimiK2Model):
            chat = ChatFormat.from_pretrained(model)
        self.chat_format = chat
        read = read_options(options)
        # Opens pictures; None: the model reads text only. Another `resolve` may be put in.
        self.media_reader: MediaReader | None = reader_for(model, read)
        self.status: EngineStatus | None = None  # after the latest step
        self.loading: Loading | None = None  # how far the load under way has come
        self.latest_load: Loading | None = None  # the same, kept when it is over
        self.on_life: Callable[[LifeEvent], None] | None = None  # told of deaths, on the loop
        self._core = make_core_client(
            model, read, chat, isolation,
            busy=lambda: bool(self._working), on_life=self._tell,
        )  # fmt: skip
        self._max_restarts = max_restarts
        self._restarts: deque[float] = deque()
        self._streams: dict[str, asyncio.Queue[_Item]] = {}
        self._working: set[str] = set()  # without those that only wait to be read
        self._starting: asyncio.Task[None] | None = None
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def __aenter__(self) -> AsyncEngine:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Load the model and run. Requests do it by themselves. Raises PeriluneError."""
        if self._closing:
            raise EngineError("the engine is shutting down")
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)

    async def close(self, *, drain_seconds: float = 0.0) -> None:
        """Take no more requests, wait for those under way, cancel what is left, end the engine."""
        self._closing = True
        if drain_seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), drain_seconds)
        self._fail_all(lambda request_id: f"request {request_id} was cut off by a shutdown")
        if self._starting is not None:
            await asyncio.gather(self._starting, return_exceptions=True)
            await self._core.stop()

    async def generate(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str = "",
    ) -> AsyncGenerator[SequenceOutput, None]:
        """Continue a text or token ids. Raises RequestError and EngineDeadError."""
        if isinstance(prompt, str):
            prompt = self._format().tokenizer.encode(prompt)
        add = Add(
            request_id or _new_id(),
            list(prompt),
            params or SamplingParams(),
            priority,
            cache_salt,
            OutputFormat.TEXT if self.chat_format else OutputFormat.TOKENS,
        )
        async with aclosing(self._stream(add)) as outputs:
            async for output in outputs:
                yield output

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] = "auto",
        parallel_tool_calls: bool = True,
        thinking: bool = True,
        preserve_thinking: bool = False,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str = "",
    ) -> AsyncGenerator[SequenceOutput, None]:
        """Answer a conversation; the deltas are thinking, content and tool calls.

        Messages may hold pictures and clips (`image_url`, `video_url`) where the model has eyes;
        they are opened in a thread. Without `params` it samples as the model card says. Raises
        ChatError (MediaError is one), RequestError, EngineDeadError.
        """
        chat = self._format()
        encode = partial(
            encode_conversation,
            chat,
            messages,
            tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            thinking=thinking,
            preserve_thinking=preserve_thinking,
            media=self.media_reader,
        )
        plain = all(isinstance(message.get("content") or "", str) for message in messages)
        conversation = encode() if plain else await asyncio.to_thread(encode)
        add = Add(
            request_id or _new_id(),
            conversation.prompt,
            params or recommended_sampling(chat.family, thinking=thinking),
            priority,
            cache_salt,
            OutputFormat.CHAT,
            conversation.thinking,
            conversation.tools,
            conversation.media,
        )
        async with aclosing(self._stream(add)) as outputs:
            async for output in outputs:
                yield output

    def count_tokens(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        thinking: bool = True,
    ) -> int:
        """Tokens of the prompt that `chat` would send, those of pictures too. Raises ChatError."""
        conversation = encode_conversation(
            self._format(), messages, tools, thinking=thinking, media=self.media_reader
        )
        return len(conversation.prompt)

    def cancel(self, request_id: str) -> None:
        """End a request; its stream ends with finish_reason "cancelled"."""
        if request_id in self._streams:
            self._core.send(Cancel(request_id))

    def end_thinking(self, request_id: str) -> bool:
        """Have a request close its thinking and answer. False when it is not under way."""
        if request_id in self._streams:
            self._core.send(EndThinking(request_id))
        return request_id in self._streams

    @property
    def state(self) -> EngineState:
        if self._closing:
            return EngineState.CLOSED
        if self._starting is None:
            return EngineState.NEW
        if not self._starting.done():
            return EngineState.LOADING
        failed = self._starting.cancelled() or self._starting.exception() is not None
        return EngineState.DEAD if failed else EngineState.READY

    async def submit(self, add: Add) -> EngineStream:
        """Hand a request over; its stream, as soon as the engine has accepted it.

        Raises RequestError when the request is refused, EngineDeadError.
        """
        await self.start()
        if add.request_id in self._streams:
            raise RequestError(f"{add.request_id!r} is already under way", param="request_id")
        queue: asyncio.Queue[_Item] = asyncio.Queue()
        self._streams[add.request_id] = queue
        self._working.add(add.request_id)
        self._idle.clear()
        self._core.send(add)
        stream = EngineStream(self, add.request_id, queue)
        try:
            await stream._wait_until_accepted()
        except BaseException:
            await stream.aclose()
            raise
        return stream

    # --- streams -----------------------------------------------------------------------------

    async def _stream(self, add: Add) -> AsyncGenerator[SequenceOutput, None]:
        async with aclosing(await self.submit(add)) as outputs:
            async for output in outputs:
                yield output

    def _leave(self, request_id: str, *, done: bool) -> None:
        """A stream is over; the engine is told when that was the reader's wish."""
        self._streams.pop(request_id, None)
        self._working.discard(request_id)
        if not done:
            self._core.send(Cancel(request_id))
        if not self._streams:
            self._idle.set()

    def _format(self) -> ChatFormat:
        if self.chat_format is None:
            raise UsageError("the engine has no tokenizer", remedy="Give token ids, or chat=")
        return self.chat_format

    # --- the engine's life -------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        match event:
            case Accepted(request_id):
                self._put(request_id, None)
            case Outputs(outputs, status):
                self.status = status
                for output in outputs:
                    self._put(output.request_id, output)
                    if output.metrics is not None:  # its last
                        self._working.discard(output.request_id)
            case Refused(request_id, message, param, remedy, code):
                self._working.discard(request_id)
                self._put(request_id, request_error(code, message, param=param, remedy=remedy))
            case Loading():
                self.loading = self.latest_load = event
            case Died(cause, reason):
                self._tell(LifeEvent("died", reason, cause, requests=len(self._working)))
                self._working.clear()
                self._fail_all(lambda request_id: f"the engine died under {request_id}: {cause}")
                if not self._closing:
                    self._starting = asyncio.create_task(self._restart(cause))
                    # The next request is told of a failure; nobody else waits for it.
                    self._starting.add_done_callback(
                        lambda task: task.cancelled() or task.exception()
                    )

    async def _start(self) -> None:
        try:
            await self._core.start(self._on_event)
        finally:
            self.loading = None

    async def _restart(self, cause: str) -> None:
        """Start again, and once more when that fails, as often as is allowed."""
        began, pause = time.monotonic(), RESTART_PAUSE
        while True:
            now = time.monotonic()
            while self._restarts and now - self._restarts[0] > RESTART_WINDOW:
                self._restarts.popleft()
            if len(self._restarts) >= self._max_restarts:
                gone = f"the engine died {len(self._restarts) + 1} times within a minute: {cause}"
                self._tell(LifeEvent("gave_up", text=gone))
                raise EngineDeadError(
                    gone,
                    remedy="Run `perilune doctor`; fix the cause, then start the engine again",
                )
            self._restarts.append(now)
            try:
                await self._core.restart(self._on_event)
            except PeriluneError as error:
                if self._closing:
                    raise
                cause = error.message
                why = error.why if isinstance(error, EngineDiedLoading) else None
                reason = "error" if why is None else why.reason
                self._tell(LifeEvent("load_failed", reason, cause if why is None else why.text))
                await asyncio.sleep(pause)
                pause *= 2
                if self._closing:
                    raise
            else:
                self._tell(LifeEvent("back", seconds=time.monotonic() - began))
                return
            finally:
                self.loading = None

    def _tell(self, event: LifeEvent) -> None:
        if self.on_life is not None and not self._closing:
            self.on_life(event)

    def _put(self, request_id: str, item: _Item) -> None:
        queue = self._streams.get(request_id)
        if queue is not None:
            queue.put_nowait(item)

    def _fail_all(self, message: Any) -> None:
        for request_id in list(self._streams):
            self._put(request_id, EngineDeadError(message(request_id)))


class EngineStream:
    """The outputs of one request, in order. Closing it before the end cancels the request."""

    def __init__(self, engine: AsyncEngine, request_id: str, queue: asyncio.Queue[_Item]) -> None:
        self.request_id = request_id
        self._engine = engine
        self._queue = queue
        self._done = False
        self._left = False

    def __aiter__(self) -> EngineStream:
        return self

    async def __anext__(self) -> SequenceOutput:
        """The next output. Raises RequestError and EngineDeadError, once, when the request fails"""
        if self._done:
            await self.aclose()
            raise StopAsyncIteration
        output = await self._queue.get()
        assert output is not None
        if isinstance(output, PeriluneError):
            self._done = True
            raise output
        self._done = output.metrics is not None  # comes with the last of a request
        if output.finish_reason is FinishReason.ERROR:
            raise request_error(
                output.error_code,
                output.error or "the request failed",
                param=output.error_param or None,
            )
        return output

    async def aclose(self) -> None:
        """Leave; safe to call again."""
        if not self._left:
            self._left = True
            self._engine._leave(self.request_id, done=self._done)
            self._done = True

    async def _wait_until_accepted(self) -> None:
        item = await self._queue.get()
        if isinstance(item, PeriluneError):
            self._done = True
            raise item
        assert item is None


def _new_id() -> str:
    return f"request-{uuid.uuid4().hex[:12]}"
