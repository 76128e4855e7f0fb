"""Access: keys on every route, both header forms, hosts, origins, bodies, request ids."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import logging
from pathlib import Path
from typing import Any

import pytest

from perilune.errors import UsageError
from perilune.serve.guard import check_exposure
from perilune.serve.keys import Keys
from perilune.serve.routes import all_routes
from perilune.serve.settings import Settings

from .contract import URL
from .scripted import Turn

KEY = "correct horse battery"
BODY = {"messages": [{"role": "user", "content": "Hi"}]}


async def test_every_route_but_health_needs_a_key(scripted: Any) -> None:
    async with scripted(Turn("Hi"), keys=Keys([("me", KEY)])) as client:
        routes = {(route.method, route.path.replace("{model:path}", "x")) for route in all_routes()}
        routes |= {("GET", "/openapi.json"), ("GET", "/"), ("GET", "/docs"), ("GET", "/nothing"),
                   ("POST", "/health"), ("DELETE", "/v1/models"), ("OPTIONS", URL)}  # fmt: skip
        for method, path in routes:
            reply = await client.request(method, path, json=BODY if method == "POST" else None)
            open_door = method == "GET" and path in ("/health", "/ping")
            assert (reply.status_code == 401) is not open_door, (method, path)
        public = {(route.method, route.path) for route in all_routes() if route.public}
        assert public == {("GET", "/health"), ("GET", "/ping")}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": f"Bearer {KEY}"}, 200),
        ({"authorization": f"bearer {KEY}"}, 200),
        ({"x-api-key": KEY}, 200),
        ({"x-api-key": KEY, "authorization": "Bearer other"}, 200),
        ({"authorization": KEY}, 401),
        ({"authorization": f"Basic {KEY}"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"x-api-key": KEY + "x"}, 401),
        ({"x-api-key": KEY[:-1]}, 401),
        ({"x-api-key": "x" * 5000}, 401),
        ({"cookie": f"key={KEY}"}, 401),
        ({}, 401),
    ],
)
async def test_both_header_forms_pass_one_check(
    scripted: Any, headers: dict[str, str], status: int
) -> None:
    async with scripted(Turn("Hi"), keys=Keys([("me", KEY)])) as client:
        for stream in (False, True):
            reply = await client.post(URL, json={**BODY, "stream": stream}, headers=headers)
            assert reply.status_code == status
        if status == 401:
            assert reply.json()["error"]["code"] == "invalid_api_key"
            assert reply.json()["error"]["type"] == "authentication_error"
            anthropic = await client.post("/v1/messages", json={}, headers=headers)
            assert anthropic.json()["error"]["type"] == "authentication_error"
            assert anthropic.json()["type"] == "error"


def test_keys_are_hashes_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    keys = Keys([("a", "first-key-1"), ("b", "second-key"), ("c", "third-key-3")])
    monkeypatch.setattr(hmac, "compare_digest", compare)
    caller = keys.find({"x-api-key": "first-key-1"})
    assert caller is not None and caller.name == "a"
    assert len(compared) == 3  # also those behind the match
    assert all(len(a) == len(b) == 32 for a, b in compared)
    assert "first-key-1" not in repr(vars(keys))


def test_keys_from_flags_environment_and_file(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"hashed-key").hexdigest()
    file = tmp_path / "keys"
    file.write_text(f"# mine\nplain-key-1\n\nalice=named-key-2\nbob=sha256:{digest}\n")
    keys = Keys.from_settings(Settings(api_key=("flag-key-3",), api_key_file=file))
    names = {}
    for key in ("plain-key-1", "named-key-2", "hashed-key", "flag-key-3"):
        caller = keys.find({"x-api-key": key})
        assert caller is not None
        names[key] = caller.name
    assert names == {"plain-key-1": "keys-2", "named-key-2": "alice", "hashed-key": "bob",
                     "flag-key-3": "key-1"}  # fmt: skip
    salts = {keys.find({"x-api-key": key}).cache_salt for key in names}  # type: ignore[union-attr]
    assert len(salts) == 4
    assert keys.find({"x-api-key": f"sha256:{digest}"}) is None
    for wrong in ("", "# nothing\n"):
        file.write_text(wrong)
        with pytest.raises(UsageError, match="holds no key"):
            Keys.from_settings(Settings(api_key_file=file))
    with pytest.raises(UsageError, match="cannot be read"):
        Keys.from_settings(Settings(api_key_file=tmp_path / "absent"))
    with pytest.raises(UsageError, match="3 characters"):
        Keys.from_settings(Settings(api_key=("abc",)))


def test_a_public_address_needs_a_key() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(UsageError, match="no API key"):
            check_exposure(Settings(host=host), Keys())
        check_exposure(Settings(host=host), Keys([("me", KEY)]))
    for host in ("127.0.0.1", "::1", "localhost", "127.3.4.5"):
        check_exposure(Settings(host=host), Keys())


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200), ("localhost", 200), ("LOCALHOST:9", 200), ("[::1]:8000", 200),
        ("evil.example", 403), ("127.0.0.1.evil.example:8000", 403), ("", 403),
        ("localhost.", 403), ("10.0.0.1", 403), ("proxy.example", 200),
    ],
)  # fmt: skip
async def test_hosts(scripted: Any, host: str, status: int) -> None:
    """DNS rebinding: a page of evil.example that resolves to 127.0.0.1."""
    settings = Settings(allowed_host=("proxy.example",))
    async with scripted(Turn("Hi"), settings=settings) as client:
        for method, path in (("GET", "/health"), ("POST", URL), ("DELETE", "/x")):
            reply = await client.request(
                method, path, headers={"host": host}, json=BODY if method == "POST" else None
            )
            assert (reply.status_code == 403) is (status == 403)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://127.0.0.1:8000", True), ("https://good.example", True),
        ("http://127.0.0.1:8001", False), ("https://evil.example", False), ("null", False),
        ("http://good.example", False), ("file://", False), ("", False),
    ],
)  # fmt: skip
async def test_origins_on_every_method(scripted: Any, origin: str, allowed: bool) -> None:
    settings = Settings(cors_origin=("https://good.example",))
    async with scripted(Turn("Hi"), settings=settings) as client:
        for method, path in (("GET", "/health"), ("POST", URL), ("OPTIONS", URL), ("PUT", "/x")):
            reply = await client.request(
                method, path, headers={"origin": origin}, json=BODY if method == "POST" else None
            )
            assert (reply.status_code == 403) is not allowed, method
            shared = reply.headers.get("access-control-allow-origin")
            assert shared == (origin if origin == "https://good.example" else None)


async def test_no_cors_unless_listed(scripted: Any) -> None:
    async with scripted(Turn("Hi")) as client:
        reply = await client.get("/health")
        assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"{", {}, 400, "invalid_json"),
        (b"", {}, 400, "invalid_json"),
        (b"[]", {}, 400, "invalid_type"),
        (b'{"messages": NaN}', {}, 400, "invalid_json"),
        (b'{"temperature": Infinity, "messages": []}', {}, 400, "invalid_json"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, {}, 400, "invalid_json"),
        (b'{"a":' * 130 + b"1" + b"}" * 130, {}, 400, "invalid_json"),
        (b"\xff\xfe", {}, 400, "invalid_json"),
        (b"x" * 5000, {}, 413, "body_too_large"),
        (b"{}", {"content-type": "text/plain"}, 415, "unsupported_media"),
        (b"{}", {"content-type": "application/x-www-form-urlencoded"}, 415, "unsupported_media"),
        (gzip.compress(b"{}", mtime=0), {"content-encoding": "gzip"}, 415, "unsupported_encoding"),
    ],
)
async def test_bodies(
    scripted: Any, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    settings = Settings(max_body_bytes=4096 if len(content) == 5000 else 2**20)
    async with scripted(Turn("Hi"), settings=settings) as client:
        all_headers = {"content-type": "application/json", **headers}
        reply = await client.post(URL, content=content, headers=all_headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
        assert (await client.post(URL, json=BODY)).status_code == 200


async def test_a_large_body_is_refused_while_it_comes(scripted: Any) -> None:
    """No content-length to go by."""

    async def endless() -> Any:
        while True:
            yield b"x" * 1024

    async with scripted(Turn("Hi"), settings=Settings(max_body_bytes=4096)) as client:
        reply = await client.post(
            URL, content=endless(), headers={"content-type": "application/json"}
        )
        assert reply.status_code == 413


async def test_large_headers_are_refused(scripted: Any) -> None:
    async with scripted(Turn("Hi")) as client:
        reply = await client.get("/health", headers={"x-long": "x" * 70_000})
        assert reply.status_code == 431


async def test_unknown_routes_and_methods(scripted: Any) -> None:
    async with scripted(Turn("Hi")) as client:
        reply = await client.get("/v1/embeddings")
        assert reply.status_code == 404 and reply.json()["error"]["type"] == "not_found_error"
        reply = await client.get(URL)
        assert reply.status_code == 405 and reply.json()["error"]["code"] == "method_not_allowed"
        reply = await client.post("/v1/messages/nothing", json={})
        assert reply.json()["type"] == "error"


async def test_request_ids(scripted: Any) -> None:
    async with scripted(Turn("Hi")) as client:
        reply = await client.get("/version", headers={"x-request-id": "mine-1"})
        assert reply.headers["x-request-id"] == reply.headers["request-id"] == "mine-1"
        reply = await client.get("/version", headers={"x-request-id": "a\x1b[31m b"})
        assert reply.headers["x-request-id"].startswith("req-")


async def test_the_log_has_no_content_and_no_key(
    scripted: Any, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "do not write this down"
    with caplog.at_level(logging.INFO, logger="perilune.serve"):
        logging.getLogger("perilune.serve").propagate = True
        async with scripted(Turn("the answer itself"), keys=Keys([("me", KEY)])) as client:
            client.headers["x-api-key"] = KEY
            body = {"messages": [{"role": "user", "content": secret}], "unknown_field": secret}
            assert (await client.post(URL, json=body)).status_code == 200
            assert (await client.post(URL, json={**body, "n": -1})).status_code == 400
            client.headers["x-api-key"] = "a wrong key"
            assert (await client.post(URL, json=body)).status_code == 401
            assert (await client.get(f"/{secret}")).status_code == 401
    assert "POST /v1/chat/completions -> 200" in caplog.text
    for text in (secret, "answer itself", KEY, "a wrong key", "do%20not"):
        assert text not in caplog.text
    assert {record.__dict__.get("caller") for record in caplog.records} == {"me", None}
