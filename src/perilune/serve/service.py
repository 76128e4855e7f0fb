"""The way of a request through the engine: admission, rendering, sampling parameters, events.

`Service.open` answers when the engine has taken the request, so that whatever is wrong with it is
known before the first byte of a stream.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from perilune.chat.format import ChatFormat
from perilune.chat.media import MediaSpan
from perilune.chat.media.reader import MediaReader
from perilune.chat.prompt import Prompt
from perilune.engine.async_engine import EngineState, EngineStream
from perilune.engine.conversation import next_call_index, recommended_sampling
from perilune.engine.core_messages import Add, Loading
from perilune.engine.life import LifeEvent
from perilune.engine.media import RequestMedia, request_media
from perilune.engine.metrics import EngineStatus
from perilune.engine.request import OutputFormat, ToolChoice, Tools
from perilune.engine.sampling_params import FREE_WHITESPACE, Grammar, SamplingParams
from perilune.errors import PeriluneError
from perilune.serve.answer_stream import AnswerStream
from perilune.serve.api_error import ApiError, api_error, invalid
from perilune.serve.media.admission import MediaAdmission, placed
from perilune.serve.metrics import Metrics
from perilune.serve.model_names import ModelNames
from perilune.serve.quotas import Quotas
from perilune.serve.request import Caller, ChatRequest, Constraint, TextRequest, ToolUse
from perilune.serve.settings import Settings

log = logging.getLogger("perilune.serve")
MOST_RETRY_SECONDS = 60.0  # a client that waits for a load asks again after so long at the latest


class EngineLike(Protocol):
    """What the service needs of an engine; `AsyncEngine` is one."""

    chat_format: ChatFormat | None
    media_reader: MediaReader | None
    status: EngineStatus | None
    loading: Loading | None
    latest_load: Loading | None
    on_life: Callable[[LifeEvent], None] | None

    @property
    def state(self) -> EngineState: ...

    async def start(self) -> None: ...

    async def submit(self, add: Add) -> EngineStream: ...

    def end_thinking(self, request_id: str) -> bool: ...

    async def close(self, *, drain_seconds: float = 0.0) -> None: ...


class Service:
    """One engine behind all APIs. Use it from one event loop."""

    def __init__(
        self,
        engine: EngineLike,
        settings: Settings | None = None,
        *,
        model_name: str = "perilune",
        max_context: int,
        fingerprint: str = "",
        media: MediaAdmission | None = None,
    ) -> None:
        """`media` opens pictures and clips; None: by the settings, where the engine has eyes."""
        if engine.chat_format is None:
            raise ValueError("a server needs an engine with a chat format")
        self.engine = engine
        self.settings = settings or Settings()
        self.names = ModelNames(
            self.settings.served_model_name or (model_name,), any_name=self.settings.any_model_name
        )
        self.model_name = self.names.first
        self.max_context = max_context
        self.format: ChatFormat = engine.chat_format
        self.started = int(time.time())
        self.fingerprint = f"fp_perilune_{fingerprint}" if fingerprint else "fp_perilune"
        self.draining = False
        self.metrics = Metrics(self.settings.metrics_prefix, self.model_name)
        self.quotas = Quotas(self.settings)
        self.media = media or MediaAdmission(self.settings, engine.media_reader)
        self._open: dict[str, tuple[Caller, int]] = {}
        engine.on_life = self._note_life

    # --- requests ----------------------------------------------------------------------------

    async def open(self, request: ChatRequest) -> AnswerStream:
        """Take a conversation. Raises ApiError; nothing is under way then."""
        self.check_ready()
        prompt, places = await self._render(request)
        params = self._params(
            recommended_sampling(self.format.family, thinking=request.thinking.enabled),
            request.sampling,
            grammar=self._grammar(request.constraint),
            thinking_budget=request.thinking.budget,
        )
        tools = replace(
            _tools(request.tools, request.tool_use, next_call_index(self.format, prompt.ids)),
            whitespace=FREE_WHITESPACE if self.settings.json_whitespace else "",
        )
        add = Add(
            request.request_id,
            prompt.ids,
            params,
            request.priority,
            _salt(request.caller, request.cache_salt),
            OutputFormat.CHAT,
            request.thinking.enabled,
            tools,
            _shown(prompt),
        )
        stream = await self._submit(add, request.caller, request.constraint.field, prompt.spans)
        if not self.media.decoded.has_all(prompt.spans):
            # A header says nothing of damaged pixels: what only decoding shows has its status too.
            try:
                await stream.begin()
            except ApiError as error:
                raise placed(error, prompt.spans, places) from None
            self.media.decoded.add(prompt.spans)
        return stream

    async def open_text(self, request: TextRequest) -> AnswerStream:
        """Take a text to be continued. Raises ApiError."""
        self.check_ready()
        prompt = request.prompt
        if isinstance(prompt, str):
            prompt = await asyncio.to_thread(self.format.tokenizer.encode, prompt)
        params = self._params(
            SamplingParams(), request.sampling, grammar=self._grammar(request.constraint)
        )
        add = Add(
            request.request_id,
            list(prompt),
            params,
            request.priority,
            _salt(request.caller, request.cache_salt),
            OutputFormat.TEXT,
        )
        return await self._submit(add, request.caller, request.constraint.field)

    async def render(self, request: ChatRequest) -> Prompt:
        """The prompt, off the event loop; of pictures the headers are read. Raises ApiError."""
        return (await self._render(request))[0]

    async def _render(self, request: ChatRequest) -> tuple[Prompt, Mapping[str, str]]:
        """The prompt, and where its pictures stood in the request (`PartsOpener.places`)."""
        opener = await self.media.opener(request.messages, str(self.format.family))
        try:
            prompt = await asyncio.to_thread(
                self.format.render,
                request.messages,
                list(request.tools) or None,
                thinking=request.thinking.enabled,
                preserve_thinking=request.thinking.preserve,
                add_generation_prompt=request.add_generation_prompt,
                media=opener,
            )
        except PeriluneError as error:
            raise api_error(error) from None
        return prompt, {} if opener is None else opener.places

    async def count(self, request: ChatRequest) -> int:
        """How many tokens the prompt has, pictures with theirs; none is decoded for it."""
        return len((await self.render(request)).ids)

    def end_thinking(self, request_id: str, caller: Caller) -> bool:
        """Have a request of the same caller close its thinking. False when it is not there."""
        owner = self._open.get(request_id)
        return owner is not None and owner[0] == caller and self.engine.end_thinking(request_id)

    @property
    def open_answers(self) -> int:
        """Answers that clients wait for."""
        return sum(n for _, n in self._open.values())

    @property
    def open_requests(self) -> list[str]:
        return list(self._open)

    def check_ready(self) -> None:
        """Raises ApiError (503) unless requests are taken."""
        if self.draining:
            raise ApiError(503, "the server is shutting down", code="shutting_down", retry_after=5)
        match self.engine.state:
            case EngineState.READY:
                return
            case EngineState.DEAD | EngineState.CLOSED:
                raise ApiError(503, "the engine is not running", code="engine_dead")
        loading = self.loading
        left = None if loading is None else loading.seconds_left
        raise ApiError(
            503,
            "the model is being loaded",
            code="loading",
            retry_after=2 if left is None else min(max(2.0, left), MOST_RETRY_SECONDS),
        )

    @property
    def loading(self) -> Loading | None:
        """How far the load under way has come; None when there is none, or nothing is read yet."""
        return self.engine.loading

    @property
    def is_loading(self) -> bool:
        return self.engine.state in (EngineState.NEW, EngineState.LOADING)

    def render_metrics(self) -> str:
        """The text that Prometheus reads."""
        if self.engine.latest_load is not None:
            self.metrics.observe_load(self.engine.latest_load)
        return self.metrics.render(self.engine.status, self.open_answers, loading=self.is_loading)

    # --- inside ------------------------------------------------------------------------------

    def _note_life(self, event: LifeEvent) -> None:
        """A death of the engine is counted, and is one line of the log, once each."""
        extra = {"event": f"engine_{event.kind}", "cause": event.reason}
        match event.kind:
            case "died":
                self.metrics.engine_restarted(event.reason)
                log.error(
                    "the engine died (%s): %s; %d requests failed with it; it is started again",
                    event.reason, event.text, event.requests, extra=extra,
                )  # fmt: skip
            case "load_failed":
                self.metrics.engine_restarted(event.reason)
                log.error(
                    "the engine could not be loaded again (%s): %s",
                    event.reason, event.text, extra=extra,
                )  # fmt: skip
            case "standby_died":
                self.metrics.standby_died(event.reason)
                log.warning(
                    "the process that waits to take over died (%s): %s; another one is started",
                    event.reason, event.text, extra=extra,
                )  # fmt: skip
            case "back":
                log.warning("the engine is back after %.1f s", event.seconds, extra=extra)
            case "gave_up":
                log.error("%s; it is not started again", event.text, extra=extra)

    def _params(
        self, base: SamplingParams, given: Mapping[str, Any], **more: Any
    ) -> SamplingParams:
        values = {name: value for name, value in {**given, **more}.items() if value is not None}
        most = self.settings.max_output_tokens
        if most is not None:
            values["max_tokens"] = min(values.get("max_tokens", most), most)
        try:
            params = replace(base, **values)
        except PeriluneError as error:
            raise api_error(error) from None
        if params.n > self.settings.max_n:
            raise invalid(f"n is {params.n}, at most {self.settings.max_n} are served", "n")
        return params

    def _grammar(self, constraint: Constraint) -> Grammar | None:
        grammar = constraint.grammar
        if grammar is None or not self.settings.json_whitespace or grammar.whitespace:
            return grammar
        return replace(grammar, whitespace=FREE_WHITESPACE) if grammar.is_json else grammar

    async def _submit(
        self, add: Add, caller: Caller, constraint: str, media: Sequence[MediaSpan] = ()
    ) -> AnswerStream:
        """`constraint`: the field that an error in the grammar is of."""
        self._admit(add.params.n)
        lease = self.quotas.take(caller, len(add.prompt))
        self._open[add.request_id] = (caller, add.params.n)

        def on_close(stream: AnswerStream | None) -> None:
            self._open.pop(add.request_id, None)
            lease.release(0 if stream is None else stream.completion_tokens)
            if stream is not None:
                self.metrics.observe_stream(stream)

        try:
            outputs = await self.engine.submit(add)
        except PeriluneError as error:
            on_close(None)
            answer = api_error(error)
            if add.output is OutputFormat.TEXT and answer.param == "messages":
                answer.param = "prompt"
            if answer.param == "grammar":
                answer.param = constraint
            raise answer from None
        except BaseException:
            on_close(None)
            raise
        return AnswerStream(add, outputs, self.format, on_close, media)

    def _admit(self, n: int) -> None:
        """Refuse what would wait behind too many others."""
        under_way = self.open_answers
        places = self.settings.engine.max_sequences + self.settings.max_queue
        if under_way and under_way + n > places:
            raise ApiError(
                429,
                f"{under_way} answers are under way or waiting, and the queue is full",
                code="queue_full",
                retry_after=1,
            )


def _shown(prompt: Prompt) -> RequestMedia | None:
    """The pictures and clips of a prompt, as an engine takes them. Raises ApiError."""
    try:
        return request_media(prompt)
    except PeriluneError as error:
        raise api_error(error) from None


def _tools(declared: Sequence[Mapping[str, Any]], use: ToolUse, first_index: int) -> Tools:
    """The tools that the engine lets the model call; without any, calls are forbidden."""
    usable = [
        tool
        for tool in declared
        if tool.get("type") == "function"
        and (use.allowed is None or tool["function"]["name"] in use.allowed)
    ]
    choice = use.choice
    if not usable and choice is ToolChoice.AUTO:
        choice = ToolChoice.NONE
    return Tools(tuple(usable), choice, use.name, use.parallel, first_index)


def _salt(caller: Caller, own: str) -> str:
    if not caller.cache_salt and not own:
        return ""
    return hashlib.sha256(f"{caller.cache_salt}\0{own}".encode()).hexdigest()
