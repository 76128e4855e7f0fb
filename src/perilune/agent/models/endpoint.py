"""A model behind an OpenAI-compatible endpoint: Moonshot's API, vLLM, SGLang, llama.cpp and others.

This file does the requests. What servers send back is read by pure functions, each tested with the
habits and faults of real ones: bytes (`server_events.py`), chunks (`chunks.py`), calls
(`tool_call_index.py`), turns that come as plain text (`spelled_turn.py`), the end (`endings.py`),
refusals (`refusals.py`). Whatever comes, nothing is raised but `ModelError` (`UsageError` before
the first completion). Retries are the loop's (`retry.py`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perilune.agent.models.chat_model import Message, ModelError, Sampling
from perilune.agent.models.chunks import ChunkReader
from perilune.agent.models.endings import NEAR_WINDOW, read_ending
from perilune.agent.models.endpoint_url import read_endpoint_url
from perilune.agent.models.refusals import names_no_model, status_error
from perilune.agent.models.server_events import Done, EventReader, ServerEvent, read_json
from perilune.agent.models.sight import is_about_order
from perilune.agent.models.spelled_turn import SpelledTurn
from perilune.agent.models.tool_call_index import OpenCall
from perilune.agent.models.wire import ToolPictures, has_pictures, to_wire
from perilune.chat.deltas import (
    Delta,
    Finished,
    FinishReason,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from perilune.errors import UsageError
from perilune.events import Usage
from perilune.text import valid_json, valid_text

if TYPE_CHECKING:
    import httpx

STALL_SECONDS = 600.0
"""No byte for so long means that the server hangs; a long prompt is silent for minutes."""
AFTER_REASON, AFTER_DONE = 15.0, 0.5
"""Seconds that a server which does not close is waited for, behind the finish reason (the usage is
still to come) and behind `[DONE]`."""
MAX_REFUSAL_BYTES = 1 << 20
MAX_MODEL_LIST_BYTES = 16 << 20
_OF_THE_REQUEST = frozenset({"max_tokens", "request", "no_vision", "tool_pictures", "pictures"})


@dataclass(frozen=True, slots=True)
class Prices:
    """Money for a million tokens, in any one unit; a budget's `cost` is in the same."""

    prompt: float
    completion: float
    cached: float | None = None

    def cost(self, usage: Usage) -> float:
        cached_price = self.prompt if self.cached is None else self.cached
        fresh = usage.prompt_tokens - usage.cached_tokens
        return (
            fresh * self.prompt
            + usage.cached_tokens * cached_price
            + usage.completion_tokens * self.completion
        ) / 1e6


