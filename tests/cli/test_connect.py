"""`perilune connect`: what it prints, what it writes, and what it leaves as it was."""

from __future__ import annotations

import json
import shlex
import stat
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from perilune.cli.client_settings import BEGIN, CLIENTS, Target, settings_for
from perilune.cli.connect import app
from perilune.errors import UsageError

TARGET = Target("http://127.0.0.1:8000", "kimi-k2.5", 262_144, "sk-test-key")


@pytest.fixture
def server() -> Iterator[str]:
    class Models(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers.get("authorization") == "Bearer sk-test-key"
            body = json.dumps({"data": [{"id": "tiny", "max_model_len": 4096}]}).encode()
            self.send_response(200 if known else 401)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Models) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CLAUDE_CONFIG_DIR", "KIMI_CODE_HOME", "CODEX_HOME", "PERILUNE_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def refused(*arguments: str) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, UsageError), result.output
    return str(result.exception)


def test_it_asks_the_server_and_prints_for_a_shell(server: str, home: Path) -> None:
    done = run("claude", "--base-url", f"{server}/v1/", "--api-key", "sk-test-key")
    exported = dict(shlex.split(line)[1].split("=", 1) for line in done.stdout.splitlines())
    assert exported["ANTHROPIC_BASE_URL"] == server
    assert exported["ANTHROPIC_AUTH_TOKEN"] == "sk-test-key"
    assert exported["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "tiny"
    assert exported["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "4096"
    assert exported["CLAUDE_CODE_ATTRIBUTION_HEADER"] == "0"
    assert not list(home.iterdir())  # nothing was written
    assert "settings.json" in done.stderr


def test_it_writes_every_client(server: str, home: Path) -> None:
    files = {
        "claude": ".claude/settings.json", "kimi": ".kimi-code/config.toml",
        "codex": ".codex/perilune.config.toml", "openai": ".env",
    }  # fmt: skip
    for client, file in files.items():
        asked = (client, "--base-url", server, "--api-key", "sk-test-key", "--write", "--json")
        said = json.loads(run(*asked).stdout)
        written = home / file
        assert (home / said["path"]).resolve() == written.resolve() and said["written"]
        assert stat.S_IMODE(written.stat().st_mode) == 0o600
        assert server in written.read_text()


def test_what_cannot_be_asked_for_says_how_to_go_on(server: str, home: Path) -> None:
    assert "--api-key" in refused("kimi", "--base-url", server)
    assert "--model" in refused("kimi", "--base-url", "http://127.0.0.1:9")
    key = ("--api-key", "sk-test-key")
    assert "tiny" in refused("kimi", "--base-url", server, *key, "--model", "big")
    assert "claude, kimi" in refused("vim")


def test_other_settings_of_claude_stay() -> None:
    old = json.dumps({"model": "opus", "env": {"A": "1", "ANTHROPIC_MODEL": "old"}})
    new = json.loads(settings_for("claude", TARGET).merge(old))
    assert new["model"] == "opus" and new["env"]["A"] == "1"
    assert new["env"]["ANTHROPIC_MODEL"] == "kimi-k2.5"


def test_our_part_of_a_file_is_renewed_and_the_rest_stays() -> None:
    settings = settings_for("kimi", TARGET)
    mine = '# mine\ntheme = "dark"\n\n[other]\nx = 1\n'
    once = settings.merge(mine)
    assert mine in once and settings.merge(once) == once
    moved = settings_for("kimi", Target("http://127.0.0.1:9000", 'a"b\\c', 10))
    twice = moved.merge(once + "[later]\ny = 2\n")
    assert twice.count(BEGIN) == 1
    read = tomllib.loads(twice)
    assert (read["theme"], read["default_model"]) == ("dark", "perilune")
    assert read["later"] == {"y": 2} and read["other"] == {"x": 1}
    assert read["models"]["perilune"]["model"] == 'a"b\\c'
    assert "9000" in twice and "8000" not in twice


def test_the_profile_of_codex_is_a_file_of_ours() -> None:
    settings = settings_for("codex", TARGET)
    assert settings.merge(settings.merge(None)) == settings.merge(None)


def test_kimi_and_codex_find_the_server() -> None:
    kimi = tomllib.loads(settings_for("kimi", TARGET).merge(None))
    provider = kimi["providers"]["perilune"]
    assert provider["base_url"] == "http://127.0.0.1:8000/v1"
    assert kimi["models"]["perilune"]["max_context_size"] == 262_144
    assert kimi["default_model"] == "perilune"
    own = settings_for("kimi", TARGET).merge('default_model = "mine"\n')
    assert tomllib.loads(own)["default_model"] == "mine"
    codex = tomllib.loads(settings_for("codex", TARGET).merge(None))
    assert codex["model_providers"]["perilune"]["wire_api"] == "responses"
    assert codex["model_providers"]["perilune"]["env_key"] == "PERILUNE_API_KEY"
    assert "sk-test-key" not in settings_for("codex", TARGET).merge(None)


def test_lines_of_an_env_file_are_replaced() -> None:
    merged = settings_for("openai", TARGET).merge("OPENAI_API_KEY=old\nOTHER=1\n")
    assert merged.splitlines()[0] == "OTHER=1"
    assert "OPENAI_API_KEY=sk-test-key" in merged and "old" not in merged


@pytest.mark.parametrize("client", CLIENTS)
def test_a_broken_file_is_left_alone(client: str) -> None:
    settings = settings_for(client, TARGET)
    if client == "openai":
        assert settings.merge("no equals sign").startswith("no equals sign\n")
        return
    with pytest.raises(UsageError):
        settings.merge("{ broken")
    clash = "[providers.perilune]\n[model_providers.perilune]\n" if client != "claude" else "[1]"
    with pytest.raises(UsageError):
        settings.merge(clash)


def test_claude_takes_no_slash() -> None:
    with pytest.raises(UsageError, match="slash"):
        settings_for("claude", Target("http://x", "a/b", 1))
