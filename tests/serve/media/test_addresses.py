"""Addresses and files: refused unless the operator allows them, then through the guard alone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from perilune.search.web.net_guard import NetGuard
from perilune.serve.settings import Settings
from tests.chat.media.samples import picture, saved

from ..scripted import Turn
from ..seeing import pixels_of
from .wire import ALL, CHAT, PLACES, asking, data_url

FILE = saved(picture(60, 40), "PNG")
ALLOWED = Settings(allow_media_urls=True, media_seconds=5.0)
OPEN = NetGuard.allowing(["127.0.0.1/32"])


class Site(ThreadingHTTPServer):
    """Pictures on loopback, and what a hostile site would send. `asked`: the paths."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.release = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        match self.path.partition("?")[0]:
            case "/away":
                self._send(302, b"", location="http://169.254.169.254/latest/meta-data/")
            case "/there":
                self._send(302, b"", location="/picture.png")
            case "/missing":
                self._send(404, FILE)
            case "/large":
                self._send(200, b"\0" * (1 << 20))
            case "/slow":
                self.server.release.wait(30)
            case "/page":
                self._send(200, b"<html>")
            case _:
                self._send(200, FILE)

    def _send(self, status: int, body: bytes, location: str = "") -> None:
        self.send_response(status)
        if location:
            self.send_header("location", location)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *given: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    thread = threading.Thread(target=site.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield site
    site.release.set()
    site.shutdown()
    site.server_close()


@pytest.mark.parametrize("path", ALL)
async def test_an_allowed_address_is_fetched_once(scripted: Any, site: Site, path: str) -> None:
    url = f"{site.url}/there?token=secret"
    async with scripted(Turn("Seen."), eyes=True, settings=ALLOWED, guard=OPEN) as client:
        answer = await client.post(path, json=asking(path, url, url))
        assert answer.status_code == 200, answer.text
        assert client.eyes.seen == [pixels_of(FILE)]
        assert site.asked == ["/there?token=secret", "/picture.png"]


@pytest.mark.parametrize("path", ALL)
async def test_nothing_is_fetched_unless_it_is_allowed(
    scripted: Any, site: Site, path: str
) -> None:
    async with scripted(Turn("Seen."), eyes=True, guard=OPEN) as client:
        answer = await client.post(path, json=asking(path, f"{site.url}/x.png"))
        assert answer.status_code == 400 and "fetches nothing" in answer.text
        assert site.asked == []


@pytest.mark.parametrize(
    "form",
    ["http://127.0.0.1:{port}/x", "http://localhost:{port}/x", "http://2130706433:{port}/x",
     "http://0x7f000001:{port}/x", "http://[::ffff:127.0.0.1]:{port}/x", "http://127.1:{port}/x",
     "http://a@127.0.0.1:{port}/x", "http://127.0.0.1:{port}\\@example.com/x",
     " http://127.0.0.1:{port}/x", "http://169.254.169.254/latest/meta-data/"],
)  # fmt: skip
async def test_the_guard_keeps_its_own_network_out_of_reach(
    scripted: Any, site: Site, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = form.format(port=site.server_address[1])
    async with scripted(Turn("Seen."), eyes=True, settings=ALLOWED) as client:
        with caplog.at_level(logging.INFO, "perilune.serve"):
            answer = await client.post(CHAT, json=asking(CHAT, url))
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["code"] == "failed_to_download_image" and error["param"] == PLACES[CHAT]
        # Neither what the name resolved to nor why it was refused: that would be a map.
        assert "127" not in error["message"] and "169" not in error["message"]
        assert site.asked == [] and url.strip() not in caplog.text


async def test_what_a_site_may_do_wrong(scripted: Any, site: Site) -> None:
    settings = Settings(allow_media_urls=True, media_seconds=1.0, max_image_bytes=65_536)
    cases = {
        "away": "failed_to_download_image",
        "missing": "failed_to_download_image",
        "large": "failed_to_download_image",
        "slow": "failed_to_download_image",
        "page": "invalid_image_format",
    }
    async with scripted(Turn("Seen."), eyes=True, settings=settings, guard=OPEN) as client:
        for name, code in cases.items():
            answer = await client.post(CHAT, json=asking(CHAT, f"{site.url}/{name}"))
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, code), name
        good = await client.post(CHAT, json=asking(CHAT, f"{site.url}/good"))
        assert good.status_code == 200


async def test_what_is_fetched_counts_as_if_it_had_been_sent(scripted: Any, site: Site) -> None:
    settings = Settings(allow_media_urls=True, max_body_bytes=2 * len(FILE) + 100)
    async with scripted(Turn("Seen."), eyes=True, settings=settings, guard=OPEN) as client:
        urls = [f"{site.url}/{n}.png" for n in range(3)]
        assert (await client.post(CHAT, json=asking(CHAT, *urls[:2]))).status_code == 200
        assert (await client.post(CHAT, json=asking(CHAT, *urls))).status_code == 400


async def test_counting_fetches_too(scripted: Any, site: Site) -> None:
    async with scripted(Turn("Seen."), eyes=True, settings=ALLOWED, guard=OPEN) as client:
        for url in (f"{site.url}/x.png", data_url(FILE)):
            reply = await client.post("/v1/chat/completions/input_tokens", json=asking(CHAT, url))
            assert reply.status_code == 200
        assert not client.eyes.seen


async def test_files_below_the_folder_of_the_operator(scripted: Any, tmp_path: Path) -> None:
    folder, secret = tmp_path / "pictures", tmp_path / "secret.png"
    folder.mkdir()
    (folder / "a.png").write_bytes(FILE)
    secret.write_bytes(FILE)
    (folder / "link.png").symlink_to(secret)
    settings = Settings(media_folder=folder)
    good = ["a.png", "./a.png", f"file://{folder}/a.png", str(folder / "a.png")]
    bad = ["../secret.png", "link.png", str(secret), "file:///etc/passwd", "none.png", ".",
           "..%2fsecret.png", "a.png\0", "ftp://x/a.png", "http://127.0.0.1/a.png"]  # fmt: skip
    async with scripted(Turn("Seen."), eyes=True, settings=settings) as client:
        for url in good:
            answer = await client.post(CHAT, json=asking(CHAT, url))
            assert answer.status_code == 200, (url, answer.text)
        for url in bad:
            answer = await client.post(CHAT, json=asking(CHAT, url))
            assert answer.status_code == 400, url
            assert answer.json()["error"]["code"] == "invalid_image_url", url
        assert client.eyes.seen == [pixels_of(FILE)]
