"""From a sequence's tokens to what its reader sees: deltas of a message, without its stop string.

Text that may be the beginning of a stop string is held back until it is decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from perilune.chat.deltas import ContentDelta, Delta, Finished, FinishReason
from perilune.chat.parser import Channel, ChatParser
from perilune.chat.tokenizer import StreamDecoder


class Parser(Protocol):
    """What reads ids one by one: the chat parser, or plain text."""

    def feed(self, token_id: int) -> list[Delta]: ...

    def finish(self, reason: FinishReason | None = None) -> list[Delta]: ...


class TextParser:
    """Reads a plain continuation: everything is content."""

    def __init__(self, decoder: StreamDecoder) -> None:
        self._decoder = decoder

    def feed(self, token_id: int) -> list[Delta]:
        text = self._decoder.feed(token_id)
        return [ContentDelta(text)] if text else []

    def finish(self, reason: FinishReason | None = None) -> list[Delta]:
        text = self._decoder.finish()
        rest: list[Delta] = [ContentDelta(text)] if text else []
        return [*rest, Finished(reason or FinishReason.LENGTH)]


class Detokenizer:
    """The deltas of one sequence. `stopped_by` is the stop string that ended it."""

    def __init__(self, parser: Parser, stop: Sequence[str] = ()) -> None:
        self._parser = parser
        self._stop = stop
        self._held = ""
        self.stopped_by: str | None = None

    @property
    def thinking(self) -> bool:
        """Whether the model is in its thinking."""
        return isinstance(self._parser, ChatParser) and self._parser.channel is Channel.REASONING

    def feed(self, token_id: int) -> list[Delta]:
        """Deltas that this token completes. After `stopped_by` is set, only `finish`."""
        return self._check(self._parser.feed(token_id))

    def finish(self, reason: FinishReason) -> list[Delta]:
        """The rest, where it ended by STOP or LENGTH; the last delta is `Finished`."""
        *deltas, finished = self._parser.finish(reason)
        already_stopped = self.stopped_by is not None
        deltas = [] if already_stopped else [*self._check(deltas), *self._release()]
        return [*deltas, finished if self.stopped_by is None else Finished(FinishReason.STOP)]

    def _check(self, deltas: list[Delta]) -> list[Delta]:
        """Look for the stop strings in content; other deltas pass, behind what they follow."""
        if not self._stop:
            return deltas
        checked: list[Delta] = []
        for delta in deltas:
            if not isinstance(delta, ContentDelta):
                checked += [*self._release(), delta]
                continue
            text = self._held + delta.text
            self._held = ""
            found = [(text.find(stop), stop) for stop in self._stop if stop in text]
            if found:
                # The earliest wins, and of two at one place the longer.
                at, self.stopped_by = min(found, key=lambda f: (f[0], -len(f[1])))
                return [*checked, *_content(text[:at])]
            keep = len(text) - max(_overlap(text, stop) for stop in self._stop)
            self._held = text[keep:]
            checked += _content(text[:keep])
        return checked

    def _release(self) -> list[Delta]:
        held, self._held = self._held, ""
        return _content(held)


def _content(text: str) -> list[Delta]:
    return [ContentDelta(text)] if text else []


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
