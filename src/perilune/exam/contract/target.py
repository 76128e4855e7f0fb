"""The server under examination: its URL, its dialect, and every exchange with it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import httpx

from perilune.agent.models.endpoint_url import read_endpoint_url
from perilune.errors import PeriluneError
from perilune.exam.contract.check import Violation, expect
from perilune.exam.contract.sse import Event, read_events

BODY_LIMIT = 32 * 2**20  # bytes of one answer; a server that sends more is cut off
THINKING_OFF: tuple[dict[str, Any], ...] = (
    {"thinking": {"type": "disabled"}, "chat_template_kwargs": {"thinking": False}},
    {"thinking": {"type": "disabled"}},
    {"chat_template_kwargs": {"thinking": False}},
    {},
)
RETRIES = 5  # after 429, or 503 with Retry-After
RETRY_SECONDS = 60.0  # the longest wait


@dataclass(slots=True)
class Exchange:
    """A request and what came back, as bytes."""

    method: str
    path: str
    sent: Any  # JSON value or bytes; None without a body
    status: int
    headers: httpx.Headers
    body: bytes
    seconds: float
    reads: int = 1  # pieces in which the body arrived

    @property
    def json(self) -> Any:
        """The body as JSON. Raises Violation."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise Violation(f"the body is not JSON: {self.body[:80]!r}", self) from None

    @property
    def events(self) -> list[Event]:
        return read_events(self.body)

    @property
    def content_type(self) -> str:
        return str(self.headers.get("content-type", "")).partition(";")[0].strip().lower()

    def ok(self) -> Exchange:
        """Itself when the status is 200. Raises Violation."""
        expect(self.status == 200, f"status {self.status} instead of 200", self)
        return self


@dataclass(slots=True)
class Settings:
    """What the user chose for a run."""

    schemas: int = 24  # random tool schemas
    seed: int = 0
    kimi_strict: bool = False  # the server claims to refuse what Moonshot's own refuses
    max_tokens: int = 48  # of a plain answer
    call_tokens: int = 768  # of an answer that is a tool call


_latest: ContextVar[Exchange | None] = ContextVar("latest", default=None)


