"""What who runs the server sees: deaths, broken streams, refusals, loads; and what he is spared."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perilune.engine.async_engine import AsyncEngine, EngineState
from perilune.engine.core_messages import Loading
from perilune.engine.life import LifeEvent
from perilune.serve import access_log, chat_completions, load_lines, server
from perilune.serve.access_log import Handled, shown_path, shown_word
from perilune.serve.api_error import ApiError
from perilune.serve.keys import Keys
from perilune.serve.load_lines import LoadLines
from perilune.serve.server import JsonLines, PlainLines
from perilune.serve.service import Service
from perilune.serve.settings import Settings

from .contract import URL
from .scripted import Scripted, Turn, scripted_engine
from .servers import asgi_client, make_service, socket_server

BODY = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 16}
ENDLESS = {**BODY, "max_tokens": 20_000, "ignore_eos": True, "stream": True}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """The log so far, a text a line."""
    logger = logging.getLogger("perilune.serve")
    before, logger.propagate = logger.propagate, True
    with caplog.at_level(logging.INFO, logger="perilune.serve"):
        yield lambda: [record.getMessage() for record in caplog.records]
    logger.propagate = before


def metric(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's series with these labels."""
    total = 0.0
    for line in text.splitlines():
        found = re.fullmatch(rf"(?:perilune:)?{name}(?:{{(.*)}})? ([0-9.e+-]+)", line)
        if found and all(f'{k}="{v}"' in (found[1] or "") for k, v in labels.items()):
            total += float(found[2])
    return total


