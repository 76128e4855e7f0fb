"""Programs of others, from npm and PyPI and unmodified, at work on a server of ours.

Behind the server stands a script instead of weights (clients/script.py): it asks for a file to be
written and then says that it is done; libraries are also asked for an object. Everything in front
of it is real: the engine, the grammars, the wire, the client and its tools. A client passes when
the file is there and the last words of the script, and the object, are printed.

    python scripts/try_clients.py [--folder DIR] [CLIENT ...]

Needs npm, and 4 GB in the folder (a temporary one without --folder). Requests to any other machine
go to a proxy that refuses and counts them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.clients.catalogue import CLIENTS  # noqa: E402
from scripts.clients.client import PROGRAMS, Client, Setting  # noqa: E402
from scripts.clients.proxy import refusing_proxy  # noqa: E402
from scripts.clients.script import respond  # noqa: E402
from tests.engine.models import write_tiny  # noqa: E402
from tests.serve.scripted import Scripted, scripted_engine  # noqa: E402
from tests.serve.servers import MODEL, socket_server  # noqa: E402

from perilune.chat.format import ChatFormat  # noqa: E402
from perilune.engine.async_engine import AsyncEngine  # noqa: E402
from perilune.serve.service import Service  # noqa: E402

CONTEXT = 600_000  # the tokenizer of the tests has a token a byte, and these prompts are long


def try_client(name: str, folder: Path, url: str, proxy: str, seen: Counter[str]) -> bool:
    """Run the task, print what it printed; True when it did it."""
    client = CLIENTS[name]
    bin_folder = client.install(folder / name)
    path = [*client.node_folders(folder), str(bin_folder), os.environ["PATH"]]
    with tempfile.TemporaryDirectory(prefix="perilune-clients-") as temporary:
        home, work = Path(temporary) / "home", Path(temporary) / "work"
        home.mkdir()
        work.mkdir()
        environment = {
            "HOME": str(home), "PATH": ":".join(path), "TERM": "dumb", "LANG": "C.UTF-8",
            "HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "http_proxy": proxy, "https_proxy": proxy,
            "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost",
            "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_BASE": f"{url}/v1",
            "OPENAI_API_KEY": "none", "OPENAI_MODEL": MODEL,
            **dict(client.environment),
        }  # fmt: skip
        command = list(client.command)
        print(f"\n--- {name}", flush=True)
        if client.set_up is None:
            connect(name, url, environment)
        else:
            client.set_up(Setting(url, MODEL, home, work, environment))
        if command[0] == "node":  # an ES module finds packages beside itself only
            command[1] = shutil.copy(PROGRAMS / command[1], folder / name)
        print("$", " ".join(command), f'"{client.task}"', flush=True)
        seen.clear()
        ok, said = run(client, [*command, client.task], environment, work)
        print(said, end="")
        requests = ", ".join(f"{count} x {what}" for what, count in sorted(seen.items()))
        print(f"-> {'passed' if ok else 'FAILED'} ({requests})", flush=True)
        return ok


def connect(name: str, url: str, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "perilune", "connect", name, "--base-url", url, "--write"]
    print(f"$ perilune connect {name} --write", flush=True)
    variables = {k: v for k, v in environment.items() if not k.startswith("OPENAI_")}
    subprocess.run(command, env={**variables, "PYTHONPATH": str(ROOT / "src")}, check=True)


def run(
    client: Client, command: list[str], environment: dict[str, str], work: Path
) -> tuple[bool, str]:
    """Whether it did the task, and what it printed."""
    if client.set_up is None:
        environment = {k: v for k, v in environment.items() if not k.startswith("OPENAI_")}
    try:
        done = subprocess.run(
            command, env=environment, cwd=work, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=570,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode("utf-8", "replace") if error.stdout else ""
        return False, f"{output}\nit did not end in {error.timeout:g} s\n"
    written = work / "moon.txt"
    text = written.read_text().strip() if written.is_file() else ""
    said = done.stdout + done.stderr
    ok = done.returncode == 0 and text == client.writes
    return ok and all(part in done.stdout for part in client.prints), said


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
        folder = (arguments.folder or Path(temporary)).absolute()
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
        print(f"{' '.join(CLIENTS[name].packages)}: {'passed' if ok else 'FAILED'}")
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
