"""The bytes of a streamed reply -> its events, whatever the server's habits.

Server-sent events as the HTML Standard reads them (9.2.6: LF, CR or CRLF, a mark at the start,
comments, several data lines), and what servers send in their place: one JSON document, JSON lines,
a web page. Pure: bytes in, values out.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from perilune.agent.models.chat_model import ModelError

MAX_EVENT_SIZE = 32 * 2**20
MAX_REPLY_BYTES = 256 * 2**20
MAX_SILENT_BYTES = 4 * 2**20
"""Comments and empty events in a row; a server that says nothing more is given up."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """`value` is the JSON of `data:`; `name` that of `event:` ("" where there is none)."""

    value: Any
    name: str = ""


class Done:
    """`data: [DONE]`: the server says that the stream is whole."""


class EventReader:
    """Bytes as they come -> events. Raises `ModelError` (kind "cut") for what cannot be read;
    what came before it was yielded before."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._line_start: list[str] = []  # the pieces of a line that has no end yet
        self._after_return = False
        self._name = ""
        self._data: list[str] = []
        self._document: list[str] | None = None  # the lines of a reply that is not an event stream
        self._bytes = self._silent = self._held = 0
        self.first_line = ""  # for messages
        self.said_anything = False  # an event with data came

    def feed(self, data: bytes) -> Iterator[ServerEvent | Done]:
        self._bytes += len(data)
        self._silent += len(data)
        if self._bytes > MAX_REPLY_BYTES:
            raise broken_off(f"the reply is larger than {MAX_REPLY_BYTES >> 20} MiB")
        yield from self._lines(self._utf8.decode(data))
        if self._held > MAX_EVENT_SIZE:
            raise broken_off(f"one event is larger than {MAX_EVENT_SIZE >> 20} MiB")
        if self._silent > MAX_SILENT_BYTES and not self._held:
            raise broken_off(f"the server sent {self._silent >> 20} MiB without saying anything")

    def finish(self) -> Iterator[ServerEvent | Done]:
        """What the end of the reply completes: an event without its empty line, or a document."""
        yield from self._lines(self._utf8.decode(b"", final=True))
        rest = "".join(self._line_start)
        self._line_start = []
        if rest:
            yield from self._line(rest)
        if self._document is not None:
            yield from self._read_document(self._document)
        else:
            yield from self._event()

    def _lines(self, text: str) -> Iterator[ServerEvent | Done]:
        if self._after_return and text:
            text = text.removeprefix("\n")
            self._after_return = False
        if text.endswith("\r"):
            self._after_return = True
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        *lines, rest = text.split("\n")
        for line in lines:
            if self._line_start:
                self._held -= sum(map(len, self._line_start))
                line = "".join([*self._line_start, line])
                self._line_start = []
            yield from self._line(line)
        if rest:
            self._line_start.append(rest)
            self._held += len(rest)

    def _line(self, line: str) -> Iterator[ServerEvent | Done]:
        if not self.first_line and line.strip():
            self.first_line = line.strip()[:200]
            if self.first_line.startswith("<"):
                raise ModelError(
                    f"the endpoint answered with a web page, not a completion: {self.first_line}",
                    remedy="Check the URL: the base URL of an API usually ends in /v1.",
                )
            if self.first_line.startswith(("{", "[")):
                self._document = []
                self.said_anything = True
        if self._document is not None:
            self._document.append(line)
            self._held += len(line) + 1
            return
        if not line:
            yield from self._event()
            return
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
            self._held += len(value) + 1
        elif field == "event":
            self._name = value.strip()
        elif line.startswith(("{", "[")):  # a JSON line among the events
            yield from self._event()
            yield from _values([line], "")

    def _event(self) -> Iterator[ServerEvent | Done]:
        data, name = self._data, self._name
        self._data, self._name = [], ""
        if data:
            self._held = self._silent = 0
            self.said_anything = True
            yield from _values(data, name)

    def _read_document(self, lines: list[str]) -> Iterator[ServerEvent | Done]:
        self._document = None
        try:
            value = read_json("\n".join(lines))
        except ValueError:
            for line in lines:  # JSON lines, perhaps with events among them
                yield from _values([line.removeprefix("data:").strip()], "")
            return
        for each in value if isinstance(value, list) else [value]:
            yield ServerEvent(each)
        yield Done()


def read_json(text: str) -> Any:
    """Strangers' JSON: what cannot be a value of ours is read as null, what is broken raises
    `ValueError`, deep nesting too."""
    try:
        return json.loads(text, parse_int=_whole_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _whole_number(digits: str) -> int | None:
    return int(digits) if len(digits) < 20 else None


def _values(data: list[str], name: str) -> Iterator[ServerEvent | Done]:
    """The values of one event. Some servers leave the empty line between two events out."""
    text = "\n".join(data).strip()
    if not text:
        return
    if text.startswith("[DONE]"):
        yield Done()
        return
    try:
        value = read_json(text)
    except ValueError:
        if len(data) > 1:
            for line in data:
                yield from _values([line], name)
        elif name == "error":
            yield ServerEvent({"error": text[:2000]}, name)
        elif text.startswith(("{", "[", '"')):
            raise broken_off(f"an event cannot be read: {text[:200]}") from None
        # else a keep-alive in words
    else:
        yield ServerEvent(value, name)


def broken_off(what: str) -> ModelError:
    return ModelError(f"the stream broke off: {what}", kind="cut", retryable=True)
