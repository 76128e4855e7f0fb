"""Commands and events as bytes, for an engine in another process: msgpack, never pickle.

A message is its length (4 bytes, big-endian) and a list [kind, body]. Source: msgpack.org.
"""

from __future__ import annotations

import struct
from dataclasses import fields
from typing import Any, BinaryIO

import msgspec

from perilune.chat import deltas
from perilune.engine.driver import (
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
    Taken,
)
from perilune.engine.metrics import EngineStatus
from perilune.engine.options import EngineOptions
from perilune.engine.request import FinishReason, RequestMetrics, SequenceOutput, TokenLogprob

LENGTH = struct.Struct(">I")

_COMMANDS: dict[str, type[Command]] = {
    "add": Add,
    "cancel": Cancel,
    "end_thinking": EndThinking,
    "stop": Stop,
}
_DELTAS: dict[str, Any] = {
    delta.__name__: delta
    for delta in (
        deltas.ReasoningDelta,
        deltas.ContentDelta,
        deltas.ToolCallStart,
        deltas.ToolCallArguments,
        deltas.ToolCallEnd,
        deltas.Truncated,
        deltas.Finished,
    )
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
        case Outputs(outputs, status):
            return frame("outputs", [[_pack_output(output) for output in outputs], status])
        case Taken():
            return frame("taken", event)
        case Refused():
            return frame("refused", event)
        case Died():
            return frame("died", event)
        case Loading():
            return frame("loading", event)


def read_event(kind: str, body: Any) -> Event:
    if kind == "outputs":
        packed, status = body
        return Outputs(
            [_unpack_output(output) for output in packed], msgspec.convert(status, EngineStatus)
        )
    if kind == "taken":
        return msgspec.convert(body, Taken)
    if kind == "refused":
        return msgspec.convert(body, Refused)
    if kind == "loading":
        return msgspec.convert(body, Loading)
    return msgspec.convert(body, Died)


def _pack_output(output: SequenceOutput) -> dict[str, Any]:
    body = {field.name: getattr(output, field.name) for field in fields(output)}
    body["deltas"] = [
        [type(delta).__name__, *(getattr(delta, field.name) for field in fields(delta))]
        for delta in output.deltas
    ]
    return body


def _unpack_output(body: dict[str, Any]) -> SequenceOutput:
    unpacked = tuple(_DELTAS[name](*values) for name, *values in body["deltas"])
    metrics, reason = body["metrics"], body["finish_reason"]
    return SequenceOutput(
        body["request_id"],
        body["index"],
        tokens=tuple(body["tokens"]),
        deltas=unpacked,
        logprobs=msgspec.convert(body["logprobs"], tuple[TokenLogprob, ...]),
        prompt_logprobs=msgspec.convert(body["prompt_logprobs"], tuple[TokenLogprob, ...]),
        finish_reason=None if reason is None else FinishReason(reason),
        stop=body["stop"],
        error=body["error"],
        metrics=None if metrics is None else msgspec.convert(metrics, RequestMetrics),
    )
