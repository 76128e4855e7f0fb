"""The way to every other machine: a proxy that refuses, and counts what was asked of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def refusing_proxy() -> Iterator[tuple[str, Counter[str]]]:
    """(address, what was asked of it)."""
    asked: Counter[str] = Counter()

    class Refuse(BaseHTTPRequestHandler):
        def refuse(self) -> None:
            asked[self.path] += 1
            self.send_error(403)

        do_CONNECT = do_GET = do_POST = do_HEAD = refuse

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
