"""SIGKILL to the engine's process under requests of every API: each is told, in its own words."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from ..test_life import engine_of, patience, program

TOLD_SECONDS = 10.0
BACK_SECONDS = 10.0
MESSAGES = [{"role": "user", "content": "Count."}]
LONG = {"max_tokens": 20_000, "ignore_eos": True}
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, **LONG},
    "/v1/completions": {"prompt": "One", **LONG},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 20_000, "thinking": {"type": "enabled",
                     "budget_tokens": 19_000}},
    "/v1/responses": {"input": "Count.", "max_output_tokens": 20_000, "store": False},
}  # fmt: skip

BROKEN = ("event: error", "event: response.failed", 'data: {"error":')


async def under_way(client: httpx.AsyncClient, count: int) -> None:
    """Wait until so many answers are being made."""
    for _ in range(1200):
        if (await client.get("/load")).json()["server_load"] >= count:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the requests are not under way")


def told(path: str, status: int, text: str, streamed: bool) -> bool:
    """Whether an answer says, in the words of its API, that the request failed."""
    if not streamed or status != 200:  # refused while the engine starts anew
        body = json.loads(text)
        anthropic = path == "/v1/messages"
        return status >= 500 and (body.get("type") == "error") == anthropic and "error" in body
    if path == "/v1/messages":
        return "event: error" in text and "message_stop" not in text
    if path == "/v1/responses":
        return "event: response.failed" in text or "event: error" in text
    return 'data: {"error":' in text and "[DONE]" not in text


def test_every_client_is_told_and_the_server_comes_back(tiny_folder: Path) -> None:
    async def run(process: Any, url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            killed = asyncio.Event()

            async def ask(path: str, streamed: bool) -> tuple[str, bool, int, str] | None:
                """The first answer that is not a success; random weights may end others early.

                None: the last one had ended before the kill, and the next would find a new engine.
                """
                body = REQUESTS[path] | {"model": "tiny", "stream": streamed}
                while not killed.is_set():
                    async with client.stream("POST", path, json=body) as answer:
                        text = (await answer.aread()).decode()
                    broken = streamed and any(mark in text[-2000:] for mark in BROKEN)
                    if answer.status_code != 200 or broken:
                        return path, streamed, answer.status_code, text
                return None

            tasks = [
                asyncio.create_task(ask(path, streamed))
                for path in REQUESTS
                for streamed in (True, False)
            ]
            await under_way(client, len(tasks) // 2)
            refused = [task.result() for task in tasks if task.done()]
            assert refused == []
            killed.set()
            engine_of(process.pid).kill()
            answers = await asyncio.wait_for(asyncio.gather(*tasks), patience(TOLD_SECONDS))
            failed = [answer for answer in answers if answer is not None]
            assert len(failed) >= len(tasks) // 2
            for path, streamed, status, text in failed:
                assert told(path, status, text, streamed), (path, streamed, status, text[-300:])
            deadline = time.monotonic() + patience(BACK_SECONDS)
            short = REQUESTS["/v1/chat/completions"] | {"max_tokens": 2}
            while (
                answer := await client.post("/v1/chat/completions", json=short)
            ).status_code != 200:
                assert answer.status_code == 503 and "retry-after" in answer.headers
                assert time.monotonic() < deadline and process.poll() is None
                await asyncio.sleep(0.2)
            assert (await client.get("/load")).json()["server_load"] == 0

    # Its log goes into a pipe that nobody reads, and a full pipe would stop it.
    with program(str(tiny_folder), "--no-request-log") as (process, url):
        asyncio.run(run(process, url))


@pytest.mark.slow
def test_a_connection_that_rests_is_kept(tiny_folder: Path) -> None:
    """Longer than clients keep one: else their next request finds a closed port."""
    with program(str(tiny_folder), "--isolation", "thread") as (_, url):
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=10)
        for pause in (0, 7):
            time.sleep(pause)
            connection.request("GET", "/health")
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
