"""`/v1/chat/completions`: the handler, the whole reply, and the frames of a stream.

The wire rules of a stream (P0 to P2) are Moonshot's, as a public vendor test suite writes them
down; see docs/api.md.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from perilune.chat.deltas import (
    ContentDelta,
    Finished,
    FinishReason,
    ReasoningDelta,
    ReasoningEnd,
    TokenLogprob,
    ToolCallArguments,
    ToolCallStart,
)
from perilune.chat.media import MediaKind
from perilune.chat.turn import AssembledTurn
from perilune.engine.request import RequestMetrics
from perilune.events import Usage
from perilune.serve.answer_stream import AnswerStream
from perilune.serve.api_error import ApiError
from perilune.serve.chat_request import read_chat
from perilune.serve.chat_schema import ChatCompletionBody
from perilune.serve.fields import check_model
from perilune.serve.http import HttpRequest, Reply, Route, StreamReply, sse
from perilune.serve.request import left_out_headers, new_id
from perilune.serve.service import Service
from perilune.serve.stream import Completed, Event, collect
from perilune.serve.thinking_switches import shows_thinking

DONE = b"data: [DONE]\n\n"


class ControlBody(BaseModel):
    """`POST /v1/chat/completions/control`."""

    id: Annotated[str, Field(max_length=128)]
    action: Literal["reasoning_end"]


async def chat_completions(service: Service, request: HttpRequest) -> Reply | StreamReply:
    """Answer a conversation, whole or as a stream."""
    body = request.read(ChatCompletionBody)
    model = check_model(service, body.model)
    asked = read_chat(body, service, request.caller, new_id("chatcmpl-"))
    writer = _Writer(service, body, asked.request_id, model)
    stream = await service.open(asked)
    headers = left_out_headers(asked.left_out)
    if body.stream:
        return StreamReply(writer.frames(stream), lambda: stream.error, headers)
    async with aclosing(stream):
        collected = await collect(stream, stream.n)
    choices = [writer.choice(index, answer) for index, answer in enumerate(collected.answers)]
    reply: dict[str, Any] = {
        "id": asked.request_id,
        "object": "chat.completion",
        "created": writer.created,
        "model": model,
        "choices": choices,
        "usage": usage_json(collected.usage, stream.media_tokens),
        "system_fingerprint": service.fingerprint,
        "service_tier": "default",
        "timings": timings_json(collected.metrics),
    }
    if body.metadata is not None:
        reply["metadata"] = body.metadata
    if body.return_token_ids:
        reply["prompt_token_ids"] = stream.prompt
    return Reply(reply, headers=headers)


async def input_tokens(service: Service, request: HttpRequest) -> Reply:
    """How many tokens the prompt of this conversation has."""
    body = request.read(ChatCompletionBody)
    check_model(service, body.model)
    asked = read_chat(body, service, request.caller, new_id("count-"))
    return Reply({"object": "response.input_tokens", "input_tokens": await service.count(asked)})


async def control(service: Service, request: HttpRequest) -> Reply:
    """End the thinking of a chat completion that is under way; its id is in every frame."""
    body = request.read(ControlBody)
    if not service.end_thinking(body.id, request.caller):
        raise ApiError(404, f"no request {body.id!r} is under way", param="id", code="not_found")
    return Reply({"id": body.id, "action": body.action, "success": True})


ROUTES = [
    Route("POST", "/v1/chat/completions", chat_completions, "Answer a conversation.",
          ChatCompletionBody),
    Route("POST", "/v1/chat/completions/input_tokens", input_tokens,
          "Count the tokens of a conversation.", ChatCompletionBody),
    Route("POST", "/v1/chat/completions/control", control,
          "End the thinking of a request under way.", ControlBody),
]  # fmt: skip


class _Writer:
    """The words of this API for one request."""

    def __init__(self, service: Service, body: ChatCompletionBody, id_: str, model: str) -> None:
        self.created = int(time.time())
        self._tokenizer = service.format.tokenizer
        self._head = {
            "id": id_,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": model,
            "system_fingerprint": service.fingerprint,
        }
        self._alias = service.settings.reasoning_alias
        self._show_reasoning = shows_thinking(body)
        self._logprobs = bool(body.logprobs)
        options = body.stream_options
        self._final_usage = options is not None and bool(options.include_usage)
        self._token_ids = bool(body.return_token_ids)
        self._media: Mapping[MediaKind, int] = {}

    # --- whole ---

    def choice(self, index: int, answer: AssembledTurn) -> dict[str, Any]:
        calls = answer.complete_calls
        message: dict[str, Any] = {
            "role": "assistant",
            "content": answer.content or (None if calls else ""),
            "refusal": None,
        }
        if (reasoning := answer.reasoning) and self._show_reasoning:
            message["reasoning_content"] = reasoning
            if self._alias:
                message["reasoning"] = reasoning
        if calls:
            message["tool_calls"] = [
                {
                    "id": client_call_id(call.id, call.name, number),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for number, call in enumerate(calls)
            ]
        choice = {
            "index": index,
            "message": message,
            "finish_reason": finish_reason(answer.ending.reason),
            "logprobs": self.logprobs(answer.scores) if self._logprobs else None,
        }
        if self._token_ids:
            choice["token_ids"] = list(answer.ending.tokens)
        return choice

    def logprobs(self, scores: Sequence[TokenLogprob]) -> dict[str, Any]:
        return {"content": [self._score(score) for score in scores], "refusal": None}

    def _score(self, score: TokenLogprob) -> dict[str, Any]:
        return {
            **self._token(score.token, score.logprob),
            "top_logprobs": [self._token(token, value) for token, value in score.top],
        }

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        data = self._tokenizer.token_bytes(token) if token < self._tokenizer.vocab_size else b""
        return {
            "token": data.decode("utf-8", "replace"),
            "logprob": max(logprob, -9999.0),
            "bytes": list(data),
        }

    # --- streamed ---

    async def frames(self, stream: AnswerStream) -> AsyncGenerator[bytes, None]:
        self._media = stream.media_tokens
        async with aclosing(stream):
            try:
                for index in range(stream.n):
                    yield self._frame(index, {"role": "assistant", "content": ""})
                frames: list[bytes] = []
                async for event in stream:
                    frames += self._event(event)
                    if frames and not stream.more_is_here:
                        yield b"".join(frames)
                        frames.clear()
            except ApiError as error:
                yield sse(error.openai())  # and no [DONE]: the stream is broken
                return
            yield DONE

    def _event(self, event: Event) -> list[bytes]:
        if isinstance(event, Completed):
            return [self._usage(event.usage, event.metrics)] if self._final_usage else []
        index = event.index
        match event.delta:
            case ContentDelta(text, scores):
                logprobs = self.logprobs(scores) if self._logprobs else None
                return [self._frame(index, {"content": text}, logprobs=logprobs)]
            case ReasoningDelta(text) if self._show_reasoning:
                return [self._frame(index, self._reasoning(text))]
            case ReasoningEnd() if self._show_reasoning:
                return [self._frame(index, self._reasoning(""))]
            case ToolCallStart(call, call_id, name):
                function = {"name": name, "arguments": ""}
                started = {
                    "index": call,
                    "id": client_call_id(call_id, name, call),
                    "type": "function",
                    "function": function,
                }
                return [self._frame(index, {"tool_calls": [started]})]
            case ToolCallArguments(call, text):
                piece = {"index": call, "function": {"arguments": text}}
                return [self._frame(index, {"tool_calls": [piece]})]
            case Finished() as finished:
                return [self._end(index, finished)]
        return []

    def _reasoning(self, text: str) -> dict[str, Any]:
        delta = {"reasoning_content": text}
        if self._alias:
            delta["reasoning"] = text
        return delta

    def _frame(self, index: int, delta: dict[str, Any], *, logprobs: Any = None) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": None, "logprobs": logprobs}
        return sse({**self._head, "choices": [choice], "usage": None})

    def _end(self, index: int, finished: Finished) -> bytes:
        choice: dict[str, Any] = {
            "index": index,
            "delta": {},
            "finish_reason": finish_reason(finished.reason),
            "logprobs": None,
            "usage": usage_json(finished.usage or Usage(), self._media),
        }
        if self._token_ids:
            choice["token_ids"] = list(finished.tokens)
        return sse({**self._head, "choices": [choice], "usage": None})

    def _usage(self, usage: Usage, metrics: RequestMetrics) -> bytes:
        return sse(
            {
                **self._head,
                "choices": [],
                "usage": usage_json(usage, self._media),
                "timings": timings_json(metrics),
            }
        )


def finish_reason(reason: FinishReason) -> str:
    return reason.value


def client_call_id(call_id: str, name: str, call: int) -> str:
    """`NAME_INDEX`, with K2's index, which counts over the whole conversation."""
    index = call_id.rpartition(":")[2]
    return f"{name}_{index if index.isdecimal() else call}"


def usage_json(
    usage: Usage, media: Mapping[MediaKind, int] = MappingProxyType({})
) -> dict[str, Any]:
    """`media`: how many of the prompt's tokens are pictures', and how many clips'."""
    pictures, clips = media.get("image", 0), media.get("video", 0)
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "cached_tokens": usage.cached_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "text_tokens": usage.prompt_tokens - pictures - clips,
            "image_tokens": pictures,
            "video_tokens": clips,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "text_tokens": usage.completion_tokens - usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def timings_json(metrics: RequestMetrics) -> dict[str, Any]:
    """llama.cpp's `timings`: what a page needs to show speed."""
    prompt = metrics.prompt_tokens - metrics.cached_tokens
    prefill, decode = metrics.prefill_seconds, metrics.decode_seconds
    return {
        "cache_n": metrics.cached_tokens,
        "prompt_n": prompt,
        "prompt_ms": _milliseconds(prefill),
        "prompt_per_second": _rate(prompt, prefill),
        "predicted_n": metrics.output_tokens,
        "predicted_ms": _milliseconds(decode),
        "predicted_per_second": _rate(metrics.output_tokens, decode),
    }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _rate(tokens: int, seconds: float | None) -> float | None:
    return round(tokens / seconds, 3) if seconds else None