@dataclass(slots=True)
class Target:
    """A server. `root` is its URL without `/v1`. Safe to use from several threads."""

    root: str
    model: str
    client: httpx.Client
    api_key: str | None = None
    settings: Settings = field(default_factory=Settings)
    thinking_off: dict[str, Any] = field(default_factory=dict)
    max_model_len: int | None = None
    _scenarios: dict[str, Exchange] = field(default_factory=dict)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)

    @classmethod
    def connect(
        cls,
        base_url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        settings: Settings | None = None,
        timeout: float = 120.0,
        transport: httpx.BaseTransport | None = None,
    ) -> Target:
        """Find the model and how to switch its thinking off. Raises PeriluneError.

        `base_url` may have any form that `read_endpoint_url` takes.
        """
        root = read_endpoint_url(base_url).root
        client = httpx.Client(timeout=timeout, follow_redirects=False, transport=transport)
        target = cls(root, model or "", client, api_key, settings or Settings())
        try:
            listed = target.get("/v1/models")
        except Violation as error:
            raise PeriluneError(
                f"no server answers at {base_url}: {error}",
                remedy="Start it, and give its URL with --base-url",
            ) from None
        if listed.status in (401, 403):
            raise PeriluneError(
                f"{base_url} refuses the key (status {listed.status})",
                remedy="Name the variable that holds a good one with --api-key-env",
            )
        target._read_models(listed)
        if not target.model:
            raise PeriluneError(
                f"{base_url} lists no model", remedy="Give the name that it serves with --model"
            )
        for form in THINKING_OFF:
            target.thinking_off = form
            answer = target.chat(max_tokens=1)
            if answer.status == 200:
                return target
        raise PeriluneError(
            f"{base_url} answers the simplest chat request with status {answer.status}: "
            f"{answer.body[:200].decode('utf-8', 'replace')}",
            remedy="See the server's log; or give another --model",
        )

    def _read_models(self, listed: Exchange) -> None:
        try:
            rows = json.loads(listed.body)["data"]
            row = next(r for r in rows if not self.model or r["id"] == self.model)
            self.model = row["id"]
            length = row.get("max_model_len")
            self.max_model_len = length if isinstance(length, int) else None
        except (ValueError, KeyError, TypeError, StopIteration, AttributeError):
            pass  # the checks of the model list say what is wrong with it

    # --- asking ------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        keyed: bool = True,
        patient: bool = True,
    ) -> Exchange:
        """One request; `body` is a JSON value, or bytes to be sent as they are.

        `patient`: a server that is busy (429) or loading (503) is asked again when it says so.
        Raises Violation when the connection fails or no answer comes in time.
        """
        sent = {"accept": "*/*"} | (self.key_header if keyed else {})
        content = None
        if body is not None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent["content-type"] = "application/json"
        sent |= {name.lower(): value for name, value in (headers or {}).items()}
        for attempt in range(RETRIES if patient else 0):
            exchange = self._send(method, path, body, content, sent)
            busy = exchange.status == 429 or (
                exchange.status == 503 and "retry-after" in exchange.headers
            )
            if not busy:
                return exchange
            time.sleep(_retry_after(exchange, default=2.0**attempt))
        return self._send(method, path, body, content, sent)

    def _send(
        self, method: str, path: str, body: Any, content: bytes | None, sent: dict[str, str]
    ) -> Exchange:
        start = time.monotonic()
        try:
            with self.client.stream(
                method, self.root + path, content=content, headers=sent
            ) as response:
                pieces, size = [], 0
                for piece in response.iter_bytes():
                    pieces.append(piece)
                    size += len(piece)
                    if size > BODY_LIMIT:
                        break
        except httpx.HTTPError as error:
            raise Violation(
                f"{method} {path}: {type(error).__name__} {error}".rstrip(),
                Exchange(method, path, body, 0, httpx.Headers(), b"", time.monotonic() - start),
            ) from None
        exchange = Exchange(
            method, path, body, response.status_code, response.headers, b"".join(pieces),
            time.monotonic() - start, len(pieces),
        )  # fmt: skip
        _latest.set(exchange)
        return exchange

    @property
    def key_header(self) -> dict[str, str]:
        return {} if self.api_key is None else {"authorization": f"Bearer {self.api_key}"}

    def get(self, path: str, **options: Any) -> Exchange:
        return self.request("GET", path, **options)

    def post(self, path: str, body: Any, **options: Any) -> Exchange:
        return self.request("POST", path, body, **options)

    def chat_body(self, text: str = "Say hello.", /, **fields: Any) -> dict[str, Any]:
        """A small chat request with thinking off and `fields` on top; ABSENT removes a field."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": self.settings.max_tokens,
            # A server that pins the temperature takes its own only.
            "temperature": ABSENT if self.settings.kimi_strict else 0,
            **self.thinking_off,
            **fields,
        }
        return {name: value for name, value in body.items() if value is not ABSENT}

    def chat(self, text: str = "Say hello.", /, **fields: Any) -> Exchange:
        return self.post("/v1/chat/completions", self.chat_body(text, **fields))

    def message_body(self, text: str = "Say hello.", /, **fields: Any) -> dict[str, Any]:
        """The same for Anthropic's Messages."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": self.settings.max_tokens,
            "thinking": {"type": "disabled"},
            "temperature": 0,
            **fields,
        }
        return {name: value for name, value in body.items() if value is not ABSENT}

    def messages(self, text: str = "Say hello.", /, **fields: Any) -> Exchange:
        return self.post("/v1/messages", self.message_body(text, **fields), headers=ANTHROPIC)

    def once(self, name: str, ask: Callable[[], Exchange]) -> Exchange:
        """The exchange of that name, asked for by the first check that needs it."""
        with self._locks.setdefault(name, threading.Lock()):
            if name not in self._scenarios:
                self._scenarios[name] = ask()
        exchange = self._scenarios[name]
        _latest.set(exchange)
        return exchange

    def alive(self) -> bool:
        """Whether it still answers a chat request."""
        try:
            return self.chat(max_tokens=1).status == 200
        except Violation:
            return False


def _retry_after(exchange: Exchange, default: float) -> float:
    try:
        seconds = float(exchange.headers.get("retry-after", default))
    except ValueError:  # a date
        seconds = default
    return min(max(seconds, 0.1), RETRY_SECONDS)


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Any = _Absent()
ANTHROPIC = {"anthropic-version": "2023-06-01"}


def latest_exchange() -> Exchange | None:
    """The exchange that the running check saw last."""
    return _latest.get()


def forget_exchange() -> None:
    _latest.set(None)
