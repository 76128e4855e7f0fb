"""Recorded streams, damaged at random: in their JSON, their lines and their bytes."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from tests.agent.models.replay import STREAMS

RECORDED = {path.stem: path.read_bytes() for path in sorted(STREAMS.glob("*.txt"))}
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 7, 10**30, -(10**30), 1.5, float("nan"), float("inf"), "", "x", "0",
    "stop", "length", "error", "tool_calls", "\ud83d", "\ude00", "\x00", "é😀", "{", "{}", "[]",
    '{"city": "\ud83d"}', "<|tool_calls_section_begin|>", "<|tool_call_begin|>", "<|im_end|>",
    "<think>", "</think>", "`", "```\n", "x" * 3000, [], {}, [None], [[]], {"text": "x"},
    [{"type": "text", "text": "x"}], {"message": "boom", "code": 500}, {"": None},
)  # fmt: skip
LINES = (
    b": ping\n\n", b"data: [DONE]\n\n", b"data:\n\n", b"data: null\n\n", b"data: {\n\n", b"\r\n",
    b"event: error\ndata: boom\n\n", b'data: {"error": "boom"}\n\n', b"data: \xff\xfe\n\n",
    b"\xef\xbb\xbf", b"\x00",
    b'data: {"error": {"message": "maximum context length is 9", "code": 400}}\n\n', b"<html>\n",
    b"event: ping\n", b"data: keep-alive\n\n", b"data: " + b"[" * 3000 + b"\n\n", b"x: y\n",
    b'data: {"choices": [{"delta": {"content": "\\ud83d"}}]}\n\n',
)  # fmt: skip


def mutated(rng: random.Random) -> tuple[str, bytes]:
    """The name of a recorded stream, and what became of it."""
    name = rng.choice(tuple(RECORDED))
    data = RECORDED[name]
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        data = rng.choice((_json, _json, _json, _lines, _bytes))(data, rng)
    return name, data


def pieces_of(data: bytes, rng: random.Random) -> list[bytes]:
    """The bytes as a socket may give them."""
    size = rng.choice((1 << 20, 1 << 20, 200, 17, 3))
    return [data[i : i + size] for i in range(0, len(data), size)]


def _json(data: bytes, rng: random.Random) -> bytes:
    """One node of one chunk is dropped, doubled, moved or becomes something else."""
    events = data.split(b"\n\n")
    place = rng.randrange(len(events))
    head, brace, rest = events[place].partition(b"{")
    try:
        chunk = json.loads(brace + rest)
    except ValueError:
        return data
    nodes = list(_nodes(chunk))
    holder, key = rng.choice(nodes) if nodes else ({}, "x")
    match rng.randrange(6):
        case 0 if nodes:
            del holder[key]
        case 1 if nodes:
            holder[key] = [copy.deepcopy(holder[key])] * rng.choice((1, 2))
        case 2 if nodes:
            other_holder, other_key = rng.choice(nodes)
            holder[key] = copy.deepcopy(other_holder[other_key])
        case 3 if isinstance(holder, dict):
            holder[
                rng.choice(("error", "index", "id", "usage", "content", "tool_calls", "name"))
            ] = rng.choice(VALUES)
        case _ if nodes:
            holder[key] = rng.choice(VALUES)
    events[place] = head + json.dumps(chunk, ensure_ascii=rng.random() < 0.5).encode(
        "utf-8", "surrogatepass"
    )
    return b"\n\n".join(events)


def _nodes(value: Any) -> Any:
    """(container, key) of every node below a value."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in list(items):
        yield value, key
        yield from _nodes(inner)


def _lines(data: bytes, rng: random.Random) -> bytes:
    """Events are dropped, doubled or changed in order; foreign lines come in."""
    events = data.split(b"\n\n")
    place = rng.randrange(len(events))
    match rng.randrange(6):
        case 0:
            del events[place]
        case 1:
            events.insert(rng.randrange(len(events) + 1), events[place])
        case 2:
            other = rng.randrange(len(events))
            events[place], events[other] = events[other], events[place]
        case 3:
            return data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n")))
        case 4:
            return b"\n\n".join(events[:place])
        case _:
            events.insert(place, rng.choice(LINES).removesuffix(b"\n\n"))
    return b"\n\n".join(events)


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes are cut off, flipped, doubled or put in."""
    if not data:
        return rng.choice(LINES)
    at = rng.randrange(len(data))
    match rng.randrange(5):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        case 2:
            return data[:at] + rng.choice(LINES) + data[at:]
        case 3:
            return data[:at] + data[at + rng.randrange(1, 30) :]
        case _:
            return data[: at + 20] + data[at:]
