"""Pages of listed origins: preflights with what the SDKs send, errors that a page can read."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perilune.chat.format import ChatFormat
from perilune.engine.async_engine import AsyncEngine
from perilune.errors import UsageError
from perilune.serve.cors import Cors, allowed_headers, check_origin
from perilune.serve.guard import check_exposure
from perilune.serve.keys import Keys
from perilune.serve.settings import Settings

from .contract import URL
from .pages import needs_chromium, opened, page_server
from .scripted import Scripted, Turn, scripted_engine
from .servers import socket_server

ORIGIN = "https://app.example"
KEY = "correct horse battery"
BODY = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 16}
# What the browser builds of both SDKs sent (clients/test_browser_sdks.py), and what they may send.
SDK_HEADERS = (
    "accept", "anthropic-beta", "anthropic-dangerous-direct-browser-access", "anthropic-version",
    "authorization", "content-type", "idempotency-key", "openai-beta", "openai-organization",
    "openai-project", "user-agent", "x-api-key", "x-stainless-arch", "x-stainless-async",
    "x-stainless-custom-poll-interval", "x-stainless-helper", "x-stainless-helper-method",
    "x-stainless-lang", "x-stainless-os", "x-stainless-package-version", "x-stainless-poll-helper",
    "x-stainless-retry-count", "x-stainless-runtime", "x-stainless-runtime-version",
    "x-stainless-timeout",
)  # fmt: skip


def preflight(origin: str = ORIGIN, asked: str = "", **more: str) -> dict[str, str]:
    headers = {"origin": origin, "access-control-request-method": "POST"}
    if asked:
        headers["access-control-request-headers"] = asked
    return headers | {name.replace("_", "-"): value for name, value in more.items()}


@pytest.mark.parametrize("path", [URL, "/v1/messages", "/v1/responses", "/v1/models", "/health"])
async def test_the_preflights_of_the_sdks_are_let_in(scripted: Any, path: str) -> None:
    """Without a key: a browser sends none with a preflight."""
    chosen = Settings(cors_origin=(ORIGIN,))
    async with scripted(Turn("Hi"), settings=chosen, keys=Keys([("me", KEY)])) as client:
        reply = await client.options(path, headers=preflight(asked=",".join(SDK_HEADERS)))
        assert reply.status_code == 204 and reply.content == b""
        allowed = {h.strip() for h in reply.headers["access-control-allow-headers"].split(",")}
        assert allowed == set(SDK_HEADERS)
        assert reply.headers["access-control-allow-origin"] == ORIGIN
        assert {"GET", "POST"} <= set(
            reply.headers["access-control-allow-methods"].replace(" ", "").split(",")
        )
        assert reply.headers["access-control-max-age"] == "600"
        assert "access-control-allow-credentials" not in reply.headers
        vary = reply.headers["vary"].lower()
        assert all(name in vary for name in ("origin", "access-control-request-headers"))
        assert len(reply.headers.get_list("vary")) == 1
        assert "access-control-allow-private-network" not in reply.headers
        for network in ("private", "local"):
            asked = {f"access_control_request_{network}_network": "true"}
            reply = await client.options(path, headers=preflight(**asked))
            assert reply.headers[f"access-control-allow-{network}-network"] == "true"


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://app.example", "https://app.example:444",
     "https://app.example.evil.example", "https://app.example/", "HTTPS://APP.EXAMPLE", "*", ""],
)  # fmt: skip
async def test_other_origins_are_not(scripted: Any, origin: str) -> None:
    async with scripted(Turn("Hi"), settings=Settings(cors_origin=(ORIGIN,))) as client:
        for method, path in (("OPTIONS", URL), ("POST", URL), ("GET", "/v1/models")):
            more = {"access_control_request_private_network": "true"}
            headers = preflight(origin, "authorization", **more)
            json = BODY if method == "POST" else None
            reply = await client.request(method, path, headers=headers, json=json)
            assert reply.status_code == 403
            assert not [n for n in reply.headers if n.startswith("access-control")]
            assert reply.headers["vary"] == "Origin"  # a cache must not give it to a listed one


async def test_errors_and_streams_can_be_read(scripted: Any) -> None:
    chosen = Settings(
        cors_origin=(ORIGIN, "http://localhost:3000"), key_requests_per_minute=2, max_n=1
    )
    origin = {"origin": ORIGIN}
    auth = {**origin, "x-api-key": KEY}
    async with scripted(Turn("Hi"), settings=chosen, keys=Keys([("me", KEY)])) as client:
        answers = [
            (200, await client.post(URL, json={**BODY, "stream": True}, headers=auth)),
            (200, await client.post("/v1/messages", json={**BODY, "model": "tiny"}, headers=auth)),
            (429, await client.post(URL, json=BODY, headers=auth)),
            (401, await client.post(URL, json=BODY, headers=origin)),
            (400, await client.post(URL, json={}, headers=auth)),
            (404, await client.post("/v1/embeddings", json={}, headers=auth)),
            (405, await client.get(URL, headers=auth)),
            (415, await client.post(URL, content=b"{}", headers=auth)),
            (403, await client.get("/health", headers={**auth, "host": "evil.example"})),
            (431, await client.get("/health", headers={**auth, "x-long": "x" * 70_000})),
            (200, await client.get("/health", headers=origin)),
        ]
        client.service.draining = True
        answers.append((503, await client.post(URL, json=BODY, headers=auth)))
        answers.append((503, await client.get("/health", headers=origin)))
        client.service.draining = False

        def crash(*given: Any) -> Any:
            raise ZeroDivisionError

        client.service.open = crash
        client._transport.raise_app_exceptions = False
        answers.append((500, await client.post(URL, json=BODY, headers=auth)))
        for status, reply in answers:
            assert reply.status_code == status, reply.text
            assert reply.headers["access-control-allow-origin"] == ORIGIN, status
            assert reply.headers["vary"] == "Origin"
            exposed = reply.headers["access-control-expose-headers"]
            for name in ("x-request-id", "request-id", "retry-after", "retry-after-ms"):
                assert name in exposed.split(", ")
        assert "retry-after" in answers[2][1].headers
        plain = await client.get("/health")
        assert plain.headers["vary"] == "Origin"
        assert "access-control-allow-origin" not in plain.headers


async def test_without_a_list_there_is_none(scripted: Any) -> None:
    async with scripted(Turn("Hi")) as client:
        reply = await client.options(URL, headers=preflight(asked="authorization"))
        assert reply.status_code == 403
        assert "vary" not in reply.headers


@pytest.mark.parametrize(
    ("origin", "kept"),
    [
        ("https://app.example", "https://app.example"),
        ("https://app.example/", "https://app.example"),
        ("HTTP://LocalHost:3000", "http://localhost:3000"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        ("tauri://localhost", "tauri://localhost"),
        *((bad, None) for bad in (
            "null", "*", "", "app.example", "https://", "https://*.example", "https://a/path",
            "https://user@a.example", "file://", "https://a.example?x", "https://\u00e9.example",
        )),
    ],
)  # fmt: skip
def test_origins_are_checked_at_the_start(origin: str, kept: str | None) -> None:
    if kept is None:
        with pytest.raises(UsageError, match="not the origin"):
            check_exposure(Settings(cors_origin=(origin,)), Keys())
    else:
        assert check_origin(origin) == kept and Cors([origin]).allows(kept)


NEVER = (
    "cookie", "host", "origin", "x-forwarded-for", "x-forwarded-host", "forwarded", "x-real-ip",
    "x-http-method-override", "proxy-authorization", "sec-fetch-site", "connection", "upgrade",
    "transfer-encoding", "content-length", "access-control-request-method", "cf-connecting-ip",
    "x-auth-request-user", "x-remote-user",
)  # fmt: skip


@pytest.mark.parametrize("name", NEVER)
def test_headers_of_proxies_and_browsers_are_never_allowed(name: str) -> None:
    assert allowed_headers(f"x-api-key, {name.upper()} ,authorization") == (
        "x-api-key, authorization"
    )


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=200) | st.lists(st.sampled_from([*SDK_HEADERS, *NEVER])).map(",".join))
def test_what_is_allowed_is_asked_for_and_well_formed(asked: str) -> None:
    allowed = [name for name in allowed_headers(asked).split(", ") if name]
    wanted = [name.strip().lower() for name in asked.split(",")]
    assert set(allowed) <= set(wanted) and not set(allowed) & set(NEVER)
    assert len(allowed) == len(set(allowed)) <= 64
    assert all(re.fullmatch(r"[a-z0-9!#$%&'*+.^_`|~-]{1,100}", name) for name in allowed)
    if all(name in SDK_HEADERS for name in wanted):
        assert set(allowed) == set(wanted)
    answer = Cors([ORIGIN]).preflight({"access-control-request-headers": asked})
    assert all("\n" not in value and "\r" not in value for value in answer.values())


@needs_chromium
def test_a_page_in_chromium_reads_answers_and_errors(chat_format: ChatFormat) -> None:
    pytest.importorskip("playwright")
    # `user-agent` and `accept` are the browser's own there.
    names = [n for n in SDK_HEADERS if n not in ("user-agent", "accept", "authorization")]
    script = """async ([url, names, key, body]) => {
      const headers = Object.fromEntries(names.map(n => [n, "1"]));
      headers["content-type"] = "application/json"; headers["authorization"] = "Bearer " + key;
      const reply = await fetch(url, {method: "POST", headers, body: JSON.stringify(body)});
      return {status: reply.status, text: await reply.text(), id: reply.headers.get("x-request-id"),
              wait: reply.headers.get("retry-after")};
    }"""
    html = {"/": ("text/html", b"<title>x</title>")}
    model = Scripted(lambda prompt: Turn("Hello!"))
    with page_server(html) as origin, page_server(html) as other:
        chosen = Settings(cors_origin=(origin,), api_key=(KEY,), key_requests_per_minute=1)

        def make() -> AsyncEngine:
            return AsyncEngine(scripted_engine(model, chat_format))

        with socket_server(make, chosen) as url:
            asked = [url + URL, [n for n in names if n != "x-api-key"], KEY]
            with opened(origin) as page:
                good = page.evaluate(script, [*asked, {**BODY, "stream": True}])
                quota = page.evaluate(script, [*asked, BODY])
                no_key = page.evaluate(script, [*asked[:2], "wrong", BODY])
            with opened(other) as page, pytest.raises(Exception, match="Failed to fetch"):
                page.evaluate(script, [*asked, BODY])
    assert good["status"] == 200 and "[DONE]" in good["text"] and good["id"].startswith("req-")
    assert quota["status"] == 429 and int(quota["wait"]) >= 1
    assert no_key["status"] == 401 and "invalid_api_key" in no_key["text"]
