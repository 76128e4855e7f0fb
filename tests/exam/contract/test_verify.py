"""`perilune verify` as a user runs it: over a socket, with its table, JSON, JUnit and exit code."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from perilune.cli.verify import app
from perilune.exam.contract.check import Violation
from perilune.exam.contract.report import as_junit
from perilune.exam.contract.runner import run_check, select
from perilune.exam.contract.target import Target
from tests.exam.contract.breaks import all_breaks
from tests.exam.contract.good_server import Break, GoodServer

FEW = ["--only", "chat.stream.*", "--only", "models.*", "--parallel", "2"]


@contextmanager
def listening(good: GoodServer) -> Iterator[str]:
    """The server on a socket; its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            request = httpx.Request(
                self.command, f"http://x{self.path}", headers=dict(self.headers), content=body
            )
            response = good.handle(request)
            data = response.read()
            self.send_response(response.status_code)
            for name, value in response.headers.items():
                if name != "content-length":
                    self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _handle

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def verify(url: str, *arguments: str, key: str | None = None) -> Any:
    environment = {"SERVER_KEY": key} if key else {}
    given = ["--base-url", url, "--api-key-env", "SERVER_KEY", *arguments]
    return CliRunner().invoke(app, given, env=environment)


def test_a_good_server_exits_with_zero(tmp_path: Path) -> None:
    with listening(GoodServer(key="sk-1")) as url:
        done = verify(f"{url}/v1", *FEW, "--junit", str(tmp_path / "junit.xml"), key="sk-1")
    assert done.exit_code == 0, done.output
    assert "0 failed" in done.stdout
    assert "sk-1" not in done.stdout
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert suite.tag == "testsuite"
    assert int(suite.attrib["tests"]) == len(suite.findall("testcase")) > 30
    assert suite.attrib["failures"] == "0"


def test_a_broken_server_exits_with_one_and_shows_the_evidence(tmp_path: Path) -> None:
    broken = dict(all_breaks())["chat.stream.done"]
    with listening(GoodServer(broken)) as url:
        done = verify(url, *FEW, "--json", "--junit", str(tmp_path / "junit.xml"))
        table = verify(url, *FEW)
    assert done.exit_code == table.exit_code == 1
    rows = {row["id"]: row for row in json.loads(done.stdout)["checks"]}
    row = rows["chat.stream.done"]
    assert row["status"] == "failed"
    assert row["asked"].startswith("POST /v1/chat/completions {")
    assert row["came"].startswith("200 data: ")
    assert row["why"] and row["rule"] and row["level"] == "required" and row["priority"] == "P1"
    assert "chat.stream.done" in table.stdout and "[DONE]" in table.stdout
    failures = ElementTree.parse(tmp_path / "junit.xml").getroot().findall(".//failure")
    assert len(failures) == 1


def test_the_level_decides_the_exit_code() -> None:
    broken = dict(all_breaks())["chat.stream.id-form"]
    with listening(GoodServer(broken)) as url:
        assert verify(url, *FEW).exit_code == 0
        assert verify(url, *FEW, "--fail-on", "kimi").exit_code == 1


def test_similarity_to_a_recorded_reference(tmp_path: Path) -> None:
    record = str(tmp_path / "reference.jsonl")
    with listening(GoodServer()) as url:
        some = ["--only", "models.list", "--samples", "12"]
        assert verify(url, *some, "--record", record).exit_code == 0
        done = verify(url, *some, "--reference", record, "--json")
        assert json.loads(done.stdout)["tool_calls"]["f1"] == 1.0
        assert "F1 100.0%" in verify(url, *some, "--reference", record).stdout


def test_wrong_usage_is_told_before_anything_is_asked() -> None:
    for arguments in (["--api", "soap"], ["--fail-on", "all"], ["--only", "nothing.*"]):
        done = subprocess.run(
            [sys.executable, "-m", "perilune", "verify", *arguments], capture_output=True, text=True
        )
        assert done.returncode == 2, done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "perilune", "verify", "--base-url", "http://127.0.0.1:9"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no server answers" in done.stderr


def test_what_a_server_says_cannot_steer_the_report() -> None:
    def evil(path: str, body: Any) -> Any:
        body["object"] = "\x1b[2J]]><x>\x00\ufffe"
        return body

    target = Target.connect("http://x", transport=GoodServer(Break(answer=evil)).transport)
    results = [run_check(target, check) for check in select(only=["chat.plain.fields"])]
    text = as_junit(results, "evil \x00")
    assert "\x1b" not in text and "\x00" not in text
    ElementTree.fromstring(text.encode())


@pytest.mark.parametrize("body", [b"data: \xff\xfe\n\n", b"data: {}\n\ndata: \xe6\n\n"])
def test_a_stream_that_is_not_utf8_is_caught(body: bytes) -> None:
    from perilune.exam.contract.sse import read_events

    with pytest.raises(Violation, match="UTF-8"):
        read_events(body)