class EndpointModel:
    """A `ChatModel` over HTTP.

    `url` is the base URL in any usual form (`endpoint_url.py`; `/v1` is added to a bare host).
    `name` may be left out where the server has one model. The key is read from the environment
    variable `api_key_env`, and never stored. `transport` is httpx's, for tests.
    """

    def __init__(
        self,
        url: str,
        name: str = "",
        *,
        api_key_env: str | None = None,
        context_window: int | None = None,
        prices: Prices | None = None,
        stall_seconds: float = STALL_SECONDS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = read_endpoint_url(url)
        if api_key_env is not None and not os.environ.get(api_key_env):
            raise UsageError(
                f"the environment variable {api_key_env} holds no key",
                remedy=f"export {api_key_env}=... in the shell that starts the run.",
            )
        self.endpoint = self._url.base
        self.name = valid_text(name)
        self.context_window = context_window
        self._host = self._url.host
        self._key = os.environ[api_key_env] if api_key_env else "none"
        if not _is_header(self._key):
            raise UsageError(
                f"the key in {api_key_env} contains characters that keys never contain",
                remedy="Export it again, without quotes, spaces or line ends.",
            )
        self._prices = prices
        self._stall_seconds = stall_seconds
        self._transport = transport
        # OpenAI's own takes pictures in a tool's message, and does not look at them.
        openai = self._host == "api.openai.com"
        self._tool_pictures = ToolPictures.BEHIND if openai else ToolPictures.IN_PLACE
        self._made_client: httpx.AsyncClient | None = None

    async def prepare(self) -> None:
        """Ask the server for its models, for the name and the window where they are not given.

        Raises `ModelError` when the name is needed and the server does not say it.
        """
        if self.name and self.context_window is not None:
            return
        try:
            models = await self._models()
        except ModelError:
            if not self.name:
                raise
            return
        if not self.name:
            if len(models) != 1:
                names = ", ".join(sorted(models)[:10]) or "none"
                raise UsageError(
                    f"{self.endpoint} serves {len(models)} models: {names}",
                    remedy="Name one with --model.",
                )
            self.name = next(iter(models))
        if self.context_window is None:
            self.context_window = _window(models.get(self.name, {}))

    async def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        sampling: Sampling,
    ) -> AsyncGenerator[Delta, None]:
        lessened = False
        while True:
            place = self._tool_pictures
            try:
                async with aclosing(self._complete(messages, tools, sampling)) as deltas:
                    async for delta in deltas:
                        yield delta
                return
            except ModelError as error:
                # It is raised before the first delta: a request is refused as a whole.
                if error.kind == "max_tokens" and not lessened:
                    sampling, lessened = _less_output(sampling, error), True
                elif error.kind in ("no_vision", "tool_pictures", "pictures"):
                    other = _other_place(place, error, messages)
                    if self._tool_pictures is place:  # another run may have learnt it meanwhile
                        self._tool_pictures = other
                else:
                    raise

    async def _complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        sampling: Sampling,
    ) -> AsyncGenerator[Delta, None]:
        known = _function_names(tools)
        reader, turn = ChunkReader(known), SpelledTurn()
        done, spoke = False, False
        try:
            body = self._body(messages, tools, sampling)
            async with aclosing(self._events(body, reader)) as events:
                async for event in events:
                    if isinstance(event, Done):
                        done = True
                        continue
                    piece = reader.read(event)
                    for delta in turn.reasoning(piece.reasoning) if piece.reasoning else ():
                        yield delta
                    for delta in turn.content(piece.content) if piece.content else ():
                        yield delta
                    spoke = spoke or bool(piece.reasoning or piece.content)
        except ModelError as error:
            # What comes behind the end cannot make it undone; the usage may be missing then.
            if not reader.finish_reason or error.kind == "max_tokens" or not _is_over(reader):
                raise _in_the_middle(error, spoke=spoke or bool(reader.calls.calls)) from error
        found = turn.finish(known, has_calls=bool(reader.calls.calls))
        for delta in found.deltas:
            yield delta
        calls = [*reader.calls.calls, *found.calls]
        reason = self._ending(reader, found.content, calls, found.broken, known, done=done)
        for delta in _call_deltas(calls, cut=reason is FinishReason.LENGTH):
            yield delta
        yield Finished(
            reason,
            self._priced(reader.usage),
            response_id=reader.response_id,
            model=reader.model,
        )

    def count_tokens(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]
    ) -> int | None:
        """The server's tokenizer is not here; the estimate is calibrated by its reports."""
        return None

    async def close(self) -> None:
        if self._made_client is not None:
            client, self._made_client = self._made_client, None
            await client.aclose()

    # --- the end of a completion ---

    def _ending(
        self,
        reader: ChunkReader,
        text: str,
        calls: list[OpenCall],
        broken: str,
        known: set[str],
        *,
        done: bool,
    ) -> FinishReason:
        cut_at_limit = reader.finish_reason.lower() in ("length", "max_tokens", "model_length")
        if broken and not reader.calls.calls and not cut_at_limit:
            raise ModelError(
                f"the reply holds tool calls as text that cannot be read: {broken}",
                kind="garbled",
                retryable=True,
            )
        reason = read_ending(reader.finish_reason, done=done, text=text, calls=calls, known=known)
        cut_before_a_word = reason is FinishReason.LENGTH and not text.strip() and not calls
        if cut_before_a_word and self._is_full(reader.usage):
            raise ModelError("the prompt fills the model's window", kind="context")
        return reason

    def _is_full(self, usage: Usage | None) -> bool:
        """Whether a completion that was cut before its first word had no room at all."""
        if usage is None or usage.completion_tokens > 16:
            return False
        return (
            self.context_window is not None
            and usage.total_tokens >= NEAR_WINDOW * self.context_window
        )

    def _priced(self, usage: Usage | None) -> Usage | None:
        if usage is None or self._prices is None:
            return usage
        return usage + Usage(cost=self._prices.cost(usage))

    # --- HTTP ---

    @property
    def _client(self) -> httpx.AsyncClient:
        if self._made_client is None:
            import httpx

            headers = {"authorization": f"Bearer {self._key}", "accept": "text/event-stream, */*"}
            if self._host.endswith((".azure.com", ".azure-api.net")):
                headers["api-key"] = self._key
            self._made_client = httpx.AsyncClient(
                headers=headers,
                timeout=httpx.Timeout(self._stall_seconds, connect=20.0, pool=None),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
                follow_redirects=True,
                max_redirects=5,
                transport=self._transport,
            )
        return self._made_client

    async def _events(
        self, body: dict[str, Any], chunks: ChunkReader
    ) -> AsyncGenerator[ServerEvent | Done, None]:
        """The events of a completion; leaving early closes the connection, which cancels it.

        What comes behind `[DONE]` is not looked at, but read for a moment, so that the connection
        can be used again.
        """
        reader = EventReader()
        done = False

        def patience() -> float | None:
            return AFTER_DONE if done else AFTER_REASON if chunks.finish_reason else None

        async with self._opened("POST", "chat/completions", json=body) as response:
            async with aclosing(_bytes(response, patience)) as pieces:
                async for piece in pieces:
                    if done:
                        continue
                    for event in reader.feed(piece):
                        yield event
                        if isinstance(event, Done):
                            done = True
                            break
            if done:
                return
            for event in reader.finish():
                yield event
        if reader.first_line and not reader.said_anything:
            raise ModelError(
                f"the endpoint answered with something other than a completion: "
                f"{valid_text(reader.first_line)}",
                kind="cut",
                retryable=True,
            )

    async def _models(self) -> dict[str, dict[str, Any]]:
        """What the server lists, by id; what is not a list of models is none."""
        body = b""
        async with (
            self._opened("GET", "models") as response,
            aclosing(_bytes(response)) as pieces,
        ):
            async for piece in pieces:
                body += piece
                if len(body) > MAX_MODEL_LIST_BYTES:
                    raise ModelError("the endpoint's list of models is too long")
        try:
            value = read_json(body.decode("utf-8", "replace").removeprefix("\ufeff"))
        except ValueError:
            raise ModelError(
                f"{self._url.route('models')} is not a list of models: "
                f"{body[:200].decode('utf-8', 'replace')}",
                remedy="Check the URL; the base URL of an API usually ends in /v1.",
            ) from None
        rows = value.get("data") or value.get("models") if isinstance(value, dict) else value
        found = {}
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, dict) and isinstance(row.get("id"), str) and row["id"]:
                found[valid_text(row["id"])] = row
        return found

    @asynccontextmanager
    async def _opened(self, method: str, path: str, **request: Any) -> AsyncIterator[Any]:
        """A response with a good status. Raises `ModelError` for any other."""
        url = self._url.route(path)
        try:
            sent = self._client.build_request(method, url, **request)
            response = await self._client.send(sent, stream=True)
        except Exception as error:  # the library's own, and those below it
            raise ModelError(
                f"cannot reach the endpoint: {_words(error)}", kind="connection", retryable=True
            ) from error
        try:
            if response.status_code != 200:
                raise await self._refusal(response)
            yield response
        finally:
            await response.aclose()

    async def _refusal(self, response: Any) -> ModelError:
        body = b""
        try:
            async with aclosing(_bytes(response)) as pieces:
                async for piece in pieces:
                    body += piece
                    if len(body) > MAX_REFUSAL_BYTES:
                        break
        except ModelError:
            pass  # the status says enough
        status = response.status_code
        if status in (404, 405, 421):
            error = status_error(status, response.headers, body)
            if error.kind in ("no_vision", "tool_pictures"):  # OpenRouter's 404
                return error
            return self._not_found(status, error, is_model=names_no_model(body))
        if status < 400:
            return ModelError(
                f"the endpoint answered {status}, which is not a completion",
                remedy="Check the URL; the base URL of an API usually ends in /v1.",
            )
        return status_error(status, response.headers, body)

    def _not_found(self, status: int, error: ModelError, *, is_model: bool) -> ModelError:
        """A path that is not there, or a model that is not."""
        if is_model:
            return ModelError(
                error.message, status=status, explained=True, remedy="Name another with --model."
            )
        url = self._url.route("chat/completions")
        return ModelError(
            f"{error.message} (asked: {url})",
            status=status,
            explained=True,
            remedy=f"Give the base URL that stands before /chat/completions; it usually ends in "
            f"/v1, as in {self._url.root}/v1.",
        )

    def _body(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], sampling: Sampling
    ) -> dict[str, Any]:
        extra: dict[str, Any] = {}
        if sampling.thinking is not None:
            if "moonshot" in self._host:
                extra["thinking"] = {"type": "enabled" if sampling.thinking else "disabled"}
            else:
                extra["chat_template_kwargs"] = {"thinking": sampling.thinking}
        most = "max_completion_tokens" if self._host == "api.openai.com" else "max_tokens"
        body: dict[str, Any] = {
            "model": self.name,
            "messages": to_wire(messages, self._tool_pictures),
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            most: sampling.max_tokens,
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
            "reasoning_effort": sampling.effort,
            "tools": list(tools) or None,
        }
        given = {name: value for name, value in body.items() if value is not None}
        return valid_json(given | extra | sampling.extra)


