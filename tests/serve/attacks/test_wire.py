"""The connection itself: slow, large, broken and abandoned requests, on a real socket."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn

from perilune.engine.async_engine import AsyncEngine
from perilune.serve import server as server_module
from perilune.serve.settings import Settings

from ..scripted import Scripted, Turn, scripted_engine
from ..servers import socket_server

BODY = json.dumps({"messages": [{"role": "user", "content": "x"}]}).encode()


@pytest.fixture(scope="module")
def address(chat_format: Any) -> Iterator[tuple[str, int]]:
    """A scripted server with the protocol of `perilune serve` and short patience."""
    patch = pytest.MonkeyPatch()
    patch.setattr(server_module, "HEADER_SECONDS", 1.0)
    config = uvicorn.Config

    def timed(app: Any, **options: Any) -> uvicorn.Config:
        return config(app, http=server_module.TimedProtocol, h11_max_incomplete_event_size=65536,
                      **options)  # fmt: skip

    patch.setattr(uvicorn, "Config", timed)
    settings = Settings(body_seconds=1.0, max_body_bytes=1 << 20)
    with socket_server(
        lambda: AsyncEngine(scripted_engine(Scripted([Turn("Hi")]), chat_format)), settings
    ) as url:
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        yield parts.hostname, parts.port
    patch.undo()


def talk(address: tuple[str, int], data: bytes, seconds: float = 10.0) -> bytes:
    """Send bytes and read until the server closes or is silent."""
    with socket.create_connection(address, timeout=seconds) as connection:
        with suppress(OSError):
            connection.sendall(data)
        found = b""
        try:
            while piece := connection.recv(65536):
                found += piece
        except (TimeoutError, ConnectionResetError):
            pass
        return found


def head(extra: bytes = b"", length: int | None = None) -> bytes:
    size = len(BODY) if length is None else length
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
        b"content-type: application/json\r\ncontent-length: " + str(size).encode() + b"\r\n"
        + extra + b"\r\n"
    )  # fmt: skip


def alive(address: tuple[str, int]) -> None:
    found = talk(address, head() + BODY)
    assert found.startswith(b"HTTP/1.1 200"), found[:200]


def test_a_whole_request_is_answered(address: tuple[str, int]) -> None:
    alive(address)


def test_headers_that_do_not_come_are_given_up(address: tuple[str, int]) -> None:
    """Slow loris: many connections that never finish their first line."""
    connections = [socket.create_connection(address, timeout=10) for _ in range(50)]
    started = time.monotonic()
    for connection in connections:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nx-a: ")
    alive(address)
    for connection in connections:
        rest = connection.recv(65536)
        assert rest == b"" or rest.startswith(b"HTTP/1.1 4")
        connection.close()
    assert time.monotonic() - started < 30


def test_headers_that_drip_do_not_buy_time(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n")
        closed = False
        for number in range(100):
            try:
                connection.sendall(f"x-{number}: 1\r\n".encode())
                time.sleep(0.1)
            except OSError:
                closed = True
                break
        assert closed, "headers were taken for ten seconds"


def test_a_body_that_does_not_come_is_408(address: tuple[str, int]) -> None:
    found = talk(address, head() + BODY[:5])
    assert found.startswith(b"HTTP/1.1 408"), found[:200]
    alive(address)


@pytest.mark.parametrize(
    "extra",
    [
        b"x-big: " + b"a" * 200_000 + b"\r\n",  # CVE-2025-48956
        b"".join(b"x-%d: %s\r\n" % (i, b"a" * 500) for i in range(300)),
        b"authorization: Bearer " + b"a" * 70_000 + b"\r\n",
    ],
    ids=["one", "many", "key"],
)
def test_large_headers_are_refused(address: tuple[str, int], extra: bytes) -> None:
    found = talk(address, head(extra) + BODY)
    assert found == b"" or found.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431")), found[:100]
    alive(address)


def test_a_claimed_length_above_the_limit_is_refused_before_the_body(
    address: tuple[str, int],
) -> None:
    for length in (2 << 20, 10**18, 10**40):
        found = talk(address, head(length=length) + BODY)
        assert found.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400")), found[:100]
    alive(address)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS to a plain port
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"\x00" * 100,
        b"GET /\xff\xfe HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
        b"GET http://169.254.169.254/ HTTP/1.1\r\nhost: 169.254.169.254\r\n\r\n",
        b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nhost: 169.254.169.254\r\n\r\n",
        head(b"transfer-encoding: chunked\r\n") + b"0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n",
        head(b"content-length: 3\r\n") + BODY,
        b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: evil.example\r\n\r\n",
        b"GET /health HTTP/1.1\r\n host: 127.0.0.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
    ],
    ids=["tls", "http2", "http0.9", "version", "zeros", "path", "proxy", "connect", "smuggle-te",
         "smuggle-cl", "two-hosts", "folded", "no-host"],
)  # fmt: skip
def test_broken_http_is_refused(address: tuple[str, int], data: bytes) -> None:
    found = talk(address, data, seconds=3)
    assert b" 200 " not in found.split(b"\r\n")[0], found[:200]
    assert found.count(b"HTTP/1.1 200") == 0
    alive(address)


def test_a_gzip_bomb_is_not_opened(address: tuple[str, int]) -> None:
    import gzip

    bomb = gzip.compress(b"[" * 50_000_000)
    found = talk(address, head(b"content-encoding: gzip\r\n", len(bomb)) + bomb)
    assert found.startswith(b"HTTP/1.1 415"), found[:100]
    alive(address)


def test_clients_that_leave_at_once_leave_nothing(address: tuple[str, int]) -> None:
    def leave() -> None:
        with socket.create_connection(address, timeout=5) as connection:
            connection.sendall(head() + BODY)

    threads = [threading.Thread(target=leave) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    deadline = time.monotonic() + 20
    connection = http.client.HTTPConnection(*address, timeout=10)
    while True:
        connection.request("GET", "/load")
        load = json.loads(connection.getresponse().read())["server_load"]
        if load == 0 or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    assert load == 0
    alive(address)
