"""How a tool call streams. P0 to P2: priorities of Moonshot's interface."""

from __future__ import annotations

import re
from typing import Any

from perilune.exam.contract.check import Level, Skip, expect, expect_int, expect_text
from perilune.exam.contract.scenarios import ChatStream
from perilune.exam.contract.stream_rule import stream_rule


@stream_rule(
    "tool-first-chunk",
    "A tool call begins with index, id, type function and the function's name.",
    why="Clients open the call with it.",
    priority="P0",
    of=("tools", "calls"),
)
def tool_first_chunk(stream: ChatStream) -> None:
    for piece in _first_pieces(stream):
        expect_int(piece.get("index"), "index of the call")
        expect_text(piece.get("id"), "id of the call")
        expect(piece.get("type") == "function", f"type is {piece.get('type')!r}")
        expect_text((piece.get("function") or {}).get("name"), "the function's name")


@stream_rule(
    "tool-empty-start",
    "The first chunk of a tool call has empty arguments.",
    why="A page shows the call before its arguments are there.",
    priority="P0",
    level=Level.KIMI,
    of=("tools", "calls"),
)
def tool_empty_start(stream: ChatStream) -> None:
    for piece in _first_pieces(stream):
        found = (piece.get("function") or {}).get("arguments")
        expect(found == "", f"the first arguments are {found!r}")


@stream_rule(
    "tool-later-chunks",
    "Later chunks of a tool call are index and function.arguments only.",
    why="Clients join strings: an id or a name sent twice is doubled.",
    priority="P0",
    of=("tools", "calls"),
)
def tool_later_chunks(stream: ChatStream) -> None:
    for pieces in _pieces(stream).values():
        for piece in pieces[1:]:
            surplus = {name for name, value in piece.items() if value is not None} - {
                "index", "function"
            }  # fmt: skip
            expect(surplus <= {"type"}, f"a later chunk repeats {sorted(surplus)}")
            function = piece.get("function") or {}
            expect(isinstance(function.get("arguments"), str), "a later chunk has no arguments")
            expect(function.get("name") is None, "a later chunk repeats the name")


@stream_rule(
    "tool-index",
    "Tool calls are numbered 0, 1, 2 and so on.",
    why="Clients put the calls into a list by index.",
    priority="P0",
    of=("tools", "calls"),
)
def tool_index(stream: ChatStream) -> None:
    found = list(_pieces(stream))
    expect(found == list(range(len(found))), f"the calls have the indices {found}")


@stream_rule(
    "tool-order",
    "A tool call is finished before the next begins.",
    why="Clients run a call when the next one opens.",
    priority="P1",
    of=("tools", "calls"),
)
def tool_order(stream: ChatStream) -> None:
    seen: list[Any] = []
    for delta in stream.deltas():
        for piece in delta.get("tool_calls") or ():
            if not seen or seen[-1] != piece.get("index"):
                seen.append(piece.get("index"))
    expect(len(seen) == len(set(seen)), f"the calls come interleaved: {seen}")


@stream_rule(
    "tool-id-form",
    "A tool call's id is its name and its number: get_weather_0 or functions.get_weather:0.",
    why="Kimi's template numbers calls; an id of another form has to be renamed in the history.",
    priority="P2",
    level=Level.KIMI,
    of=("tools", "calls"),
)
def tool_id_form(stream: ChatStream) -> None:
    for piece in _first_pieces(stream):
        name = re.escape((piece.get("function") or {}).get("name") or "?")
        found = str(piece.get("id"))
        expect(re.fullmatch(rf"{name}_\d+|functions\.{name}:\d+", found), f"id is {found!r}")


def _pieces(stream: ChatStream) -> dict[Any, list[dict[str, Any]]]:
    """Chunks of each call of the first answer, in order."""
    found: dict[Any, list[dict[str, Any]]] = {}
    for delta in stream.deltas():
        for piece in delta.get("tool_calls") or ():
            found.setdefault(piece.get("index"), []).append(piece)
    if not found:
        raise Skip("the answer has no tool call")
    return found


def _first_pieces(stream: ChatStream) -> list[dict[str, Any]]:
    return [pieces[0] for pieces in _pieces(stream).values()]