def eventually(condition: Callable[[], Any], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


# --- deaths ------------------------------------------------------------------------------------


def test_a_killed_engine_is_a_line_and_counts_however_soon_it_is_back(
    tiny_folder: Path, lines: Callable[[], list[str]]
) -> None:
    box: list[Service] = []

    def make() -> AsyncEngine:
        return AsyncEngine(tiny_folder, isolation="process", cache_tokens=65_536)

    with socket_server(make, on_service=box.append) as url:
        with httpx.stream("POST", url + URL, json=ENDLESS, timeout=60) as reply:
            found = reply.iter_lines()
            next(found)
            os.kill(box[0].engine._core.process_id, signal.SIGKILL)  # type: ignore[attr-defined]
            assert "data: [DONE]" not in list(found)
        assert eventually(lambda: any("the engine is back" in line for line in lines()))
        text = httpx.get(url + "/metrics").text
    deaths = [line for line in lines() if "the engine died" in line]
    assert len(deaths) == 1 and "SIGKILL" in deaths[0] and "1 requests failed" in deaths[0]
    assert metric(text, "engine_restarts_total") == 1
    assert metric(text, "engine_restarts_total", cause="SIGKILL") == 1
    # And its stream is not a success: 200 went out, but that is not what became of it.
    said = next(line for line in lines() if line.startswith("POST"))
    assert said.startswith(f"POST {URL} -> 503 engine_dead (cut off after 200 was sent)"), said
    assert metric(text, "http_requests_total", handler=URL, status="503") == 1
    assert metric(text, "http_requests_total", handler=URL, status="200") == 0
    assert metric(text, "request_outcomes_total", outcome="engine_dead") == 1


def test_every_kind_of_event_is_one_line(
    scripted: Any, chat_format: Any, lines: Callable[[], list[str]]
) -> None:
    engine = AsyncEngine(scripted_engine(Scripted([Turn("Hi")]), chat_format))
    service = make_service(engine)
    for event, words in (
        (LifeEvent("died", "hung", "it hung", requests=2), "died (hung): it hung; 2 requests"),
        (LifeEvent("load_failed", "out_of_memory", "no room"), "(out_of_memory): no room"),
        (LifeEvent("standby_died", "SIGSEGV", "gone"), "waits to take over died (SIGSEGV)"),
        (LifeEvent("back", seconds=1.26), "the engine is back after 1.3 s"),
        (LifeEvent("gave_up", text="it died 4 times"), "it died 4 times; it is not started"),
    ):
        before = len(lines())
        assert engine.on_life is not None
        engine.on_life(event)
        (line,) = lines()[before:]
        assert words in line, line
    text = service.render_metrics()
    assert metric(text, "engine_restarts_total", cause="hung") == 1
    assert metric(text, "engine_restarts_total", cause="out_of_memory") == 1
    assert metric(text, "engine_standby_deaths_total", cause="SIGSEGV") == 1
    assert metric(text, "engine_restarts_total") == 2


# --- streams -----------------------------------------------------------------------------------


def test_a_client_that_leaves_is_499(chat_format: Any, lines: Callable[[], list[str]]) -> None:
    script = Scripted([Turn("x", endless=True)], step_seconds=0.01)
    with socket_server(lambda: AsyncEngine(scripted_engine(script, chat_format))) as url:
        for path, more in ((URL, {}), ("/v1/messages", {"model": "tiny"})):
            asked = {**BODY, "max_tokens": 20_000, **more}
            with httpx.stream("POST", url + path, json={**asked, "stream": True}) as reply:
                next(reply.iter_lines())
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(url + path, json=asked, timeout=0.3)
            said = f"POST {path} -> 499 left by the client"
            assert eventually(lambda: sum(said in line for line in lines()) == 2), lines()  # noqa: B023
        text = httpx.get(url + "/metrics").text
    assert metric(text, "http_requests_total", status="499") == 4
    assert metric(text, "http_requests_total", status="200", method="POST") == 0
    assert metric(text, "request_outcomes_total", outcome="client_left") == 4


@pytest.mark.parametrize("path", [URL, "/v1/messages", "/v1/responses", "/v1/completions"])
async def test_a_stream_that_breaks_is_not_a_200(
    scripted: Any, lines: Callable[[], list[str]], path: str
) -> None:
    """Weights that give no numbers: the request fails after its stream has begun."""
    async with scripted(Turn("Hello, hello, hello!", reasoning="Hm.")) as client:
        engine = client.service.engine._core._engine
        healthy, steps = engine.runner.execute, 0

        def damaged(step: Any, cache: Any) -> Any:
            nonlocal steps
            steps += 1
            logits = healthy(step, cache)
            return logits if steps < 4 else logits * float("nan")

        engine.runner.execute = damaged
        body: dict[str, Any] = {"model": "tiny", "stream": True}
        if path == "/v1/completions":
            body["prompt"] = "a"
        elif path == "/v1/responses":
            body["input"] = "a"
        else:
            body |= BODY
        reply = await client.post(path, json=body)
        assert reply.status_code == 200 and "error" in reply.text
        text = (await client.get("/metrics")).text
    said = [line for line in lines() if line.startswith(f"POST {path}")]
    assert len(said) == 1 and "-> 500 generation_failed (cut off after 200" in said[0], said
    assert metric(text, "http_requests_total", handler=path, status="500") == 1
    assert metric(text, "http_requests_total", handler=path, status="200") == 0


@pytest.mark.parametrize(("path", "words"), [(URL, 'data: {"error"'), ("/v1/messages", "event: e")])
async def test_a_defect_of_ours_in_a_stream_is_told_and_logged(
    scripted: Any, lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, path: str,
    words: str,
) -> None:  # fmt: skip
    def broken(*given: Any) -> Any:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(chat_completions._Writer, "_event", broken)
    monkeypatch.setattr("perilune.serve.anthropic.routes.MessageEvents.feed", broken)
    async with scripted(Turn("Hello!")) as client:
        reply = await client.post(path, json={**BODY, "model": "tiny", "stream": True})
        assert words in reply.text and "[DONE]" not in reply.text and "ZeroDiv" not in reply.text
        assert client.service.open_requests == []
    assert any("a stream failed" in line for line in lines())
    assert any(f"POST {path} -> 500 internal_error (cut off" in line for line in lines()), lines()


async def test_a_stream_that_ends_well_is_a_200(
    scripted: Any, lines: Callable[[], list[str]]
) -> None:
    async with scripted(Turn("Hello!")) as client:
        await client.post(URL, json={**BODY, "stream": True})
        text = (await client.get("/metrics")).text
    assert [line.partition(" in ")[0] for line in lines()] == [f"POST {URL} -> 200"]
    assert metric(text, "request_outcomes_total", outcome="finished") == 1


# --- refusals ----------------------------------------------------------------------------------

KEY = "correct horse battery"
AUTH = {"x-api-key": KEY}


@pytest.mark.parametrize(
    ("method", "path", "options", "said"),
    [
        ("POST", URL, {"json": {**BODY, "n": -1}}, f"POST {URL} -> 400 invalid_type (n) in "),
        ("POST", URL, {"json": {**BODY, "model": "x"}}, f"{URL} -> 404 model_not_found (model)"),
        ("POST", URL, {"content": b"{"}, "-> 415 unsupported_media"),
        ("POST", URL, {"json": {}, "headers": {"x-api-key": "no"}}, "-> 401 invalid_api_key"),
        ("GET", "/v1/embeddings", {}, "GET /v1/embeddings -> 404 not_found"),
        ("GET", URL, {}, "-> 405 method_not_allowed"),
        ("POST", URL, {"json": {}, "headers": {"host": "evil.example"}},
         "-> 403 host_not_allowed (Host evil.example, see --allowed-host)"),
        ("POST", URL, {"json": {}, "headers": {"origin": "https://evil.example"}},
         "-> 403 origin_not_allowed (Origin https://evil.example, see --cors-origin)"),
        ("GET", "/health", {"headers": {"host": "evil.example"}}, "GET /health -> 403 host_not"),
        ("GET", "/metrics", {"headers": {"x-api-key": "no"}}, "GET /metrics -> 401 invalid_api"),
        ("GET", "/x", {"headers": {"x-long": "x" * 70_000}}, "GET /x -> 431 headers_too_large"),
        ("POST", URL, {"content": b"x" * 5000, "headers": {"content-type": "application/json"}},
         "-> 413 body_too_large"),
        ("BREW", "/coffee/pot", {}, "other(BREW) /coffee/pot -> 404 not_found"),
    ],
)  # fmt: skip
async def test_a_refused_request_is_a_line(
    scripted: Any, lines: Callable[[], list[str]], method: str, path: str, options: Any, said: str
) -> None:
    options = {**options, "headers": {**AUTH, **options.get("headers", {})}}
    settings = Settings(max_body_bytes=4096)
    async with scripted(Turn("Hi"), keys=Keys([("me", KEY)]), settings=settings) as client:
        await client.request(method, path, **options)
    (line,) = lines()
    assert said in line and "\n" not in line and len(line) < 300, line


async def test_probes_are_silent(scripted: Any, lines: Callable[[], list[str]]) -> None:
    async with scripted(Turn("Hi")) as client:
        for path in ("/health", "/ping", "/metrics"):
            assert (await client.get(path)).status_code == 200
        client.service.draining = True
        assert (await client.get("/health")).status_code == 503
        client.service.draining = False
        assert lines() == []
        await client.get("/version")
    assert len(lines()) == 1


def test_what_is_no_http_is_a_line(chat_format: Any, lines: Callable[[], list[str]]) -> None:
    with the_program(AsyncEngine(scripted_engine(Scripted([Turn("Hi")]), chat_format))) as port:
        for data, status in (
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
            (b"GET /health HTTP/1.1\r\nhost: x\r\n secret: folded\r\nhost: y\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nhost: x\r\nx-a: " + b"secret" * 20_000, 431),
        ):
            before = len(lines())
            with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
                client.sendall(data)
                client.recv(1000)
            said = f"(no request) -> {status} bad_http"
            assert eventually(lambda: any(said in line for line in lines()[before:])), lines()  # noqa: B023
            assert not any("secret" in line for line in lines())
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    assert metric(text, "http_requests_total", method="other", handler="unknown") == 3


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=600), st.text(max_size=80), st.text(max_size=80))
def test_no_line_can_be_steered_by_a_client(path: str, method: str, word: str) -> None:
    """Whatever the method, path, code and parameter are: one short line of plain ASCII."""
    safe = re.compile(r"[A-Za-z0-9_./~?*-]*")
    shown = shown_path("/" + path)
    assert safe.fullmatch(shown) and len(shown) <= access_log.LONGEST_PATH + 3
    assert shown_path("/" + path) == shown and shown_word(word).isascii()
    error = ApiError(400, word, param=word, code=word)
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("perilune.serve")
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        access_log.write(Handled(method, "/" + path, None, 400, error, seconds=0.1))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    if "/" + path in access_log.PROBES:
        return
    (record,) = records
    text = record.getMessage()
    assert text.isascii() and text.isprintable() and len(text) < 400
    assert json.loads(JsonLines().format(record))["status"] == 400
    assert "\n" not in PlainLines("%(message)s").format(record)


