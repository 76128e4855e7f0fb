"""Who gets in: keys on every route, hosts, origins, addresses; nobody touches another's work."""

from __future__ import annotations

import asyncio
import hmac
from pathlib import Path
from typing import Any

import pytest

from perilune.errors import UsageError
from perilune.serve import keys as keys_module
from perilune.serve.guard import check_exposure
from perilune.serve.http import Route
from perilune.serve.keys import Keys
from perilune.serve.routes import all_routes
from perilune.serve.settings import Settings

from ..scripted import Turn

ALICE, BOB = "alice-0123456789", "bob-0123456789"
KEYS = Keys([("alice", ALICE), ("bob", BOB)])
PUBLIC = {"/health", "/ping"}
ROUTES = [pytest.param(route, id=f"{route.method} {route.path}") for route in all_routes()]


def path_of(route: Route) -> str:
    return route.path.replace("{model}", "tiny").replace("{model:path}", "tiny")


@pytest.mark.parametrize("route", ROUTES)
async def test_every_route_needs_a_key(scripted: Any, route: Route) -> None:
    async with scripted(Turn("Hi"), keys=KEYS) as client:
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": f"Basic {ALICE}"},
            {"authorization": ALICE},
            {"x-api-key": "wrong"},
            {"x-api-key": f"Bearer {ALICE}"},
            {"cookie": f"key={ALICE}"},
        ):
            answer = await client.request(route.method, path_of(route), headers=headers)
            wanted = 200 if route.path in PUBLIC else 401
            assert answer.status_code == wanted, headers
            assert ALICE not in answer.text
        query = await client.request(route.method, f"{path_of(route)}?api_key={ALICE}")
        assert query.status_code == (200 if route.path in PUBLIC else 401)


async def test_unknown_paths_and_the_document_need_a_key_too(scripted: Any) -> None:
    async with scripted(Turn("Hi"), keys=KEYS) as client:
        for path in ("/", "/openapi.json", "/docs", "/redoc", "/v1", "/v2/chat/completions",
                     "/invocations", "/pause", "/update_weights", "/collective_rpc",
                     "//health", "/health/", "/HEALTH", "/health/../v1/models"):  # fmt: skip
            for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"):
                answer = await client.request(method, path)
                assert answer.status_code == 401, (method, path)
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert (await client.request(method, "/health")).status_code == 401


def test_only_health_is_public() -> None:
    assert {route.path for route in all_routes() if route.public} == PUBLIC


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_both_headers_go_through_one_function(scripted: Any, header: str) -> None:
    """CVE-2026-45339: a limit that held for one header only."""
    value = {"authorization": f"Bearer {ALICE}", "x-api-key": ALICE}[header]
    settings = Settings(key_requests_per_minute=2)
    async with scripted(Turn("Hi"), keys=KEYS, settings=settings) as client:
        body = {"messages": [{"role": "user", "content": "x"}]}
        statuses = [
            (
                await client.post("/v1/chat/completions", json=body, headers={header: value})
            ).status_code
            for _ in range(2)
        ]
        other = {"authorization": f"Bearer {ALICE}"} if header == "x-api-key" else {
            "x-api-key": ALICE
        }  # fmt: skip
        last = await client.post("/v1/chat/completions", json=body, headers=other)
    assert statuses == [200, 200]
    assert last.status_code == 429
    assert float(last.headers["retry-after"]) > 0


