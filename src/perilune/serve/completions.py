"""`/v1/completions`: texts, or token ids, continued as they stand; `echo` and `logprobs` too.

What evaluation harnesses use for likelihoods: `echo` with `logprobs` and `max_tokens` 0 or 1
scores the prompt itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any

from pydantic import Field

from perilune.chat.deltas import ContentDelta, Finished, TokenLogprob
from perilune.chat.turn import AssembledTurn
from perilune.events import Usage
from perilune.serve.answer_stream import AnswerStream
from perilune.serve.api_error import ApiError, invalid, unsupported
from perilune.serve.chat_completions import DONE, finish_reason, timings_json, usage_json
from perilune.serve.chat_schema import MAX_TOKENS, Object, SamplingFields
from perilune.serve.constraints import read_constraint
from perilune.serve.fields import check_extra, check_model, sampling_of
from perilune.serve.http import HttpRequest, Reply, Route, StreamReply, sse
from perilune.serve.request import TextRequest, left_out_headers, new_id
from perilune.serve.service import Service
from perilune.serve.stream import AnswerDelta, Completed, Event, collect

DEFAULT_MAX_TOKENS = 16  # OpenAI's
MAX_PROMPTS = 128
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]


class CompletionBody(SamplingFields):
    """`POST /v1/completions`."""

    prompt: (
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    max_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    suffix: str | None = None
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None
    response_format: Object | None = None


async def completions(service: Service, request: HttpRequest) -> Reply | StreamReply:
    """Continue a text."""
    body = request.read(CompletionBody)
    model = check_model(service, body.model)
    check_extra(body, service)
    if body.suffix:
        raise unsupported("suffix", "the model only goes on")
    if body.best_of not in (None, 1, body.n):
        raise unsupported("best_of", "give n")
    if body.max_tokens == 0 and not body.echo:
        raise invalid("max_tokens: 0 makes sense with echo only", "max_tokens")
    if body.stream and body.echo and body.logprobs is not None:
        raise unsupported("stream", "echo with logprobs comes whole")
    sampling = sampling_of(body)
    sampling["max_tokens"] = body.max_tokens or DEFAULT_MAX_TOKENS
    if body.max_tokens == 0:
        sampling["max_tokens"] = 1  # the engine always picks a token; it is not shown
    sampling["logprobs"] = body.logprobs
    if body.echo:
        sampling["prompt_logprobs"] = body.logprobs
    prompts = _prompts(body.prompt)
    id_ = new_id("cmpl-")
    form = {"response_format": body.response_format, **(body.model_extra or {})}
    constraint = read_constraint(form, dialect=service.settings.kimi_strict)
    headers = left_out_headers(constraint.left_out)
    streams: list[AnswerStream] = []
    try:
        for number, prompt in enumerate(prompts):
            asked = TextRequest(
                request_id=id_ if not number else f"{id_}-{number}",
                prompt=prompt,
                sampling=sampling,
                constraint=constraint,
                caller=request.caller,
                cache_salt=body.cache_salt or "",
                priority=body.priority or 0,
            )
            streams.append(await service.open_text(asked))
    except BaseException:
        await _close(streams)
        raise
    writer = _Writer(service, body, id_, model)
    if body.stream:
        return StreamReply(
            writer.frames(streams),
            lambda: next((s.error for s in streams if s.error), None),
            headers,
        )
    try:
        collected = await asyncio.gather(*(collect(stream, stream.n) for stream in streams))
    finally:
        await _close(streams)
    choices: list[dict[str, Any]] = []
    usage = Usage()
    for stream, result in zip(streams, collected, strict=True):
        for answer in result.answers:
            choices.append(writer.choice(len(choices), stream, answer))
        usage += result.usage
    if body.max_tokens == 0:
        usage = Usage(prompt_tokens=usage.prompt_tokens, cached_tokens=usage.cached_tokens)
    return Reply(
        {
            **writer.head,
            "choices": choices,
            "usage": usage_json(usage),
            "timings": timings_json(collected[0].metrics),
        },
        headers=headers,
    )


ROUTES = [Route("POST", "/v1/completions", completions, "Continue a text.", CompletionBody)]


class _Writer:
    """The words of this API for one request."""

    def __init__(self, service: Service, body: CompletionBody, id_: str, model: str) -> None:
        self._tokenizer = service.format.tokenizer
        self._body = body
        self.head = {
            "id": id_,
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": service.fingerprint,
        }

    def choice(self, index: int, stream: AnswerStream, answer: AssembledTurn) -> dict[str, Any]:
        echo, none_wanted = bool(self._body.echo), self._body.max_tokens == 0
        text = "" if none_wanted else answer.content
        scores: list[TokenLogprob | int] = [] if none_wanted else [*answer.scores]
        if echo:
            text = self._tokenizer.decode(stream.prompt) + text
            # Nothing comes before the first token, so it has no probability.
            scores = [*stream.prompt[:1], *stream.prompt_scores, *scores]
        choice: dict[str, Any] = {
            "index": index,
            "text": text,
            "finish_reason": "length" if none_wanted else finish_reason(answer.ending.reason),
            "logprobs": None if self._body.logprobs is None else self._logprobs(scores, 0),
        }
        if self._body.return_token_ids:
            choice["prompt_token_ids"] = stream.prompt
            choice["token_ids"] = [] if none_wanted else list(answer.ending.tokens)
        return choice

    def _logprobs(self, scores: Sequence[TokenLogprob | int], offset: int) -> dict[str, Any]:
        tokens: list[str] = []
        offsets: list[int] = []
        values: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        for score in scores:
            token = score if isinstance(score, int) else score.token
            text = self._text(token)
            tokens.append(text)
            offsets.append(offset)
            offset += len(text)
            if isinstance(score, int):
                values.append(None)
                tops.append(None)
                continue
            values.append(max(score.logprob, -9999.0))
            top = {self._text(other): max(value, -9999.0) for other, value in score.top}
            tops.append(top if self._body.logprobs else {})
        return {
            "tokens": tokens,
            "token_logprobs": values,
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def _text(self, token: int) -> str:
        if token >= self._tokenizer.vocab_size:
            return ""
        data = self._tokenizer.token_bytes(token)
        try:
            return data.decode()
        except UnicodeDecodeError:  # a part of a character, as OpenAI writes it
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    # --- streamed ---

    async def frames(self, streams: Sequence[AnswerStream]) -> AsyncGenerator[bytes, None]:
        """The prompts' answers side by side, as they come."""
        first = [0]
        for stream in streams:
            first.append(first[-1] + stream.n)
        usage = Usage()
        queue: asyncio.Queue[Event | ApiError | None] = asyncio.Queue()
        readers = [
            asyncio.create_task(_read(stream, first[number], queue))
            for number, stream in enumerate(streams)
        ]
        try:
            if self._body.echo:
                for number, stream in enumerate(streams):
                    text = self._tokenizer.decode(stream.prompt)
                    for n in range(stream.n):
                        yield self._frame(first[number] + n, text, None)
            running = len(streams)
            while running:
                item = await queue.get()
                if item is None:
                    running -= 1
                    continue
                if isinstance(item, ApiError):
                    yield sse(item.openai())
                    return
                if isinstance(item, Completed):
                    usage += item.usage
                    continue
                match item.delta:
                    case ContentDelta(text, scores):
                        yield self._frame(item.index, text, scores)
                    case Finished() as finished:
                        yield self._end(item.index, finished)
            options = self._body.stream_options
            if options is not None and options.include_usage:
                yield sse({**self.head, "choices": [], "usage": usage_json(usage)})
            yield DONE
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
            await _close(streams)

    def _frame(self, index: int, text: str, scores: Sequence[TokenLogprob] | None) -> bytes:
        wanted = self._body.logprobs is not None and scores is not None
        choice = {
            "index": index,
            "text": text,
            "finish_reason": None,
            "logprobs": self._logprobs(scores or (), 0) if wanted else None,
        }
        return sse({**self.head, "choices": [choice], "usage": None})

    def _end(self, index: int, finished: Finished) -> bytes:
        choice = {
            "index": index,
            "text": "",
            "finish_reason": finish_reason(finished.reason),
            "logprobs": None,
            "usage": usage_json(finished.usage or Usage()),
        }
        return sse({**self.head, "choices": [choice], "usage": None})


async def _read(
    stream: AnswerStream, first: int, queue: asyncio.Queue[Event | ApiError | None]
) -> None:
    try:
        async with aclosing(stream):
            async for event in stream:
                if isinstance(event, AnswerDelta):
                    event = AnswerDelta(first + event.index, event.delta)
                queue.put_nowait(event)
    except ApiError as error:
        queue.put_nowait(error)
    queue.put_nowait(None)


async def _close(streams: Sequence[AnswerStream]) -> None:
    for stream in streams:
        await stream.aclose()


def _prompts(prompt: Any) -> list[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    return [prompt] if isinstance(prompt[0], int) else list(prompt)
