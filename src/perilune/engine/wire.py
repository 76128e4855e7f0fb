"""Commands and events as bytes, for an engine in another process: msgpack, never pickle.

A message is its length (4 bytes, big-endian) and a list [kind, body]. Source: msgpack.org.
"""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

import msgspec

from perilune.engine.core_messages import (
    Accepted,
    Add,
    Cancel,
    Command,
    Died,
    EndThinking,
    Event,
    Loading,
    Outputs,
    Refused,
    Stop,
)
from perilune.engine.options import EngineOptions

LENGTH = struct.Struct(">I")

_COMMANDS: dict[str, type[Command]] = {
    "add": Add,
    "cancel": Cancel,
    "end_thinking": EndThinking,
    "stop": Stop,
}


def frame(kind: str, body: Any) -> bytes:
    data = msgspec.msgpack.encode([kind, body])
    return LENGTH.pack(len(data)) + data


def read_frame(stream: BinaryIO) -> tuple[str, Any] | None:
    """The next message, decoded to plain values; None at the end of the stream."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    body = stream.read(LENGTH.unpack(head)[0])
    return unpack(body)


def unpack(data: bytes) -> tuple[str, Any]:
    kind, body = msgspec.msgpack.decode(data, strict=False)
    return kind, body


def command_frame(command: Command) -> bytes:
    kind = next(kind for kind, type_ in _COMMANDS.items() if type(command) is type_)
    return frame(kind, command)


def read_command(kind: str, body: Any) -> Command:
    command: Command = msgspec.convert(body, _COMMANDS[kind], strict=False)
    return command


def load_frame(model: str, options: EngineOptions) -> bytes:
    return frame("load", [model, options])


def read_load(body: Any) -> tuple[str, EngineOptions]:
    return body[0], msgspec.convert(body[1], EngineOptions)


def event_frame(event: Event) -> bytes:
    match event:
        case Outputs():
            return frame("outputs", event)
        case Accepted():
            return frame("accepted", event)
        case Refused():
            return frame("refused", event)
        case Died():
            return frame("died", event)
        case Loading():
            return frame("loading", event)


def read_event(kind: str, body: Any) -> Event:
    if kind == "outputs":
        return msgspec.convert(body, Outputs)
    if kind == "accepted":
        return msgspec.convert(body, Accepted)
    if kind == "refused":
        return msgspec.convert(body, Refused)
    if kind == "loading":
        return msgspec.convert(body, Loading)
    return msgspec.convert(body, Died)
