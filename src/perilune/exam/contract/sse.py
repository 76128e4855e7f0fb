"""Server-sent events as they came over the wire, kept so that rules about bytes can be checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from perilune.exam.contract.check import Violation

DONE = "[DONE]"


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its lines as sent, its name (None: none was sent) and its data."""

    lines: tuple[str, ...]
    name: str | None
    data: str

    @property
    def json(self) -> Any:
        """The data as JSON; None when it is none."""
        try:
            return json.loads(self.data)
        except ValueError:
            return None


def read_events(body: bytes) -> list[Event]:
    """Events with data, in order; comments are left out. Raises Violation for invalid UTF-8."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Violation(f"the stream is not UTF-8: {error}") from None
    events = []
    for block in text.replace("\r\n", "\n").replace("\r", "\n").split("\n\n"):
        lines = tuple(line for line in block.split("\n") if line and not line.startswith(":"))
        if not lines:
            continue
        name, data = None, []
        for line in lines:
            field, _, value = line.partition(":")
            if field == "event":
                name = value.strip()
            elif field == "data":
                data.append(value.removeprefix(" "))
        events.append(Event(lines, name, "\n".join(data)))
    return events
