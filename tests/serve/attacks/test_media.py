"""Images and videos: nothing is fetched, nothing is opened, and nothing large is decoded."""

from __future__ import annotations

import base64
import http.server
import struct
import threading
import zlib
from typing import Any

import pytest

from perilune.serve.routes import all_routes
from perilune.serve.settings import Settings

from ..scripted import Turn

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(
            ">I", zlib.crc32(kind + data)
        )  # fmt: skip

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")
    )


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


# Source of the forms: CVE-2025-6242, CVE-2026-24779 (one parser saw a host, another a user),
# CVE-2026-45400, CVE-2026-45401.
ELSEWHERE = [
    "http://127.0.0.1:{port}/x.png",
    "HTTP://127.0.0.1:{port}/x.png",
    " http://127.0.0.1:{port}/x.png",
    "http://allowed.example@127.0.0.1:{port}/x.png",
    "http://127.0.0.1:{port}\\@allowed.example/x.png",
    "http://localhost:{port}/x.png",
    "http://2130706433:{port}/x.png",
    "http://0x7f000001:{port}/x.png",
    "http://[::ffff:127.0.0.1]:{port}/x.png",
    "http://169.254.169.254/latest/meta-data/",
    "//127.0.0.1:{port}/x.png",
    "ftp://127.0.0.1:{port}/x.png",
    "gopher://127.0.0.1:{port}/x",
    "file:///etc/passwd",
    "file:/etc/passwd",
    "/etc/passwd",
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "C:\\Windows\\win.ini",
    "\\\\127.0.0.1\\share\\x.png",
    "blob:http://127.0.0.1:{port}/x",
    "javascript:alert(1)",
    "",
    "data",
    "\x00data:image/png;base64,AAAA",
]


class Listener:
    """Somewhere a request could be tricked to go; it counts who comes."""

    def __enter__(self) -> Listener:
        self.asked: list[str] = []
        listener = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                listener.asked.append(self.path)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def bodies(url: str) -> list[tuple[str, dict[str, Any]]]:
    """The same address in every place where an API takes one."""

    def user(part: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}]

    known = {route.path for route in all_routes()}
    every = [
        (CHAT, {"messages": user({"type": "image_url", "image_url": {"url": url}})}),
        (CHAT, {"messages": user({"type": "image_url", "image_url": url})}),
        (CHAT, {"messages": user({"type": "video_url", "video_url": {"url": url}})}),
        (MESSAGES, {"max_tokens": 8, "messages": user(
            {"type": "image", "source": {"type": "url", "url": url}})}),
        (MESSAGES, {"max_tokens": 8, "messages": user(
            {"type": "document", "source": {"type": "url", "url": url}})}),
        (RESPONSES, {"input": user({"type": "input_image", "image_url": url})}),
        (RESPONSES, {"input": user({"type": "input_file", "file_url": url})}),
    ]  # fmt: skip
    return [(path, {"model": "tiny", **body}) for path, body in every if path in known]


@pytest.mark.parametrize("form", ELSEWHERE)
@pytest.mark.parametrize("allowed", [True, False])
async def test_no_address_is_ever_fetched(scripted: Any, form: str, allowed: bool) -> None:
    """Not even where addresses are allowed: these lead to this machine, or are none."""
    settings = Settings(allow_media_urls=allowed)
    with Listener() as listener:
        async with scripted(Turn("Hi"), eyes=allowed, settings=settings) as client:
            for path, body in bodies(form.format(port=listener.port)):
                answer = await client.post(path, json=body)
                assert answer.status_code == 400, (path, answer.text[:200])
                assert "model" not in answer.json()["error"]["message"][:12]
                assert "root:" not in answer.text
        assert listener.asked == []


@pytest.mark.parametrize(
    "data",
    [
        png(1, 1),
        png(2**31 - 1, 2**31 - 1),  # a bomb: 12 exabytes of pixels
        b"\x89PNG\r\n\x1a\n" + b"\xff" * 200,
        b"\x00\x00\x00\x0cjP  \r\n\x87\n" + b"\x00" * 64,  # JPEG 2000 (CVE-2026-22778)
        b"GIF89a" + b"\xff" * 64,
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"%PDF-1.7",
        b"",
    ],
    ids=lambda data: repr(data[:12]),
)
@pytest.mark.parametrize("eyes", [True, False])
async def test_images_are_refused_without_decoding(scripted: Any, data: bytes, eyes: bool) -> None:
    """CVE-2026-22773, -5497, -22778. A model without eyes refuses all, one with eyes these."""
    async with scripted(Turn("Hi"), eyes=eyes) as client:
        for path, body in bodies(data_url(data)):
            answer = await client.post(path, json=body)
            assert answer.status_code == 400, (path, answer.text[:200])
            assert "0x" not in answer.json()["error"]["message"]  # no address of memory
        answer = await client.post(CHAT, json={"messages": [{"role": "user", "content": "x"}]})
        assert answer.status_code == 200


async def test_many_and_large_media_are_refused(scripted: Any) -> None:
    async with scripted(Turn("Hi"), eyes=True) as client:
        part = {"type": "image_url", "image_url": {"url": data_url(png(1, 1))}}
        many = {"messages": [{"role": "user", "content": [part] * 5000}]}
        assert (await client.post(CHAT, json=many)).status_code == 400
        large = {
            "type": "image_url",
            "image_url": {"url": data_url(b"\x89PNG\r\n\x1a\n" + b"a" * (21 << 20))},
        }
        answer = await client.post(CHAT, json={"messages": [{"role": "user", "content": [large]}]})
        assert answer.status_code in (400, 413)


def test_the_server_imports_no_decoder() -> None:
    """What is not there cannot be attacked."""
    import subprocess
    import sys

    code = (
        "import perilune.serve.app, perilune.serve.build, sys;"
        "print('PIL' in sys.modules, 'cv2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
