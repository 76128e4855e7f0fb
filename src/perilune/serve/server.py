"""The life of a server: listen, load, serve, drain, end. Nothing here hangs and nothing is silent.

The socket is bound first and the model loaded behind it, so `/health` says 503 until it is there.
When the engine cannot be kept alive the server ends with status 1; a signal lets what is under way
finish for `drain_seconds` and then fails it by name.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TextIO

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from perilune.engine.async_engine import EngineState
from perilune.errors import PeriluneError, UsageError
from perilune.serve.app import build_app
from perilune.serve.guard import Guard
from perilune.serve.load_lines import CLEAR, LoadLines
from perilune.serve.service import Service

log = logging.getLogger("perilune.serve")
HEADER_SECONDS = 15.0  # for the headers of a request to arrive (slow loris)
WATCH_SECONDS = 0.5  # between two looks at the engine
# Longer than clients keep a connection to use again (httpx: 5): who closes first decides whether a
# request finds a closed port.
KEEP_ALIVE_SECONDS = 75
MAX_CONNECTIONS = 2048


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises UsageError, saying what is in the way."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            remedy="Another server may be there; give --port N, or --port 0 for a free one",
        ) from None
    bound.listen(1024)
    bound.setblocking(False)
    return bound


def address(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(service: Service, bound: socket.socket, on_ready: Callable[[], None]) -> int:
    """Serve until a signal or the death of the engine; the exit status.

    Raises PeriluneError when the model cannot be loaded.
    """
    config = uvicorn.Config(
        build_app(service),
        http=TimedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(service.settings.drain_seconds) + 10,
        h11_max_incomplete_event_size=64 * 1024,
    )
    server = _Server(config, service)
    running = asyncio.create_task(server.serve(sockets=[bound]))
    loading = asyncio.create_task(service.engine.start())
    lines = LoadLines(service.model_name, _say_loading, plain=service.settings.json)
    watching = asyncio.create_task(_watch(service, server, loading, lines))
    try:
        await asyncio.wait({running, loading}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            lines.close()
            loading.result()
            on_ready()
        await running
        return watching.result() if watching.done() else server.status
    finally:
        server.should_exit = True
        watching.cancel()
        await asyncio.gather(running, watching, return_exceptions=True)
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        await service.engine.close()


async def _watch(
    service: Service, server: _Server, first: asyncio.Task[None], lines: LoadLines
) -> int:
    """Show how loads go on; end the server, with status 1, when its engine stays dead.

    Deaths are told by the engine itself: it may be back before anybody looks. `first`: its first
    start, whose failure is not ours to tell.
    """
    try:
        while not server.should_exit:
            lines.show(service.loading)
            if first.done() and service.engine.state is EngineState.DEAD:
                log.error("the engine is dead and stays so; the server ends")
                server.should_exit = True
                return 1
            await asyncio.sleep(WATCH_SECONDS)
    finally:
        lines.close()
    return server.status


def _say_loading(text: str, fields: dict[str, Any]) -> None:
    log.info("%s", text, extra={"event": "loading", **fields})


class _Server(uvicorn.Server):
    """uvicorn that drains by our rules and keeps the exit status in our hands."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self.status = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: drain. A second one: do not wait."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
        self.status = 130 if sig == signal.SIGINT else 0

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        service = self._service
        service.draining = True
        waiting = service.open_requests
        if waiting:
            log.warning("draining %d requests: %s", len(waiting), ", ".join(waiting[:20]))
        seconds = 0.0 if self.force_exit else service.settings.drain_seconds
        closing = asyncio.create_task(service.engine.close(drain_seconds=seconds))
        await super().shutdown(sockets)
        await closing


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which gives up on a client whose headers do not come."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._expect_headers()
        else:
            self._cancel_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            if self.conn.trailing_data[0]:  # not a connection that is kept for later
                self._note(408)
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP is refused below all routes; it is seen in the log all the same."""
        self._note(getattr(sys.exc_info()[1], "error_status_hint", 400))
        super().send_400_response(msg)

    def _note(self, status: int) -> None:
        guard = self.config.app
        if isinstance(guard, Guard):
            guard.note_bad_http(status)


# --- the log -------------------------------------------------------------------------------------


FIELDS = (
    "request_id", "caller", "method", "path", "status", "sent", "code", "seconds", "event", "cause",
    "phase", "bytes_done", "bytes_total", "percent", "bytes_per_second", "seconds_left",
)  # fmt: skip


class JsonLines(logging.Formatter):
    """A record as one JSON object; no content of requests ever gets into a record."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        for name in FIELDS:
            if hasattr(record, name):
                line[name] = getattr(record, name)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class PlainLines(logging.Formatter):
    """A record as a line, without characters that could steer a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if hasattr(record, "request_id") and not record.exc_info:
            text += f" ({record.request_id}, {getattr(record, 'caller', None) or 'nobody'})"
        return "".join(
            c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text
        )


class _Handler(logging.StreamHandler[TextIO]):
    """Takes a progress line off the terminal before it writes."""

    def emit(self, record: logging.LogRecord) -> None:
        if self.stream.isatty():
            self.stream.write(CLEAR)
        super().emit(record)


def set_up_log(*, as_json: bool) -> None:
    """Our records and uvicorn's to stderr."""
    handler = _Handler(sys.stderr)
    handler.setFormatter(
        JsonLines() if as_json else PlainLines("%(asctime)s %(message)s", "%H:%M:%S")
    )
    for name, level in (("perilune.serve", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
    # We log what is not HTTP ourselves, with its cause.
    logging.getLogger("uvicorn.error").addFilter(_not_about_http)


def _not_about_http(record: logging.LogRecord) -> bool:
    return record.msg != "Invalid HTTP request received."


__all__ = ["PeriluneError", "TimedProtocol", "address", "listen", "serve", "set_up_log"]
