"""Access: every request passes Host, Origin and key, and is counted and logged, before a route.

Default-deny: what is not in the table of public routes needs a key when there are keys. Sources:
DNS rebinding (CVE-2024-28224), cross-site requests to local servers (CVE-2026-27482), keys that
were checked on some routes only.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perilune.errors import UsageError
from perilune.serve import access_log
from perilune.serve.access_log import Handled, shown_word
from perilune.serve.api_error import ApiError
from perilune.serve.cors import Cors, check_origin
from perilune.serve.http import encode
from perilune.serve.keys import Keys
from perilune.serve.metrics import Metrics
from perilune.serve.request import new_id
from perilune.serve.settings import Settings

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST = re.compile(r"(?:\[(?P<number>[0-9a-f:.]+)\]|(?P<name>[^\[\]:@/]+))(?::[0-9]{1,5})?")
_SAFE_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
MAX_HEADER_BYTES = 64 * 1024


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(settings: Settings, keys: Keys) -> None:
    """Raises UsageError for a public address without a key, and for origins that are none."""
    for origin in settings.cors_origin:
        check_origin(origin)
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
        self._cors = Cors(settings.cors_origin)

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
        scope.setdefault("state", {})
        scope["state"]["request_id"] = request_id

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = {"x-request-id": request_id, "request-id": request_id}
                given = message.get("headers", ())
                names = {name.lower() for name, _ in given}  # a preflight says some itself
                added |= {
                    name: value
                    for name, value in self._cors.headers(headers).items()
                    if name.encode() not in names
                }
                message["headers"] = [
                    *given,
                    *((name.encode(), value.encode("latin-1")) for name, value in added.items()),
                ]
            await send(message)

        caller, error = None, None
        try:
            self._check_headers(scope)
            self._check_host(headers)
            self._check_origin(headers)
            if self._cors.is_preflight(scope["method"], headers):
                await reply(send_with_headers, 204, b"", self._cors.preflight(headers))
                return
            caller = self._keys.find(headers)
            if caller is None and (scope["method"], scope["path"]) not in self._public:
                raise ApiError(
                    401,
                    "a valid API key is needed, as `Authorization: Bearer KEY` or `x-api-key: KEY`",
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
            scope["state"]["caller"] = caller
            await self._app(scope, receive, send_with_headers)
        except ApiError as refusal:
            error = refusal
            await send_error(send_with_headers, refusal, scope["path"], headers, request_id)
        except BaseException as failure:
            error = _failure(failure)
            raise
        finally:
            state = scope["state"]
            route = scope.get("route")
            self._note(
                Handled(
                    scope["method"],
                    scope["path"],
                    getattr(route, "path", None),
                    status,
                    error=error or state.get("error"),
                    left=state.get("left", False),
                    seconds=time.perf_counter() - started,
                    request_id=request_id,
                    caller=getattr(caller, "name", None),
                )
            )

    def note_bad_http(self, status: int) -> None:
        """Count and log what was not a request: the protocol below refused it, for this reason."""
        why = {408: "headers did not come in time", 431: "headers too large"}
        detail = why.get(status, "not HTTP/1.1 as it must be")
        error = ApiError(status, detail, code="bad_http", detail=detail)
        self._note(Handled("", "", None, status, error))

    def _note(self, handled: Handled) -> None:
        method = handled.method if handled.method in access_log.METHODS else "other"
        self._metrics.observe_http(handled.route or "unknown", method, handled.status)
        if self._settings.request_log:
            access_log.write(handled)

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
            detail=f"Host {shown_word(host) or 'absent'}, see --allowed-host",
        )

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        origin = headers.get("origin")
        if origin is None or self._cors.allows(origin):
            return
        parts = urlsplit(origin)
        if parts.scheme in ("http", "https") and parts.netloc == headers.get("host"):
            return
        raise ApiError(
            403,
            "pages of another origin may not call this server; --cors-origin lets one",
            code="origin_not_allowed",
            detail=f"Origin {shown_word(origin)}, see --cors-origin",
        )


def _failure(error: BaseException) -> ApiError:
    """What the log says of a request that ended with a defect of ours, or with the server."""
    if isinstance(error, Exception):
        return ApiError(500, "the server failed", code="internal_error")
    return ApiError(503, "the server is shutting down", code="shutting_down")


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
