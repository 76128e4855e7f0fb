"""The pieces of tool calls, as servers stream them -> whole calls.

Servers leave the index out, give every call index 0, skip numbers, repeat the name or the id in
every piece, make a new id for every piece, or send the arguments as an object. A piece belongs to
an earlier call unless something says that a new one begins.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from perilune.agent.models.server_events import read_json


@dataclass(slots=True)
class OpenCall:
    """A call as far as it has come."""

    id: str = ""
    name: str = ""
    arguments: str = ""

    @property
    def is_whole(self) -> bool:
        """It has a name, and its arguments are a JSON object (none at all count as one)."""
        return bool(self.name.strip()) and are_arguments(self.arguments)


def are_arguments(text: str) -> bool:
    """Whether a text is a JSON object, or blank, as calls without arguments are written."""
    if not text.strip():
        return True
    try:
        return isinstance(read_json(text), dict)
    except ValueError:
        return False


class ToolCallIndex:
    """Numbers and assembles the calls of one completion."""

    def __init__(self, function_names: Collection[str] = ()) -> None:
        self.calls: list[OpenCall] = []
        self._known = function_names
        self._place: dict[int, OpenCall] = {}

    def add(self, piece: Any) -> None:
        """Take one entry of `tool_calls`; what is not an object is passed over."""
        if not isinstance(piece, dict):
            return
        function = piece.get("function")
        if not isinstance(function, dict):
            function = piece
        name = function.get("name")
        call_id = piece.get("id")
        self._add(
            _whole_number(piece.get("index")),
            str(call_id) if isinstance(call_id, str | int) and call_id != "" else "",
            name if isinstance(name, str) else "",
            _arguments(function.get("arguments")),
        )

    def _add(self, index: int | None, call_id: str, name: str, arguments: str) -> None:
        call = self._open_call(index, call_id, name)
        if call is None:
            if not (call_id or name or arguments):
                return
            call = OpenCall(call_id)
            self.calls.append(call)
        if index is not None:
            self._place[index] = call
        call.id = call.id or call_id
        call.name = self._joined_name(call.name, name)
        # A piece that repeats all that came is a server's summary of it, not more of it.
        if not (arguments == call.arguments and len(arguments) > 1 and call.is_whole):
            call.arguments += arguments

    def _open_call(self, index: int | None, call_id: str, name: str) -> OpenCall | None:
        """The call that a piece goes on with; None for a new one."""
        if call_id:
            same_id = [each for each in self.calls if each.id == call_id]
            if index is None and same_id:
                return same_id[-1]
        if index is not None:
            call = self._place.get(index)
            if call is None and not call_id and not name and self.calls:
                return self.calls[-1]  # the number jumped inside the arguments
        else:
            call = self.calls[-1] if self.calls else None
        if call is None:
            return None
        new_id = call_id and call.id and call_id != call.id
        if index is None:
            begins = bool(new_id) or bool(name and call.arguments.strip() and call.is_whole)
        else:
            begins = bool(new_id and name)
        if begins and name and name == call.name and not call.is_whole:
            begins = False  # a new id for every piece
        return None if begins else call

    def _joined_name(self, known: str, piece: str) -> str:
        """Names come whole, in pieces, or again and again."""
        if not piece or piece == known:
            return known or piece
        if not known or (piece.startswith(known) and piece in self._known):
            return piece
        if known in self._known and known + piece not in self._known:
            return known
        return known + piece


def _whole_number(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 10:
        return int(value)
    return None


def _arguments(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        return "{"  # never whole
