"""The chat API on the wire: whole replies and frames."""

from __future__ import annotations

import re
from typing import Any

from .scripted import Turn
from .servers import events

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
