"""Generated ids, one by one -> reasoning, content and tool calls.

A state machine over token ids: only the real special tokens structure the output, so text that
merely spells a marker stays text. Every id is accounted for: it is text of a delta, or a marker,
or white space between the calls of a section. What breaks the format is reported as `Truncated`
with its raw text, or surfaces as content; nothing is dropped in silence.

The rules for damaged output, where the published descriptions differ or are silent:
- `<think>` opens and `</think>` closes reasoning wherever they stand outside a call; a section
  closes it too (the implicit end of thinking).
- A call without its section is a call. A new call or the end of the section closes a call that
  lacks its end marker; the end of the turn does not: that call is truncated.
- A call whose id names no function is reported raw, as truncated, with everything up to its end.
- Text between calls that is not white space is content; a lone word there that an argument marker
  follows is the id of a call that lacks its begin marker.
- A section marker spelled out as text in the singular, which some outputs have, counts only where
  a real marker confirms it. An end marker with nothing to end is ignored. Every other special
  token is text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import Enum, StrEnum, auto

from perilune.chat.deltas import (
    ContentDelta,
    Delta,
    Finished,
    FinishReason,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
    Truncated,
)
from perilune.chat.special_tokens import SECTION_BEGIN_SINGULAR, SECTION_END_SINGULAR
from perilune.chat.tokenizer import Tokenizer
from perilune.chat.tool_call_ids import function_name
from perilune.errors import ChatError


class Channel(StrEnum):
    """Where in its turn the model is."""

    REASONING = "reasoning"
    CONTENT = "content"
    TOOL_SECTION = "tool_section"  # inside a section, between calls
    TOOL_CALL_ID = "tool_call_id"
    TOOL_ARGUMENTS = "tool_call_arguments"
    BROKEN_CALL = "broken_call"  # inside a call whose id names no function
    ENDED = "ended"


class _Marker(Enum):
    THINK = auto()
    END_THINK = auto()
    SECTION_BEGIN = auto()
    SECTION_END = auto()
    CALL_BEGIN = auto()
    ARGUMENTS_BEGIN = auto()
    CALL_END = auto()
    STOP = auto()


# Where a marker that ends a call leads to.
_AFTER_CALL = {
    _Marker.CALL_BEGIN: Channel.TOOL_CALL_ID,
    _Marker.CALL_END: Channel.TOOL_SECTION,
    _Marker.SECTION_END: Channel.CONTENT,
    _Marker.STOP: Channel.ENDED,
}
# Where a marker outside a call leads to; one that is not here changes nothing.
_AFTER_TEXT = {
    _Marker.THINK: Channel.REASONING,
    _Marker.END_THINK: Channel.CONTENT,
    _Marker.SECTION_BEGIN: Channel.TOOL_SECTION,
    _Marker.CALL_BEGIN: Channel.TOOL_CALL_ID,
    _Marker.STOP: Channel.ENDED,
}


class ChatParser:
    """One turn of a model. `feed` every generated id, then `finish` once.

    `channel` says where the model is; `clone` gives a parser that goes its own way from here.
    """

    __slots__ = (
        "_completed_calls",
        "_decoder",
        "_finished",
        "_function_names",
        "_held",
        "_markers",
        "_raw",
        "_started_calls",
        "_tokenizer",
        "channel",
    )

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop_ids: Collection[int],
        *,
        channel: Channel = Channel.CONTENT,
        function_names: Collection[str] = (),
    ) -> None:
        ids = tokenizer.special_ids
        markers = {
            ids.think: _Marker.THINK,
            ids.end_think: _Marker.END_THINK,
            ids.tool_calls_section_begin: _Marker.SECTION_BEGIN,
            ids.tool_calls_section_end: _Marker.SECTION_END,
            tokenizer.special_tokens.get(SECTION_BEGIN_SINGULAR): _Marker.SECTION_BEGIN,
            tokenizer.special_tokens.get(SECTION_END_SINGULAR): _Marker.SECTION_END,
            ids.tool_call_begin: _Marker.CALL_BEGIN,
            ids.tool_call_argument_begin: _Marker.ARGUMENTS_BEGIN,
            ids.tool_call_end: _Marker.CALL_END,
        } | dict.fromkeys(stop_ids, _Marker.STOP)
        self._markers = {i: marker for i, marker in markers.items() if i is not None}
        self._tokenizer = tokenizer
        self._function_names = function_names
        self._decoder = tokenizer.stream_decoder()
        self._held = ""  # text whose meaning the next id decides
        self._raw: list[str] = []  # the id of the call under way; of a broken call, everything
        self._started_calls = 0
        self._completed_calls = 0
        self._finished = False
        self.channel = channel

    def feed(self, token_id: int) -> list[Delta]:
        """The deltas that this id completes, perhaps none.

        Raises ChatError for an id outside the vocabulary or after the end of the turn.
        """
        if self.channel is Channel.ENDED:
            raise ChatError(f"token id {token_id} comes after the end of the turn")
        marker = self._markers.get(token_id)
        if marker is None:
            return self._text(self._decoder.feed(token_id))
        deltas = self._text(self._decoder.finish())
        if self.channel in (Channel.CONTENT, Channel.REASONING, Channel.TOOL_SECTION):
            return deltas + self._marker_outside_call(marker)
        return deltas + self._marker_in_call(marker, token_id)

    def finish(self, reason: FinishReason | None = None) -> list[Delta]:
        """The rest of the turn; the last delta is `Finished`. Nothing when called again.

        Without `reason`: "stop" if a stop id was fed, else "length". Give "stop" when generation
        ended for another good reason (a stop string, a stop id that was not fed). A stop after
        complete calls is reported as "tool_calls".
        """
        if self._finished:
            return []
        self._finished = True
        deltas: list[Delta] = []
        if self.channel is not Channel.ENDED:
            deltas = self._text(self._decoder.finish())
            if reason != FinishReason.STOP and self.channel is Channel.TOOL_SECTION:
                deltas.append(Truncated("tool_section", ""))
            if self.channel in (Channel.CONTENT, Channel.REASONING, Channel.TOOL_SECTION):
                deltas += self._marker_outside_call(_Marker.STOP)
            else:
                deltas += self._end_call(_Marker.STOP)
            reason = reason or FinishReason.LENGTH
        elif reason is None:
            reason = FinishReason.STOP
        if reason == FinishReason.STOP and self._completed_calls:
            reason = FinishReason.TOOL_CALLS
        return [*deltas, Finished(reason)]

    def prefill(self, ids: Iterable[int]) -> None:
        """Take what the prompt already holds of this turn; it is not reported again."""
        for token_id in ids:
            self.feed(token_id)
        self._held = ""

    def clone(self) -> ChatParser:
        """A parser in the same state that goes its own way."""
        twin = ChatParser.__new__(ChatParser)
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        twin._decoder = self._decoder.clone()
        twin._raw = self._raw.copy()
        return twin

    def _text(self, text: str) -> list[Delta]:
        if not text:
            return []
        match self.channel:
            case Channel.TOOL_ARGUMENTS:
                return [ToolCallArguments(self._started_calls - 1, text)]
            case Channel.TOOL_CALL_ID | Channel.BROKEN_CALL:
                self._raw.append(text)
                return []
            case Channel.TOOL_SECTION:
                return self._text_between_calls(text)
        if not self._held and "<" not in text:
            return [self._delta(text)]
        # Hold what may become the section marker spelled out; it has one "<", its first character.
        text = self._held + text
        start = text.rfind("<")
        tail = text[start:].rstrip()
        if start < 0 or not SECTION_BEGIN_SINGULAR.startswith(tail):
            start = len(text)
        self._held = text[start:]
        return [self._delta(text[:start])] if start else []

    def _text_between_calls(self, text: str) -> list[Delta]:
        text = self._held + text
        self._held = ""
        before, marker, after = text.partition(SECTION_END_SINGULAR)
        if marker and not before.strip():
            self.channel = Channel.CONTENT
            return self._text(after)
        if len(text.split(None, 1)) <= 1:
            self._held = text  # layout, or one word: perhaps an id, or the start of the marker
            return []
        return [ContentDelta(text)]

    def _delta(self, text: str) -> Delta:
        return ReasoningDelta(text) if self.channel is Channel.REASONING else ContentDelta(text)

    def _marker_outside_call(self, marker: _Marker) -> list[Delta]:
        held, self._held = self._held, ""
        if marker is _Marker.ARGUMENTS_BEGIN:
            return self._begin_arguments(held)
        deltas: list[Delta] = []
        layout = self.channel is Channel.TOOL_SECTION and not held.strip()
        spelled = marker is _Marker.CALL_BEGIN and held.rstrip() == SECTION_BEGIN_SINGULAR
        if held and not layout and not spelled:
            deltas.append(self._delta(held))
        if marker is _Marker.STOP and self.channel is Channel.REASONING:
            deltas.append(Truncated("reasoning", ""))
        if marker is _Marker.SECTION_END and self.channel is Channel.TOOL_SECTION:
            self.channel = Channel.CONTENT
        self.channel = _AFTER_TEXT.get(marker, self.channel)
        return deltas

    def _marker_in_call(self, marker: _Marker, token_id: int) -> list[Delta]:
        if marker in _AFTER_CALL:
            return self._end_call(marker)
        if marker is _Marker.ARGUMENTS_BEGIN and self.channel is Channel.TOOL_CALL_ID:
            call_id = "".join(self._raw)
            self._raw = []
            return self._begin_arguments(call_id)
        return self._text(self._tokenizer.token_bytes(token_id).decode())

    def _begin_arguments(self, call_id: str) -> list[Delta]:
        name = function_name(call_id, self._function_names)
        if name is None:
            self.channel = Channel.BROKEN_CALL
            self._raw = [call_id]
            return []
        self.channel = Channel.TOOL_ARGUMENTS
        self._started_calls += 1
        return [ToolCallStart(self._started_calls - 1, call_id.strip(), name)]

    def _end_call(self, marker: _Marker) -> list[Delta]:
        channel = self.channel
        self.channel = _AFTER_CALL[marker]
        raw = "".join(self._raw)
        self._raw = []
        if channel is not Channel.TOOL_ARGUMENTS:
            return [Truncated("tool_call_id", raw)]
        if marker is _Marker.STOP:
            return [Truncated("tool_call_arguments", "")]
        self._completed_calls += 1
        return [ToolCallEnd(self._started_calls - 1)]
