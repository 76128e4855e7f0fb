"""One streamed request and the moments at which its tokens came."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass(slots=True)
class RequestRecord:
    """Times in seconds of the monotonic clock. `due`: when it should have been sent."""

    due: float
    sent: float
    frames: list[float] = field(default_factory=list)  # arrival of each frame with text
    ended: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    text: str = ""
    error: str | None = None

    @property
    def ttft(self) -> float:
        """To the first token, from when it was due: a late client does not hide a slow server."""
        return self.frames[0] - self.due

    @property
    def gaps(self) -> list[float]:
        """Between frames, which carry a token each unless the server bundles them."""
        return [b - a for a, b in zip(self.frames, self.frames[1:], strict=False)]

    @property
    def per_token(self) -> float | None:
        """Mean time of the tokens after the first."""
        if self.output_tokens < 2:
            return None
        return (self.frames[-1] - self.frames[0]) / (self.output_tokens - 1)


async def stream_once(
    client: httpx.AsyncClient, url: str, body: dict[str, Any], due: float
) -> RequestRecord:
    """Send a chat request and read its stream to the end. Failures are in `error`."""
    record = RequestRecord(due, time.monotonic())
    try:
        async with client.stream("POST", url, json=body) as response:
            if response.status_code != 200:
                await response.aread()
                record.error = f"status {response.status_code}"
            else:
                await _read(response, record)
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
        record.error = type(error).__name__
    record.ended = time.monotonic()
    if record.error is None and not record.frames:
        record.error = "no token"
    return record


async def _read(response: httpx.Response, record: RequestRecord) -> None:
    done = False
    async for line in response.aiter_lines():
        if not line.startswith("data: "):
            continue
        now = time.monotonic()
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            done = True
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            record.error = f"in the stream: {chunk['error'].get('code') or 'error'}"
            return
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            text = delta.get("content") or delta.get("reasoning_content") or ""
            if text or delta.get("tool_calls"):
                record.frames.append(now)
                record.text += text
        usage = chunk.get("usage")
        if usage:
            record.prompt_tokens = usage["prompt_tokens"]
            record.output_tokens = usage["completion_tokens"]
    if not done:
        record.error = "cut off"