async def _bytes(
    response: Any, patience: Callable[[], float | None] = lambda: None
) -> AsyncGenerator[bytes, None]:
    """The body, unpacked. Raises `ModelError` when it breaks off or cannot be unpacked.

    `patience` gives the seconds that the next piece is waited for; what does not come is the end.
    """
    pieces = response.aiter_bytes()
    while True:
        try:
            async with asyncio.timeout(patience()):
                piece = await anext(pieces)
        except (StopAsyncIteration, TimeoutError):
            return
        except Exception as error:  # the library's own, and those below it
            raise ModelError(
                f"the stream broke off: {_words(error)}", kind="cut", retryable=True
            ) from error
        yield piece


def _words(error: BaseException) -> str:
    return valid_text(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _is_over(reader: ChunkReader) -> bool:
    """Whether a reply that broke behind its finish reason was whole: so is every call of it."""
    return all(call.is_whole for call in reader.calls.calls)


def _in_the_middle(error: ModelError, *, spoke: bool) -> ModelError:
    """A refusal inside an answer that has begun is a cut: the prompt was taken."""
    if not spoke or error.kind not in _OF_THE_REQUEST:
        return error
    return ModelError(error.message, kind="cut", retryable=True, status=error.status)


def _other_place(
    place: ToolPictures, error: ModelError, messages: Sequence[Message]
) -> ToolPictures:
    """Where the pictures of tools may stand after this refusal.

    Raises the error where no other place is left; `no_vision` where the refusal may mean that.
    """
    if error.kind == "tool_pictures" and has_pictures(messages, "tool"):
        if place is ToolPictures.BEHIND and is_about_order(error.message):
            return ToolPictures.NOWHERE
        if place is ToolPictures.IN_PLACE:
            return ToolPictures.BEHIND
    kind = error.kind if error.kind != "tool_pictures" else "no_vision"
    if not has_pictures(messages):
        kind = "request"
    raise ModelError(error.message, kind=kind, status=error.status, room=error.room) from error


def _less_output(sampling: Sampling, error: ModelError) -> Sampling:
    """Sampling with the output that the server has room for. Raises the error where none helps."""
    if error.room and error.room != sampling.max_tokens:
        return dataclasses.replace(sampling, max_tokens=error.room)
    if sampling.max_tokens is not None:
        return dataclasses.replace(sampling, max_tokens=None)
    raise ModelError(error.message, status=error.status, explained=True) from error


def _call_deltas(calls: Sequence[OpenCall], *, cut: bool) -> Iterator[Delta]:
    """The calls of a completion; where it was `cut`, the last one has no end."""
    for index, call in enumerate(calls):
        yield ToolCallStart(index, valid_text(call.id), valid_text(call.name.strip()))
        if arguments := valid_text(call.arguments):
            yield ToolCallArguments(index, arguments)
        if not cut or index < len(calls) - 1:
            yield ToolCallEnd(index)


def _function_names(tools: Sequence[dict[str, Any]]) -> set[str]:
    names = set()
    for each in tools:
        function = each.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(name, str):
            names.add(name)
    return names


def _is_header(key: str) -> bool:
    return key.isascii() and key.isprintable() and key == key.strip()


def _window(model: dict[str, Any]) -> int | None:
    """What servers say of a model's window: vLLM and SGLang, Moonshot, llama.cpp."""
    meta = model.get("meta")
    n_ctx = meta.get("n_ctx") if isinstance(meta, dict) else None
    for value in (model.get("max_model_len"), model.get("context_length"), n_ctx):
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**9:
            return value
    return None
