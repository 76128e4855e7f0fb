"""The chat API on the wire: whole replies and frames."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from perilune.chat.format import ChatFormat
from perilune.engine.async_engine import AsyncEngine
from perilune.serve.api_error import ApiError
from perilune.serve.chat_completions import chat_completions
from perilune.serve.http import HttpRequest, Reply, StreamReply

from .scripted import Scripted, Turn, scripted_engine
from .servers import events, make_service

HI = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


async def test_a_whole_answer(scripted: Any) -> None:
    async with scripted(Turn("Grüße, 世界!", reasoning="They greet.")) as client:
        reply = await client.post("/v1/chat/completions", json=HI)
        assert reply.status_code == 200, reply.text
        body = reply.json()
        assert re.fullmatch(r"chatcmpl-[0-9a-f]{24}", body["id"])
        (choice,) = body["choices"]
        assert choice["message"]["content"] == "Grüße, 世界!"
        assert choice["message"]["reasoning_content"] == "They greet."
        assert choice["finish_reason"] == "stop"
        assert "tool_calls" not in choice["message"]


async def test_frames(scripted: Any) -> None:
    async with scripted(Turn("Grüße!", reasoning="They greet.")) as client:
        reply = await client.post("/v1/chat/completions", json={**HI, "stream": True})
        frames = events(reply.text)
        assert frames[-1] == "[DONE]"
        deltas = [frame["choices"][0]["delta"] for frame in frames[:-1]]
        assert deltas[0] == {"role": "assistant", "content": ""}
        assert "".join(d.get("content", "") for d in deltas) == "Grüße!"
        assert "".join(d.get("reasoning_content", "") for d in deltas) == "They greet."


async def test_handlers_need_no_server(chat_format: ChatFormat) -> None:
    """Plain values in, plain values out: no framework, no socket."""
    engine = scripted_engine(Scripted([Turn("Hello!")]), chat_format)
    async with AsyncEngine(engine) as running:
        service = make_service(running)
        body = json.dumps(HI).encode()
        reply = await chat_completions(service, HttpRequest("POST", "/", body=body))
        assert isinstance(reply, Reply)
        assert reply.json["choices"][0]["message"]["content"] == "Hello!"
        body = json.dumps({**HI, "stream": True}).encode()
        streamed = await chat_completions(service, HttpRequest("POST", "/", body=body))
        assert isinstance(streamed, StreamReply)
        assert [frame async for frame in streamed.frames][-1] == b"data: [DONE]\n\n"
        with pytest.raises(ApiError) as error:
            await chat_completions(service, HttpRequest("POST", "/", body=b"{}"))
        assert error.value.status == 400 and error.value.param == "messages"
        assert service.open_requests == []
