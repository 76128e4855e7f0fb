"""The table of routes on FastAPI, behind the guard. The only file that knows the framework."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from perilune.serve.api_error import ApiError
from perilune.serve.guard import (
    Guard,
    check_exposure,
    read_headers,
    reply,
    send_error,
    speaks_anthropic,
)
from perilune.serve.http import Handler, HttpRequest, Reply, Route, StreamReply, sse
from perilune.serve.keys import Keys
from perilune.serve.routes import all_routes
from perilune.serve.service import Service

log = logging.getLogger("perilune.serve")


def build_app(
    service: Service, keys: Keys | None = None, routes: Sequence[Route] | None = None
) -> Guard:
    """The whole server as an ASGI application. Raises UsageError for a public address without a
    key.
    """
    keys = Keys.from_settings(service.settings) if keys is None else keys
    check_exposure(service.settings, keys)
    routes = all_routes() if routes is None else routes
    app = FastAPI(title="Perilune", docs_url=None, redoc_url=None, openapi_url=None)
    for route in routes:
        app.add_api_route(
            route.path,
            _endpoint(service, route.handler),
            methods=[route.method],
            summary=route.summary,
            include_in_schema=route.in_schema,
            openapi_extra=None if route.body is None else _body_schema(route.body.__name__),
            response_model=None,
            name=route.handler.__name__,
        )
    app.openapi_url = "/openapi.json"
    app.add_route("/openapi.json", _openapi(app, routes), methods=["GET"], include_in_schema=False)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _crash)
    public = frozenset((route.method, route.path) for route in routes if route.public)
    return Guard(app, settings=service.settings, keys=keys, metrics=service.metrics, public=public)


def _endpoint(service: Service, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        headers = read_headers(request.scope)
        work = None
        try:
            body = await _read_body(request, headers, service)
            plain = HttpRequest(
                method=request.method,
                path=request.url.path,
                headers=headers,
                query=dict(request.query_params),
                path_params={k: str(v) for k, v in request.path_params.items()},
                body=body,
                caller=request.state.caller,
                id=request.state.request_id,
            )
            work = asyncio.ensure_future(handler(service, plain))
            answer = await _unless_disconnected(work, request.receive)
        except ApiError as error:
            return ErrorResponse(error, headers)
        if answer is None:
            request.state.left = True
            return Response(status_code=499)  # nobody reads it
        if isinstance(answer, StreamReply):
            return SseResponse(answer, service.settings.ping_seconds)
        return PlainResponse(answer)

    return endpoint


async def _read_body(request: Request, headers: dict[str, str], service: Service) -> bytes:
    if request.method not in ("POST", "PUT", "PATCH"):
        return b""
    if headers.get("content-encoding", "identity") != "identity":
        raise ApiError(415, "compressed bodies are not supported", code="unsupported_encoding")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            415, "the body must come as content-type: application/json", code="unsupported_media"
        )
    most = service.settings.max_body_bytes
    length = headers.get("content-length", "")
    too_large = ApiError(413, f"the body is larger than {most} bytes", code="body_too_large")
    if length.isascii() and length.isdecimal() and int(length[:20]) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(service.settings.body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise ApiError(408, "the body took too long to arrive", code="timeout") from None
    return bytes(body)


async def _unless_disconnected(
    work: asyncio.Future[Reply | StreamReply], receive: Receive
) -> Reply | StreamReply | None:
    """The handler's reply; None when the client has gone, and then the handler is cancelled."""
    gone = asyncio.ensure_future(_disconnect(receive))
    either: set[asyncio.Future[Any]] = {work, gone}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        await _cancel(work)
        return None
    finally:
        await _cancel(gone)
        if not work.done():  # the server itself is being cancelled
            await _cancel(work)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(task: asyncio.Future[Any]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task


class PlainResponse(Response):
    """A `Reply` on the wire."""

    def __init__(self, answer: Reply) -> None:
        self._answer = answer
        self.background = None
        self.status_code = answer.status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._answer
        await reply(send, answer.status, answer.encoded(), answer.headers, answer.media_type)


class ErrorResponse(Response):
    """An `ApiError` in the shape of the API that was called."""

    def __init__(self, error: ApiError, headers: dict[str, str]) -> None:
        self._error = error
        self._asked = headers
        self.background = None
        self.status_code = error.status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = scope["state"]["request_id"]
        scope["state"]["error"] = self._error  # for the log
        await send_error(send, self._error, scope["path"], self._asked, request_id)


class SseResponse(Response):
    """A `StreamReply` on the wire: frames as they come, a ping when it is silent for long.

    When the client goes, the frames are closed, and with them what is under way in the engine. How
    it ended is left in the scope's state for the log, which must not call a broken stream a 200.
    """

    media_type = "text/event-stream"

    def __init__(self, answer: StreamReply, ping_seconds: float) -> None:
        self._answer = answer
        self._ping_seconds = ping_seconds
        self.background = None
        self.status_code = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        frames = self._answer.frames
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache, no-store",
            "x-accel-buffering": "no",
            "x-content-type-options": "nosniff",
            **self._answer.headers,
        }
        sent = time.monotonic()

        async def put(data: bytes) -> None:
            nonlocal sent
            sent = time.monotonic()
            await send({"type": "http.response.body", "body": data, "more_body": True})

        async def pump() -> None:
            async for frame in frames:
                await put(frame)
            await send({"type": "http.response.body", "body": b""})

        async def ping() -> None:
            while True:
                await asyncio.sleep(max(0.01, sent + self._ping_seconds - time.monotonic()))
                if time.monotonic() - sent >= self._ping_seconds:
                    await put(self._answer.ping)

        tasks: list[asyncio.Future[None]] = []
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [(k.encode(), v.encode("latin-1")) for k, v in headers.items()],
                }
            )
            work, gone = asyncio.ensure_future(pump()), asyncio.ensure_future(_disconnect(receive))
            tasks += [work, gone, asyncio.ensure_future(ping())]
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                scope["state"]["error"] = self._answer.broken()
            else:
                scope["state"]["left"] = True
        except OSError:
            scope["state"]["left"] = True  # in the middle of a write
        except Exception as error:
            await self._fail(scope, send, error)
        finally:
            for task in tasks:
                await _cancel(task)
            await frames.aclose()

    async def _fail(self, scope: Scope, send: Send, error: Exception) -> None:
        """A defect of ours in the middle: the client gets an error frame, the log the rest."""
        request_id = scope["state"]["request_id"]
        log.error("a stream failed", exc_info=error, extra={"request_id": request_id})
        failure = ApiError(500, "the server failed; its log says how", code="internal_error")
        scope["state"]["error"] = failure
        anthropic = speaks_anthropic(scope["path"], read_headers(scope))
        body = failure.anthropic(request_id) if anthropic else failure.openai()
        frame = sse(body, event="error" if anthropic else None)
        with suppress(OSError):
            await send({"type": "http.response.body", "body": frame})


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown routes and methods."""
    status = getattr(error, "status_code", 500)
    path = request.url.path[:200]
    message = f"there is no {request.method} {path} here"
    headers = {k: v for k, v in (getattr(error, "headers", None) or {}).items() if k == "Allow"}
    code = "method_not_allowed" if status == 405 else "not_found"
    answer = ApiError(status, message, code=code, headers=headers)
    return ErrorResponse(answer, read_headers(request.scope))


async def _crash(request: Request, error: Exception) -> Response:
    """A defect of ours: the log has it, the client gets no more than its number."""
    log.error("a route failed", exc_info=error, extra={"request_id": request.state.request_id})
    answer = ApiError(500, "the server failed; its log says how", code="internal_error")
    return ErrorResponse(answer, read_headers(request.scope))


def _body_schema(name: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _openapi(app: FastAPI, routes: Sequence[Route]) -> Callable[[Request], Awaitable[Response]]:
    """The document, with the schemas of the bodies and of the errors."""

    def document() -> dict[str, Any]:
        value = dict(app.openapi())
        schemas = value.setdefault("components", {}).setdefault("schemas", {})
        for route in routes:
            if route.body is not None:
                schema = route.body.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas.update(schema.pop("$defs", {}))
                schemas[route.body.__name__] = schema
        value["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
        value["security"] = [{"bearer": []}, {"key": []}]
        return value

    async def openapi(request: Request) -> Response:
        return PlainResponse(Reply(document()))

    return openapi
