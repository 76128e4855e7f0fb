"""The door: every request passes Host, Origin and key, and is counted and logged, before a route.

Default-deny: what is not in the table of public routes needs a key when there are keys. Sources:
DNS rebinding (CVE-2024-28224), cross-site requests to local servers (CVE-2026-27482), keys that
were checked on some routes only.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perilune.errors import UsageError
from perilune.serve.api_error import ApiError
from perilune.serve.http import encode
from perilune.serve.keys import Keys
from perilune.serve.metrics import Metrics
from perilune.serve.request import new_id
from perilune.serve.settings import Settings

log = logging.getLogger("perilune.serve")
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST = re.compile(r"(?:\[(?P<number>[0-9a-f:.]+)\]|(?P<name>[^\[\]:@/]+))(?::[0-9]{1,5})?")
_SAFE_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_CORS_HEADERS = "authorization, content-type, x-api-key, anthropic-version, anthropic-beta"
MAX_HEADER_BYTES = 64 * 1024


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_door(settings: Settings, keys: Keys) -> None:
    """Raises UsageError for a public address without a key."""
    if not is_loopback(settings.host) and not keys:
        raise UsageError(
            f"{settings.host} can be reached from other machines, and there is no API key",
            remedy="Give --api-key-file FILE (or PERILUNE_API_KEY), or listen on 127.0.0.1",
        )


class Guard:
    """ASGI middleware around all routes."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        keys: Keys,
        metrics: Metrics,
        public: frozenset[tuple[str, str]],
    ) -> None:
        self._app = app
        self._settings = settings
        self._keys = keys
        self._metrics = metrics
        self._public = public
        self._hosts = LOOPBACK_NAMES | {settings.host, *settings.allowed_host}
        self._origins = frozenset(settings.cors_origin)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no WebSockets here
            return
        headers = read_headers(scope)
        given = headers.get("x-request-id", "")
        request_id = given if _SAFE_ID.fullmatch(given) else new_id("req-")
        started = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = {"x-request-id": request_id, "request-id": request_id}
                added |= self._cors(headers)
                message["headers"] = [
                    *message.get("headers", ()),
                    *((name.encode(), value.encode("latin-1")) for name, value in added.items()),
                ]
            await send(message)

        caller = None
        try:
            self._check_headers(scope)
            self._check_host(headers)
            self._check_origin(headers)
            if scope["method"] == "OPTIONS" and headers.get("origin") in self._origins:
                await reply(send_with_headers, 204, b"", {})
                return
            caller = self._keys.find(headers)
            if caller is None and (scope["method"], scope["path"]) not in self._public:
                raise ApiError(
                    401,
                    "a valid API key is needed, as `Authorization: Bearer KEY` or `x-api-key: KEY`",
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
            scope.setdefault("state", {})
            scope["state"].update(caller=caller, request_id=request_id)
            await self._app(scope, receive, send_with_headers)
        except ApiError as error:
            await send_error(send_with_headers, error, scope["path"], headers, request_id)
        finally:
            self._note(scope, status, time.perf_counter() - started, request_id, caller)

    def _check_headers(self, scope: Scope) -> None:
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size > MAX_HEADER_BYTES or len(scope["path"]) > 4096:
            raise ApiError(431, "the headers are too large", code="headers_too_large")

    def _check_host(self, headers: Mapping[str, str]) -> None:
        host = _host_name(headers.get("host", ""))
        if host in self._hosts:
            return
        if not is_loopback(self._settings.host):
            try:  # a name can be made to point here, a number cannot
                ipaddress.ip_address(host)
            except ValueError:
                pass
            else:
                return
        raise ApiError(
            403,
            f"the Host {host[:100]!r} is not one of this server's; --allowed-host adds one",
            code="host_not_allowed",
        )

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        origin = headers.get("origin")
        if origin is None or origin in self._origins:
            return
        parts = urlsplit(origin)
        if parts.scheme in ("http", "https") and parts.netloc == headers.get("host"):
            return
        raise ApiError(
            403,
            "pages of another origin may not call this server; --cors-origin lets one",
            code="origin_not_allowed",
        )

    def _cors(self, headers: Mapping[str, str]) -> dict[str, str]:
        origin = headers.get("origin")
        if origin is None or origin not in self._origins:
            return {}
        return {
            "access-control-allow-origin": origin,
            "access-control-allow-methods": "GET, POST",
            "access-control-allow-headers": _CORS_HEADERS,
            "access-control-max-age": "600",
            "vary": "origin",
        }

    def _note(
        self, scope: Scope, status: int, seconds: float, request_id: str, caller: Any
    ) -> None:
        route = scope.get("route")
        path = getattr(route, "path", "unknown")  # the pattern: paths of clients are endless
        self._metrics.observe_http(path, scope["method"], status or 499)
        if self._settings.request_log:
            log.info(
                "%s %s -> %s in %.0f ms",
                scope["method"],
                path,
                status or "left by the client",
                seconds * 1000,
                extra={
                    "request_id": request_id,
                    "caller": getattr(caller, "name", None),
                    "method": scope["method"],
                    "path": path,
                    "status": status,
                    "seconds": round(seconds, 4),
                },
            )


def read_headers(scope: Scope) -> dict[str, str]:
    """Lower-case names; of a name that is there twice, the first."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    return headers


def speaks_anthropic(path: str, headers: Mapping[str, str]) -> bool:
    """Whether the client of this request expects errors in Anthropic's shape."""
    return path.startswith("/v1/messages") or "anthropic-version" in headers


async def send_error(
    send: Send, error: ApiError, path: str, headers: Mapping[str, str], request_id: str
) -> None:
    """An error as a whole reply, in the shape of the API that was called."""
    anthropic = speaks_anthropic(path, headers)
    body = error.anthropic(request_id) if anthropic else error.openai()
    more = dict(error.headers)
    if error.retry_after is not None:
        more["retry-after"] = str(max(1, round(error.retry_after)))
        more["retry-after-ms"] = str(round(error.retry_after * 1000))
    await reply(send, error.status, encode(body), more)


async def reply(
    send: Send,
    status: int,
    body: bytes,
    headers: Mapping[str, str],
    media_type: str = "application/json",
) -> None:
    all_headers = {
        "content-length": str(len(body)),
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
        **headers,
    }
    if body:
        all_headers["content-type"] = media_type
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(k.encode(), v.encode("latin-1")) for k, v in all_headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})


def _host_name(host: str) -> str:
    """Host header without its port, in lower case; empty when it is not of that form."""
    match = _HOST.fullmatch(host.strip().lower())
    return "" if match is None else match["number"] or match["name"]