def test_keys_are_compared_in_constant_time_and_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CVE-2025-59425. The path is checked, not the clock: each key once, whichever is right."""
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def counting(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(keys_module.hmac, "compare_digest", counting)
    for given in (ALICE, BOB, "wrong", "a", ALICE[:-1]):
        compared.clear()
        KEYS.find({"x-api-key": given})
        assert len(compared) == 2
        assert all(len(a) == len(b) == 32 for a, b in compared)  # digests, not keys


def test_keys_are_not_kept_in_the_clear() -> None:
    assert ALICE not in repr(KEYS.__dict__)
    assert ALICE not in repr(KEYS.find({"x-api-key": ALICE}))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com"])
def test_a_public_address_needs_a_key(host: str) -> None:
    with pytest.raises(UsageError, match="no API key"):
        check_exposure(Settings(host=host), Keys())
    check_exposure(Settings(host=host), KEYS)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.9.10"])
def test_this_machine_does_not(host: str) -> None:
    check_exposure(Settings(host=host), Keys())


def test_the_default_address_is_this_machine() -> None:
    assert Settings().host == "127.0.0.1"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example",
     "169.254.169.254", "0.0.0.0", "", "evil.example@127.0.0.1", "[::1].evil.example",
     "127.0.0.1:80:80", "xn--localhost-", "localhost:evil", "[127.0.0.1", "127.0.0.1]"],
)  # fmt: skip
async def test_names_of_others_are_refused(scripted: Any, host: str) -> None:
    """DNS rebinding (CVE-2024-28224): a page of evil.example whose name points here."""
    async with scripted(Turn("Hi")) as client:
        for method, path in (("GET", "/health"), ("GET", "/metrics"),
                             ("POST", "/v1/chat/completions")):  # fmt: skip
            answer = await client.request(method, path, headers={"host": host})
            assert answer.status_code == 403, host


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000"])
async def test_own_names_are_taken(scripted: Any, host: str) -> None:
    async with scripted(Turn("Hi")) as client:
        assert (await client.get("/health", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:3000", "file://",
     "http://127.0.0.1:8000.evil.example", "http://evil.example#127.0.0.1:8000", "x"],
)  # fmt: skip
async def test_pages_of_other_origins_are_refused_by_every_method(
    scripted: Any, origin: str
) -> None:
    """CVE-2026-27482: a dashboard that looked at POST only."""
    async with scripted(Turn("Hi")) as client:
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
            answer = await client.request(
                method, "/v1/chat/completions", headers={"origin": origin}
            )
            assert answer.status_code == 403, method
            assert "access-control-allow-origin" not in answer.headers


async def test_listed_origins_get_themselves_and_never_a_star(scripted: Any) -> None:
    settings = Settings(cors_origin=("https://page.example",))
    async with scripted(Turn("Hi"), settings=settings) as client:
        answer = await client.get("/health", headers={"origin": "https://page.example"})
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
        assert "access-control-allow-credentials" not in answer.headers
        other = await client.get("/health", headers={"origin": "https://page.example.evil"})
        assert other.status_code == 403


async def test_web_sockets_are_not_answered(scripted: Any) -> None:
    """CVE-2026-25253: there are none, so there is none to hijack."""
    async with scripted(Turn("Hi")) as client:
        headers = {"upgrade": "websocket", "connection": "upgrade", "sec-websocket-version": "13",
                   "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA=="}  # fmt: skip
        assert (await client.get("/v1/models", headers=headers)).status_code in (200, 404)
        app = client._transport.app
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        await app({"type": "websocket", "path": "/", "headers": []}, receive, send)
        assert not any(message["type"] == "websocket.accept" for message in sent)


async def test_a_key_cannot_touch_another_keys_request(scripted: Any) -> None:
    """IDOR (CVE-2026-45349): the id of a request is not a permission."""
    async with scripted(Turn("Hm. ", endless=True), keys=KEYS) as client:
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 100_000}
        own = {"x-api-key": ALICE}
        running = asyncio.create_task(client.post("/v1/chat/completions", json=body, headers=own))
        service = client.service
        for _ in range(500):
            if service.open_requests:
                break
            await asyncio.sleep(0.01)
        (request_id,) = service.open_requests
        order = {"id": request_id, "action": "reasoning_end"}
        control = "/v1/chat/completions/control"
        other = await client.post(control, json=order, headers={"x-api-key": BOB})
        unknown = await client.post(
            control, json={**order, "id": "chatcmpl-none"}, headers={"x-api-key": BOB}
        )
        assert other.status_code == unknown.status_code == 404
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_short_and_endless_keys_are_refused(tmp_path: Path) -> None:
    for key in ("", "short", "x" * 5000):
        with pytest.raises(UsageError):
            Keys([("k", key)])
    assert KEYS.find({"x-api-key": "x" * 1_000_000}) is None
    empty = tmp_path / "keys"
    empty.write_text("# nobody\n")
    with pytest.raises(UsageError, match="no key"):
        Keys.from_settings(Settings(api_key_file=empty))


async def test_files_are_not_reached_through_names(scripted: Any) -> None:
    """CVE-2024-37032, CVE-2026-7020: a model's name that is a path."""
    async with scripted(Turn("Hi")) as client:
        names = ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd",
                 "/etc/passwd", "C:\\Windows\\win.ini", "..\\..\\etc", "tiny%00.txt", "~root",
                 "file:///etc/passwd", "....//....//etc/passwd"]  # fmt: skip
        for name in names:
            answer = await client.get(f"/v1/models/{name}")
            assert answer.status_code in (403, 404), name
            assert "root:" not in answer.text
            body = {"model": name, "messages": [{"role": "user", "content": "x"}]}
            answer = await client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 404, name
