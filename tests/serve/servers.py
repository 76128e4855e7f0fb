"""Servers for tests: in this process over ASGI, or on a real socket in a thread.

async with asgi_client(service) as client: await client.post("/v1/chat/completions", json=...)
with socket_server(lambda: make_engine()) as url: openai.OpenAI(base_url=f"{url}/v1", ...)
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import uvicorn

from perilune.engine.async_engine import AsyncEngine
from perilune.serve.app import build_app
from perilune.serve.keys import Keys
from perilune.serve.service import Service
from perilune.serve.settings import Settings

MODEL = "tiny"


def make_service(
    engine: Any, settings: Settings | None = None, *, max_context: int = 131_072
) -> Service:
    return Service(engine, settings, model_name=MODEL, max_context=max_context)


@asynccontextmanager
async def asgi_client(
    service: Service, keys: Keys | None = None, **options: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the whole application, guard included, without a socket."""
    transport = httpx.ASGITransport(build_app(service, keys))
    options.setdefault("base_url", "http://127.0.0.1:8000")
    async with httpx.AsyncClient(transport=transport, timeout=120, **options) as client:
        yield client


@contextmanager
def socket_server(
    make_engine: Callable[[], AsyncEngine],
    settings: Settings | None = None,
    *,
    max_context: int = 131_072,
    on_service: Callable[[Service], None] | None = None,
) -> Iterator[str]:
    """The server in a thread with its own event loop, on a free port; yields its address."""
    ready = threading.Event()
    box: dict[str, Any] = {}

    async def serve() -> None:
        engine = make_engine()
        await engine.start()
        service = make_service(engine, settings, max_context=max_context)
        if on_service is not None:
            on_service(service)
        config = uvicorn.Config(
            build_app(service), host="127.0.0.1", port=0, log_level="warning", lifespan="off"
        )
        server = box["server"] = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        task = asyncio.create_task(server.serve())
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        box["port"] = server.servers[0].sockets[0].getsockname()[1]
        ready.set()
        await task
        await engine.close()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            box["error"] = error
            raise
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="test-server", daemon=True)
    thread.start()
    assert ready.wait(60), "the server did not start"
    if "error" in box:
        raise box["error"]
    try:
        yield f"http://127.0.0.1:{box['port']}"
    finally:
        box["server"].should_exit = True
        thread.join(30)


def events(text: str) -> list[Any]:
    """The data of server-sent events; `[DONE]` as that text."""
    found: list[Any] = []
    for line in text.splitlines():
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
    return found
