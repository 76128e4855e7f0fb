"""Random bodies for every route: each is answered in its API's words, and the server stays alive.

500 bodies in the normal suite, 100,000 in the slow one.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from perilune.engine.async_engine import AsyncEngine
from perilune.serve.settings import Settings

from ..scripted import Scripted, Turn, scripted_engine
from ..seeing import Eyes
from ..servers import asgi_client, make_service
from .fuzz import requests

ANSWERS = {200, 400, 404, 413, 415, 422, 429}
CHAT = "/v1/chat/completions"


class Victim:
    """A server in this process and a loop of its own, so that hypothesis can call it."""

    def __init__(self, chat_format: Any, folder: Path) -> None:
        self._eyes = Eyes(folder)
        self.statuses: Counter[int] = Counter()
        self._runner = asyncio.Runner()
        self._chat_format = chat_format
        self._runner.run(self._start())

    async def _start(self) -> None:
        script = Scripted([Turn("Hello there.", reasoning="Hm.")])
        engine = AsyncEngine(
            scripted_engine(
                script, self._chat_format, max_context=4096, cache_tokens=16_384, eyes=self._eyes
            )
        )
        await engine.start()
        self._engine = engine
        self.service = make_service(engine, Settings(max_output_tokens=8), max_context=4096)
        self._context = asgi_client(self.service)
        self._client = await self._context.__aenter__()

    def post(self, path: str, data: bytes) -> httpx.Response:
        answer = self.request(
            "POST", path, content=data, headers={"content-type": "application/json"}
        )
        self.statuses[answer.status_code] += 1
        return answer

    def request(self, method: str, url: str, **more: Any) -> httpx.Response:
        """Raises TimeoutError for a request that hangs."""
        return self._runner.run(asyncio.wait_for(self._client.request(method, url, **more), 60))

    def close(self) -> None:
        async def end() -> None:
            await self._context.__aexit__(None, None, None)
            await self._engine.close()

        self._runner.run(end())
        self._runner.close()


@pytest.fixture
def victim(chat_format: Any, tiny_folder: Path) -> Iterator[Victim]:
    victim = Victim(chat_format, tiny_folder)
    yield victim
    victim.close()


def check(path: str, answer: httpx.Response) -> None:
    assert answer.status_code in ANSWERS, (answer.status_code, answer.text[:300])
    kind = answer.headers["content-type"].partition(";")[0]
    if kind == "text/event-stream":
        assert answer.status_code == 200
        for block in answer.text.split("\n\n")[:-1]:
            data = block.rpartition("data: ")[2]
            assert data == "[DONE]" or isinstance(json.loads(data), dict)
        return
    assert kind == "application/json"
    body = answer.json()
    if answer.status_code == 200:
        assert isinstance(body, dict) and "error" not in (body.get("type"), *body)[:1]
        return
    error = body["error"]
    assert error["message"] and error["type"]
    assert "Traceback" not in answer.text and ".py" not in error["message"]
    assert ("param" in error) == (not path.startswith("/v1/messages"))


def fuzz(victim: Victim, examples: int) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(requests())
    def one(request: tuple[str, bytes]) -> None:
        path, data = request
        check(path, victim.post(path, data))

    one()
    good = victim.post(CHAT, b'{"messages": [{"role": "user", "content": "x"}]}')
    assert good.json()["choices"][0]["message"]["content"]
    assert victim.service.open_answers == 0
    status = victim.service.engine.status
    assert status is not None and status.running == 0 and status.pages_held == 0
    # Without both kinds of answers the bodies would be too wild, or too tame, to find anything.
    total = sum(victim.statuses.values())
    assert total > examples * 0.9
    assert victim.statuses[200] > total * 0.02 and victim.statuses[400] > total * 0.2


def test_500_bodies(victim: Victim) -> None:
    fuzz(victim, 500)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_100_000_bodies(victim: Victim) -> None:
    fuzz(victim, 100_000)
