"""One server on a socket for all clients, with a script that answers by what the user asks."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perilune.chat.format import ChatFormat
from perilune.engine.async_engine import AsyncEngine

from ..scripted import Scripted, Turn, scripted_engine
from ..seeing import Eyes
from ..servers import socket_server

GREETING = "Hello from the script. Grüße, 世界!"


def respond(prompt: str) -> Turn:
    """What the model says, by the last thing that it was told."""
    last = prompt.rpartition("<|im_user|>")[2]
    if "## Return of" in last:
        return Turn("It is sunny in Oslo.", reasoning="The tool has told.")
    if "both cities" in last:
        return Turn(calls=[("get_weather", {"city": city}) for city in ("Oslo", "Ulm")])
    if "weather" in last:
        return Turn("Let me look.", reasoning="A tool.", calls=[("get_weather", {"city": "Oslo"})])
    if "person" in last:
        return Turn('{"name":"Ada","age":36}', reasoning="As JSON.")
    if "forever" in last:
        return Turn("again and ", endless=True)
    return Turn(GREETING, reasoning="They greet.")


@pytest.fixture(scope="session")
def script() -> Scripted:
    return Scripted(respond)


@pytest.fixture(scope="session")
def eyes(tiny_folder: Path) -> Eyes:
    """What the model sees with; `eyes.seen` is what it saw."""
    return Eyes(tiny_folder)


@pytest.fixture(scope="session")
def server(chat_format: ChatFormat, script: Scripted, eyes: Eyes) -> Iterator[str]:
    """The address of the server."""
    with socket_server(lambda: AsyncEngine(scripted_engine(script, chat_format, eyes=eyes))) as url:
        yield url


@pytest.fixture(autouse=True)
def only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that tries to reach another machine (telemetry, updates) fails its test."""
    connect = socket.socket.connect

    def checked(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple):
            assert address[0] in ("127.0.0.1", "::1", "localhost"), f"goes to {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", checked)
