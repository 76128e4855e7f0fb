"""`/v1/responses` and `/v1/responses/input_tokens`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from perilune.chat.deltas import TokenLogprob
from perilune.chat.tokenizer import Tokenizer
from perilune.serve.answer_stream import AnswerStream
from perilune.serve.api_error import ApiError
from perilune.serve.fields import check_extra, check_model
from perilune.serve.http import HttpRequest, Reply, Route, StreamReply, sse
from perilune.serve.request import left_out_headers, new_id
from perilune.serve.responses.events import ApiEvent, ResponseEvents, Scores
from perilune.serve.responses.request import read_responses
from perilune.serve.responses.schema import ResponsesBody
from perilune.serve.service import Service
from perilune.serve.stream import of_one_answer

# Known and without effect here: billing, placement, and what only OpenAI's own tools do.
KNOWN = frozenset(
    {"access_programs", "background_options", "client_metadata", "image",
     "stream_options"}
)  # fmt: skip


async def responses(service: Service, request: HttpRequest) -> Reply | StreamReply:
    """Answer a conversation, whole or as a stream."""
    body = request.read(ResponsesBody)
    model = check_model(service, body.model)
    check_extra(body, service, KNOWN)
    asked = read_responses(body, request.caller, new_id("resp_"))
    stream = await service.open(asked.chat)
    headers = left_out_headers(asked.chat.left_out)
    events = ResponseEvents(
        _response(body, asked.chat.request_id, model, stream),
        carry_reasoning=asked.carry_reasoning,
        scores=_scores(service.format.tokenizer) if asked.logprobs else None,
        namespaces=asked.namespaces,
    )
    if body.stream:
        return StreamReply(_frames(stream, events), lambda: stream.error, headers)
    list(events.start())
    async with aclosing(stream):
        async for event in stream:
            list(events.feed(of_one_answer(event)))
    return Reply(events.response, headers=headers)


async def input_tokens(service: Service, request: HttpRequest) -> Reply:
    """How many tokens the prompt of this input has."""
    body = request.read(ResponsesBody)
    check_model(service, body.model)
    check_extra(body, service, KNOWN)
    asked = read_responses(body, request.caller, new_id("count-"))
    count = await service.count(asked.chat)
    return Reply({"object": "response.input_tokens", "input_tokens": count})


ROUTES = [
    Route("POST", "/v1/responses", responses, "Answer a conversation (Responses API).",
          ResponsesBody),
    Route("POST", "/v1/responses/input_tokens", input_tokens,
          "Count the tokens of an input (Responses API).", ResponsesBody),
]  # fmt: skip


def _response(
    body: ResponsesBody, response_id: str, model: str, stream: AnswerStream
) -> dict[str, Any]:
    """The response before it has an output: what was asked, with the defaults that hold."""
    reasoning, text = body.reasoning, body.text
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "model": model,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {
            "effort": reasoning.effort if reasoning is not None else None,
            "summary": reasoning.summary if reasoning is not None else None,
        },
        "service_tier": "default",
        "store": False,
        "temperature": stream.params.temperature,
        "text": {"format": (text.format if text is not None else None) or {"type": "text"}},
        "tool_choice": "auto" if body.tool_choice is None else body.tool_choice,
        "tools": body.tools or [],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": stream.params.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
    }


async def _frames(stream: AnswerStream, events: ResponseEvents) -> AsyncGenerator[bytes, None]:
    async with aclosing(stream):
        try:
            for api_event in events.start():
                yield _frame(api_event)
            frames: list[bytes] = []
            async for event in stream:
                frames += map(_frame, events.feed(of_one_answer(event)))
                if frames and not stream.more_is_here:
                    yield b"".join(frames)
                    frames.clear()
        except ApiError as error:
            for api_event in events.fail(error):
                yield _frame(api_event)


def _frame(event: ApiEvent) -> bytes:
    return sse(event, event=event["type"])


def _scores(tokenizer: Tokenizer) -> Scores:
    def token(number: int, logprob: float) -> dict[str, Any]:
        data = tokenizer.token_bytes(number) if number < tokenizer.vocab_size else b""
        text = data.decode("utf-8", "replace")
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(data)}

    def scores(given: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
        return [
            {
                **token(score.token, score.logprob),
                "top_logprobs": [token(number, value) for number, value in score.top],
            }
            for score in given
        ]

    return scores
