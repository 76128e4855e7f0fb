"""A server's life on a real socket: cancellation, pings, drains, a killed engine, slow clients."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from perilune.chat.format import ChatFormat
from perilune.engine.async_engine import AsyncEngine
from perilune.serve.service import Service
from perilune.serve.settings import Settings

from .contract import URL
from .scripted import Scripted, Turn, scripted_engine
from .servers import events, socket_server

ENDLESS = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 20_000}


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


@contextmanager
def slow_server(
    chat_format: ChatFormat, settings: Settings | None = None, step: float = 0.01, **options: Any
) -> Iterator[tuple[str, Service]]:
    """A server whose model speaks without end, a token each `step` seconds."""
    script = Scripted([Turn("x", endless=True)], step_seconds=step)
    box: list[Service] = []
    with socket_server(
        lambda: AsyncEngine(scripted_engine(script, chat_format, **options)),
        settings,
        on_service=box.append,
    ) as url:
        yield url, box[0]


def idle(service: Service) -> bool:
    status = service.engine.status
    return not service.open_requests and status is not None and not status.pages_held


def test_a_client_that_leaves_cancels_its_request(chat_format: ChatFormat) -> None:
    with slow_server(chat_format) as (url, service):
        with httpx.stream("POST", url + URL, json={**ENDLESS, "stream": True}) as reply:
            lines = reply.iter_lines()  # held: httpx closes what nobody holds
            next(lines)
            assert service.open_requests
        assert eventually(lambda: idle(service))
        steps = service.engine.status.steps  # type: ignore[union-attr]
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url + URL, json=ENDLESS, timeout=0.5)  # a plain request
        assert eventually(lambda: idle(service))
        assert service.engine.status.steps < steps + 400  # type: ignore[union-attr]
        text = httpx.get(url + "/metrics").text
        assert 'finished_reason="abort"' in text
        assert 'perilune:num_requests_running{model_name="tiny"} 0.0' in text


def test_a_silent_stream_pings(chat_format: ChatFormat) -> None:
    with slow_server(chat_format, Settings(ping_seconds=0.1), step=0.5) as (url, _):
        body = {**ENDLESS, "stream": True, "max_tokens": 3}
        text = httpx.post(url + URL, json=body, timeout=60).text
        assert text.count(": ping\n\n") >= 3
        assert events(text)[-1] == "[DONE]"


def test_a_slow_body_is_given_up(chat_format: ChatFormat) -> None:
    with slow_server(chat_format, Settings(body_seconds=0.3)) as (url, _):
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
                b"content-type: application/json\r\ncontent-length: 100\r\n\r\n{"
            )
            assert b" 408 " in client.recv(1000).split(b"\r\n")[0]


def test_a_dead_engine_fails_its_streams_in_the_words_of_their_api(tiny_folder: Path) -> None:
    """The process of the engine is killed; clients are told, and the next request is served."""
    box: list[Service] = []

    def make() -> AsyncEngine:
        return AsyncEngine(tiny_folder, isolation="process", cache_tokens=65_536)

    with socket_server(make, on_service=box.append) as url:
        service = box[0]
        body = {**ENDLESS, "ignore_eos": True}
        anthropic = {"model": "tiny", "messages": body["messages"], "max_tokens": 20_000}
        for path, asked, error_line in (
            (URL, body, 'data: {"error":'),
            ("/v1/messages", anthropic, "event: error"),
        ):
            with httpx.stream(
                "POST", url + path, json={**asked, "stream": True}, timeout=60
            ) as reply:
                lines = reply.iter_lines()
                next(lines)
                os.kill(service.engine._core.process_id, signal.SIGKILL)  # type: ignore[attr-defined]
                rest = list(lines)
            assert any(line.startswith(error_line) for line in rest), rest[-5:]
            assert "data: [DONE]" not in rest
            if path == URL:
                error = json.loads(rest[-2].removeprefix("data: "))["error"]
                assert error["type"] == "server_error" and error["code"] == "engine_dead"
                assert "chatcmpl-" in error["message"]  # by name
            assert eventually(lambda: httpx.get(url + "/health").status_code == 200, patience(10))
            assert httpx.post(url + URL, json={**body, "max_tokens": 3}).status_code == 200


# --- the whole program -------------------------------------------------------------------------


@contextmanager
def program(*flags: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`perilune serve` on a free port; yields its process and address when it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "perilune", "serve", "--port", "0", "--json", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read() if process.stderr else ""
        ready = json.loads(line)
        assert ready["event"] == "ready"
        yield process, ready["url"]
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_signal_lets_requests_finish_and_then_fails_the_rest_by_name(tiny_folder: Path) -> None:
    flags = (str(tiny_folder), "--isolation", "thread", "--drain-seconds", f"{patience(3):.0f}")
    with program(*flags) as (process, url):
        body = {**ENDLESS, "ignore_eos": True}

        async def talk() -> tuple[httpx.Response, str]:
            async with httpx.AsyncClient(timeout=60) as client:
                short = asyncio.create_task(
                    client.post(url + URL, json={**body, "max_tokens": 150})
                )
                lines = []
                async with client.stream(
                    "POST", url + URL, json={**body, "max_tokens": 100_000, "stream": True}
                ) as stream:
                    async for line in stream.aiter_lines():
                        lines.append(line)
                        if len(lines) == 3:
                            process.send_signal(signal.SIGTERM)
                return await short, "\n".join(lines)

        short, long = asyncio.run(talk())
        assert short.status_code == 200
        last = events(long)[-1]
        assert "was cut off by a shutdown" in last["error"]["message"]
        assert "chatcmpl-" in last["error"]["message"]
        assert process.wait(30) == 0


@pytest.mark.slow
def test_an_engine_that_stays_dead_ends_the_server(tiny_folder: Path) -> None:
    """Killed whenever it starts, it cannot come back: the server says so and ends."""
    with program(str(tiny_folder)) as (process, _):
        first = engine_of(process.pid)
        end = time.monotonic() + patience(10)
        while process.poll() is None and time.monotonic() < end:
            for child in psutil.Process(process.pid).children():
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            time.sleep(0.05)
        assert process.poll() == 1 and not first.is_running()
        assert process.stderr is not None
        assert "the engine is dead and stays so" in process.stderr.read()


def engine_of(server: int) -> psutil.Process:
    """The engine's process: the elder of the server's children, the younger waits."""
    return min(psutil.Process(server).children(), key=psutil.Process.create_time)


def patience(seconds: float) -> float:
    """So many seconds of a quiet machine; more where others compute as well."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