def test_keys_in_paths_are_not_written_down() -> None:
    assert shown_path("/sk-abcdefghijklmnop/v1/chat") == "/***/v1/chat"
    assert shown_path("/a b\x1b[31m\n") == "/a?b?31m?"


async def test_metrics_have_few_methods(scripted: Any) -> None:
    async with scripted(Turn("Hi")) as client:
        for number in range(20):
            await client.request(f"VERB{number}", "/x")
        text = (await client.get("/metrics")).text
    assert "VERB" not in text
    assert metric(text, "http_requests_total", method="other", status="404") == 20


# --- loads -------------------------------------------------------------------------------------


@contextmanager
def the_program(engine: Any, settings: Settings | None = None) -> Iterator[int]:
    """`server.serve` as the program runs it, on a free port, in a thread; yields the port."""
    bound = server.listen("127.0.0.1", 0)
    box: dict[str, Any] = {}

    async def run() -> None:
        box["loop"] = asyncio.get_running_loop()
        service = box["service"] = make_service(engine, settings)
        box["task"] = asyncio.create_task(server.serve(service, bound, lambda: None))
        box["status"] = await asyncio.gather(box["task"], return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    port = bound.getsockname()[1]
    try:
        yield port
    finally:
        box["loop"].call_soon_threadsafe(box["task"].cancel)
        thread.join(30)
        assert not thread.is_alive()


class SlowLoad:
    """An engine that loads until it is let go, and tells how far it is."""

    def __init__(self, chat_format: Any) -> None:
        self.chat_format, self.status, self.media_reader = chat_format, None, None
        self.loading: Loading | None = None
        self.latest_load: Loading | None = None
        self.on_life: Any = None
        self.loaded = threading.Event()

    @property
    def state(self) -> EngineState:
        return EngineState.READY if self.loaded.is_set() else EngineState.LOADING

    async def start(self) -> None:
        while not self.loaded.is_set():
            await asyncio.sleep(0.01)
        self.loading = None

    async def close(self, *, drain_seconds: float = 0.0) -> None: ...


def test_a_load_is_seen_in_health_metrics_and_log(
    chat_format: Any, lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(load_lines, "QUIET_SECONDS", 0.0)
    engine = SlowLoad(chat_format)
    with the_program(engine) as port:
        url = f"http://127.0.0.1:{port}"
        reply = httpx.get(url + "/health")
        assert reply.status_code == 503 and reply.json()["status"] == "loading"
        engine.loading = engine.latest_load = Loading("weights", 150 * 10**9, 600 * 10**9, 75.0)
        reply = httpx.get(url + "/health")
        assert reply.status_code == 503 and reply.headers["retry-after"] == "60"
        assert reply.json() == {
            "status": "loading", "phase": "weights", "bytes_done": 150 * 10**9,
            "bytes_total": 600 * 10**9, "percent": 25.0, "bytes_per_second": 2 * 10**9,
            "seconds_left": 225.0,
        }  # fmt: skip
        asked = httpx.post(url + URL, json=BODY)
        assert asked.status_code == 503 and asked.json()["error"]["code"] == "loading"
        assert asked.headers["retry-after"] == "60"
        text = httpx.get(url + "/metrics").text
        for name, value in (
            ("model_loading", 1), ("load_bytes_done", 150e9), ("load_bytes_total", 600e9),
            ("load_bytes_per_second", 2e9), ("load_seconds_left", 225),
        ):  # fmt: skip
            assert metric(text, name) == value, name
        said = "loading tiny: 150.00 GB of 600.00 GB (25%), 2.00 GB/s, 3:45 left"
        assert eventually(lambda: said in lines()), lines()
        engine.loaded.set()
        assert eventually(lambda: httpx.get(url + "/health").status_code == 200)
        assert eventually(lambda: metric(httpx.get(url + "/metrics").text, "model_loading") == 0)


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_real_loads_tell_of_their_bytes(tiny_folder: Path, isolation: Any) -> None:
    engine = AsyncEngine(tiny_folder, isolation=isolation, cache_tokens=65_536)
    service = make_service(engine)
    seen: list[Loading] = []
    handle = engine._on_event

    def watched(event: Any) -> None:
        if isinstance(event, Loading):
            seen.append(event)
        handle(event)

    engine._on_event = watched  # type: ignore[method-assign]
    async with asgi_client(service) as client:
        starting = asyncio.create_task(engine.start())
        statuses = []
        while not starting.done():
            statuses.append((await client.get("/health")).status_code)
            await asyncio.sleep(0.02)
        await starting
        # Ready may come between two looks, before the task that waits for it has ended.
        assert statuses[0] == 503 and statuses == sorted(statuses, reverse=True)
        assert set(statuses) <= {503, 200}
        assert (await client.get("/health")).status_code == 200
        text = (await client.get("/metrics")).text
        assert metric(text, "load_bytes_done") == metric(text, "load_bytes_total") > 0
        assert metric(text, "load_seconds_left") == 0 == metric(text, "model_loading")
        assert seen[-1].phase == "preparing"
        weights = sum(f.stat().st_size for f in tiny_folder.glob("*.safetensors"))
        assert 0.8 * weights < seen[-1].done == seen[-1].total <= weights
        await engine.close()


class Terminal:
    """A stream that says it is a terminal."""

    def __init__(self, is_terminal: bool) -> None:
        self.text, self._is = "", is_terminal

    def isatty(self) -> bool:
        return self._is

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...


def test_a_terminal_has_one_line_and_a_file_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    for is_terminal in (True, False):
        said: list[str] = []
        now = 100.0
        stream = Terminal(is_terminal)
        shown = LoadLines(
            "big", lambda text, fields: said.append(text),  # noqa: B023
            plain=False, stream=stream, clock=lambda: now,  # type: ignore[arg-type]  # noqa: B023
        )  # fmt: skip
        for tick in range(1200):  # 600 s at 2 looks a second
            now = 100.0 + tick / 2
            shown.show(Loading("weights", tick * 10**9 // 2, 600 * 10**9, tick / 2))
        shown.show(Loading("preparing", 600 * 10**9, 600 * 10**9, 600.0))
        shown.show(None)
        if is_terminal:
            assert not said and "\n" not in stream.text
            drawn = stream.text.split("\r\x1b[K")
            assert len(drawn) > 1000 and max(map(len, drawn)) < 80
            assert "1.00 GB/s, 5:00 left" in drawn[600]
            assert stream.text.endswith("\r\x1b[K")
        else:
            assert not stream.text and 55 < len(said) < 75  # every 10 s
            assert said[-1].endswith("600.00 GB of 600.00 GB (100%), preparing")


def test_a_short_load_says_nothing() -> None:
    said: list[str] = []
    stream = Terminal(True)
    shown = LoadLines("x", lambda *given: said.append(""), plain=False, stream=stream)  # type: ignore[arg-type]
    shown.show(Loading("weights", 1, 2, 0.1))
    shown.show(Loading("preparing", 2, 2, 0.2))
    shown.show(None)
    assert not said and not stream.text


def test_the_fields_of_a_line_in_json() -> None:
    record = logging.LogRecord("perilune.serve", logging.INFO, "", 0, "loading", (), None)
    fields = load_lines.as_json(Loading("weights", 1, 4, 2.0))
    record.__dict__.update(event="loading", **fields)
    found = json.loads(JsonLines().format(record))
    assert found["bytes_done"] == 1 and found["seconds_left"] == 6.0 and found["event"] == "loading"
