"""`/v1/messages` and `/v1/messages/count_tokens`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from perilune.chat.deltas import Finished, FinishReason
from perilune.events import Usage
from perilune.serve.answer_stream import AnswerStream
from perilune.serve.anthropic.events import PING, ApiEvent, MessageEvents, WholeMessage
from perilune.serve.anthropic.request import Asked, read_count_tokens, read_messages
from perilune.serve.anthropic.schema import CountTokensBody, MessagesBody
from perilune.serve.api_error import ApiError
from perilune.serve.fields import check_extra, check_model
from perilune.serve.http import HttpRequest, Reply, Route, StreamReply, sse
from perilune.serve.request import left_out_headers, new_id
from perilune.serve.service import Service
from perilune.serve.stream import Event, of_one_answer

# Known and without effect here: caching, billing and placement at Anthropic, and what only their
# own models do.
KNOWN = frozenset(
    {"betas", "cache_control", "container", "context_management", "diagnostics", "inference_geo",
     "mcp_servers", "service_tier", "speed", "user_profile_id", "workspace_id"}
)  # fmt: skip


async def messages(service: Service, request: HttpRequest) -> Reply | StreamReply:
    """Answer a conversation, whole or as a stream."""
    body = request.read(MessagesBody)
    model = check_model(service, body.model)
    check_extra(body, service, KNOWN)
    asked = read_messages(body, request.caller, new_id("msg_"))
    try:
        stream = await service.open(asked.chat)
    except ApiError as error:
        if error.code == "context_length_exceeded":  # Claude Code compacts when it reads this
            error.message = f"prompt is too long: {error.message}"
        raise
    headers = left_out_headers(asked.chat.left_out)
    events = MessageEvents(
        asked.chat.request_id,
        model,
        stream.prompt_tokens,
        max_context=service.max_context,
        show_thinking=asked.show_thinking,
    )
    if body.stream:
        return StreamReply(
            _frames(stream, events, request.id), lambda: stream.error, headers, _frame(PING)
        )
    whole = WholeMessage()
    for api_event in events.start():
        whole.add(api_event)
    async with aclosing(stream):
        async for event in stream:
            for api_event in _said(events, event, asked):
                whole.add(api_event)
    return Reply(whole.message(cut_call=events.cut_call), headers=headers)


async def count_tokens(service: Service, request: HttpRequest) -> Reply:
    """How many tokens the prompt of a conversation has."""
    body = request.read(CountTokensBody)
    check_model(service, body.model)
    check_extra(body, service, KNOWN | MessagesBody.model_fields.keys())
    asked = read_count_tokens(body, request.caller, new_id("count-"))
    return Reply({"input_tokens": await service.count(asked)})


ROUTES = [
    Route("POST", "/v1/messages", messages, "Answer a conversation (Anthropic).", MessagesBody),
    Route("POST", "/v1/messages/count_tokens", count_tokens,
          "Count the tokens of a conversation (Anthropic).", CountTokensBody),
]  # fmt: skip


def _said(events: MessageEvents, event: Event, asked: Asked) -> list[ApiEvent]:
    """What the client is told of an event; of a request that fills the cache, only its end."""
    said = of_one_answer(event)
    if asked.only_cache:
        if not isinstance(said, Finished):
            return []
        usage = said.usage or Usage()
        kept = Usage(prompt_tokens=usage.prompt_tokens, cached_tokens=usage.cached_tokens)
        said = Finished(FinishReason.LENGTH, kept)
    return list(events.feed(said))


async def _frames(
    stream: AnswerStream, events: MessageEvents, http_id: str
) -> AsyncGenerator[bytes, None]:
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
            yield sse(error.anthropic(http_id), event="error")


def _frame(event: ApiEvent) -> bytes:
    return sse(event, event=event["type"])
