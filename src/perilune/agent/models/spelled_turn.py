"""A turn of the K2 family that a server hands on as plain text: thinking and tool calls in it are
found, and markers are taken out.

Servers without the family's parsers stream `<think>`, `</think>`, tool sections and end markers as
content, or the whole section inside the reasoning (vLLM issues 33646, 32216). But a text may also
speak of these markers. The rules:

- Inside code marks (a span in backticks, a fenced block) everything is text.
- A tool section is one where a call begins right behind its marker; `chat/parser.py` reads it. Its
  calls count when each is whole; what is not a section that can be read is text where prose goes on
  behind it, and broken where the turn ends with it.
- `<think>` counts at the start, `</think>` once, and neither when set off by a space like a word.
- An end marker counts at the end of the text, or before the header of another turn.
- In reasoning only a whole section of known functions counts, in a turn that says nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from perilune.agent.models.tool_call_index import OpenCall
from perilune.chat.deltas import (
    ContentDelta,
    ContentWasReasoning,
    Delta,
    FinishReason,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
    Truncated,
)
from perilune.text import TextJoiner

_SECTION_BEGIN = r"<\|tool_calls?_section_begin\|>"
_SECTION_END = r"<\|tool_calls?_section_end\|>"
_CALL_BEGIN = "<|tool_call_begin|>"
_CALL_MARKERS = (
    "<|tool_calls_section_begin|>",
    "<|tool_call_section_begin|>",
    "<|tool_calls_section_end|>",
    "<|tool_call_section_end|>",
    _CALL_BEGIN,
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
)
_TURN_MARKERS = (
    "<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>",
    "[EOS]", "[EOT]", "[BOS]", "[PAD]",
)  # fmt: skip
_MARKERS = (*_CALL_MARKERS, *_TURN_MARKERS, "<think>", "</think>")
_ANY = re.compile("|".join(map(re.escape, _MARKERS)))
_BEGIN = re.compile(f"{_SECTION_BEGIN}|{re.escape(_CALL_BEGIN)}")
_SECTION = re.compile(_SECTION_BEGIN)
_REGION_END = re.compile(rf"{_SECTION_END}|<\|im_end\|>|\[EOS\]|\[EOT\]")
_HEADER = re.compile(
    r"\s*(?:<\|im_(?:user|assistant|system)\|>[^<\n]{0,40}<\|im_middle\|>|<\|im_middle\|>)"
)
_CALL_FOLLOWS = re.compile(
    rf"\s*(?:{re.escape(_CALL_BEGIN)}|[^\s<>]{{1,300}}<\|tool_call_argument_begin\|>)"
)
_TURN_ENDS = ("<|im_end|>", "[EOS]", "[EOT]")
_PIECE = re.compile("(" + "|".join(map(re.escape, _CALL_MARKERS)) + ")")
_CODE_PARTS = re.compile(r"\n|`+|[^\n`]+")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
LOOK_AHEAD = 2000
"""Characters in which the end of a code span is looked for."""
MAX_SECTIONS = 64
"""Sections that are tried in one turn; more are text."""
_LONGEST = max(map(len, _MARKERS))
MIN_MARK, MIN_HALF = len("<|im"), len("<|tool")
"""From here on the beginning of a marker at the end of a text is none of prose, and of a call."""


@dataclass(slots=True)
class Turn:
    """What was found at the end of a turn: text that is still to be said, and calls."""

    deltas: list[Delta] = field(default_factory=list)
    calls: list[OpenCall] = field(default_factory=list)
    content: str = ""  # the whole answer, markers taken out
    broken: str = ""  # why the turn cannot be taken as it is


class SpelledTurn:
    """Pieces of content and reasoning as a server sends them -> deltas, and at the end a `Turn`.

    Text is passed on as it comes, up to the first marker that needs what follows to be understood.
    """

    def __init__(self) -> None:
        self._joiners = {"content": TextJoiner(), "reasoning": TextJoiner()}
        self._said: list[str] = []  # content that was passed on
        self._held = ""  # content that waits: perhaps a marker, or from a marker on everything
        self._kept: list[str] = []  # pieces behind a marker
        self._thinking = ""  # reasoning that waits
        self._thinking_kept: list[str] = []
        self._in_think = False  # inside `<think>` of the content
        self._thought = False  # reasoning came, so `</think>` does not end any
        self._layout = False
        self._blank = True  # nothing but white space was content
        self._code = _CodeMarks()

    def reasoning(self, piece: str) -> list[Delta]:
        text = self._joiners["reasoning"].feed(piece)
        self._thought = self._thought or bool(text.strip())
        return self._reason(text)

    def content(self, piece: str) -> list[Delta]:
        text = self._joiners["content"].feed(piece)
        if self._kept:
            self._kept.append(text)
            return []
        deltas: list[Delta] = []
        self._held += text
        if self._layout:  # the line ends behind the thinking
            self._held = self._held.lstrip("\n")
            self._layout = not self._held
        while self._held and not self._kept:
            before = len(self._held), self._in_think
            deltas += self._step()
            if (len(self._held), self._in_think) == before:
                break
        return deltas

    def finish(self, function_names: Collection[str], *, has_calls: bool) -> Turn:
        """The end of the turn. `has_calls`: the server sent calls of its own; spelled ones are
        then the same again, and go."""
        turn = Turn()
        # Halves of a pair that never got their other half.
        for delta in [
            *self._reason(self._joiners["reasoning"].finish()),
            *self.content(self._joiners["content"].finish()),
        ]:
            turn.deltas.append(delta)
        held = self._held + "".join(self._kept)
        self._held, self._kept = "", []
        if self._in_think:
            turn.deltas += self._reason(held)
            held = ""
        said = "".join(self._said)
        rest = _resolve(said, held, function_names, turn, has_calls)
        if rest:
            turn.deltas.append(ContentDelta(rest))
        turn.content = said + rest
        self._finish_reasoning(function_names, turn, has_calls)
        return turn

    def _finish_reasoning(
        self, function_names: Collection[str], turn: Turn, has_calls: bool
    ) -> None:
        held = self._thinking + "".join(self._thinking_kept)
        if not held:
            return
        found = Turn()
        rest = _resolve("", held, function_names, found, has_calls)
        names = {call.name for call in found.calls}
        alone = not turn.content.strip() and not turn.calls and not has_calls
        if found.calls and alone and not found.broken and names <= set(function_names):
            turn.calls = found.calls
            held = rest
        elif found.broken and alone:
            turn.broken = found.broken
        if held:
            turn.deltas.insert(0, ReasoningDelta(held))

    def _step(self) -> list[Delta]:
        """Pass on what is certain of `_held`; hold on when a marker needs what follows."""
        match = _ANY.search(self._held)
        if match is None:
            sure = len(self._held) - _half_marker(self._held)
            if self._blank and not self._in_think and not self._held[:sure].strip():
                return []  # layout before the first word, which may be `<think>`
            return self._say(sure)
        marker, start = match[0], match.start()
        if self._in_think:
            return self._step_in_think(match)
        code = self._code.would_be_code(self._held[:start])
        if marker == "<think>" and self._blank and not self._held[:start].strip():
            self._held = self._held[match.end() :]
            self._in_think = True
            return []
        if marker == "</think>" and not code and not _is_word(self._last(start)):
            before, behind = self._held[:start], self._held[match.end() :].lstrip("\n")
            layout = not behind
            if not self._thought:
                deltas = self._emit(before)
                self._held, self._layout = behind, layout
                self._thought = self._blank = True
                self._said.clear()
                self._code = _CodeMarks()
                return [*deltas, ContentWasReasoning()]
            if self._blank and not before.strip():
                # It ends the reasoning that came by its own way.
                self._held, self._layout = behind, layout
                return []
        if code and marker in ("<think>", "</think>"):
            return self._say(match.end())
        deltas = self._say(start)
        self._kept.append("")  # from here on everything waits for the end
        return deltas

    def _step_in_think(self, match: re.Match[str]) -> list[Delta]:
        if match[0] == "</think>":
            deltas = self._reason(self._held[: match.start()])
            self._held = self._held[match.end() :].lstrip("\n")
            self._layout = not self._held
            self._in_think = False
            self._thought = True
            return deltas
        if _SECTION.fullmatch(match[0]) and _CALL_FOLLOWS.match(self._held, match.end()):
            # A section ends the thinking implicitly.
            deltas = self._reason(self._held[: match.start()])
            self._held = self._held[match.start() :]
            self._in_think = False
            self._thought = True
            return deltas
        waits = len(self._held) - match.end() < 300 and _SECTION.fullmatch(match[0])
        return [] if waits else self._say(match.end())

    def _say(self, length: int) -> list[Delta]:
        text, self._held = self._held[:length], self._held[length:]
        return self._emit(text)

    def _emit(self, text: str) -> list[Delta]:
        if not text:
            return []
        if self._in_think:
            return self._reason(text)
        self._said.append(text)
        self._code.feed(text)
        self._blank = self._blank and not text.strip()
        return [ContentDelta(text)]

    def _reason(self, text: str) -> list[Delta]:
        if self._thinking_kept:
            self._thinking_kept.append(text)
            return []
        text = self._thinking + text
        self._thinking = ""
        match = _BEGIN.search(text)
        if match is not None:
            self._thinking_kept.append(text[match.start() :])
            text = text[: match.start()]
        elif half := _half_marker(text):
            text, self._thinking = text[:-half], text[-half:]
        return [ReasoningDelta(text)] if text else []

    def _last(self, start: int) -> str:
        """The character before a place of `_held`."""
        if start:
            return self._held[start - 1]
        return self._said[-1][-1:] if self._said else ""


def _is_word(before: str) -> bool:
    """Whether a marker behind this character is set off like a word of a sentence."""
    return before != "" and before in " \t\"'(`“‘«*_|"


def _half_marker(text: str) -> int:
    """Length of the longest end of a text that may become a marker."""
    for length in range(min(_LONGEST - 1, len(text)), 0, -1):
        if text[-length] in "<[" and any(m.startswith(text[-length:]) for m in _MARKERS):
            return length
    return 0


def _resolve(
    said: str, held: str, function_names: Collection[str], turn: Turn, has_calls: bool
) -> str:
    """The text among what was held; calls and faults go into `turn`."""
    marks = _CodeMarks()
    marks.feed(said)
    last, blank = said[-1:], not said.strip()
    tail = _tail(held)
    kept: list[str] = []
    at = tries = 0

    def keep(upto: int) -> None:
        nonlocal at, last, blank
        piece = held[at:upto]
        if piece:
            kept.append(piece)
            marks.feed(piece)
            last, blank = piece[-1], blank and not piece.strip()
        at = upto

    while (match := _ANY.search(held, at)) is not None:
        keep(match.start())
        if marks.is_code(held[at : at + LOOK_AHEAD]):
            keep(match.end())
        elif _BEGIN.fullmatch(match[0]):
            tries += 1
            end = None
            if tries <= MAX_SECTIONS:
                end = _read_region(held, match, tail, function_names, turn, has_calls)
            if end is None:
                keep(match.end())
            else:
                at = end
        elif match.start() >= tail:
            at = len(held)  # an end marker, or several, at the end
        elif match[0] in _TURN_ENDS and _HEADER.match(held, match.end()):
            at = len(held)  # the model went on with turns that are not its own
        elif blank and (header := _HEADER.match(held, at)):
            at = header.end()
        elif match[0] == "<think>" and not _is_word(last):
            end = held.find("</think>", match.end())
            if end < 0:
                keep(match.end())
            else:
                turn.deltas.append(ReasoningDelta(held[match.end() : end]))
                at = end + len("</think>")
        else:
            keep(match.end())
    keep(len(held))
    text = "".join(kept)
    half = _half_marker(text)
    if half >= MIN_MARK and text[-half] == "<" and not marks.is_code(""):
        if half >= MIN_HALF and text[-half:].startswith("<|tool") and not turn.calls:
            turn.broken = turn.broken or "a tool section breaks off in its first marker"
        text = text[:-half]
    return text.rstrip() if turn.calls and not said else text


def _tail(held: str) -> int:
    """Where nothing but markers, white space and perhaps half a marker is left."""
    end = len(held) - _half_marker(held)
    tail = at = 0
    for match in _ANY.finditer(held):
        if held[at : match.start()].strip():
            tail = match.start()
        at = match.end()
    return len(held) if held[at:end].strip() else tail


def _read_region(
    held: str,
    begin: re.Match[str],
    tail: int,
    function_names: Collection[str],
    turn: Turn,
    has_calls: bool,
) -> int | None:
    """Read the section at `begin`; where it ends, or None when it is text."""
    section = _SECTION.fullmatch(begin[0]) is not None
    if section and not _CALL_FOLLOWS.match(held, begin.end()):
        if begin.start() < tail:
            return None
        turn.broken = "a tool section has no call"
        return len(held)
    end = _REGION_END.search(held, begin.end())
    stop = end.end() if end else len(held)
    prose_follows = stop < tail
    calls, fault = read_section(held[begin.start() : stop], function_names)
    unknown = [call for call in calls if call.name not in function_names]
    if fault or not calls or not all(call.is_whole for call in calls):
        if prose_follows and len(unknown) == len(calls):
            return None
        turn.broken = fault or "the arguments of a spelled tool call are not a JSON object"
        turn.calls += calls
        return stop
    if unknown and prose_follows:
        return None
    if unknown and not function_names:
        turn.broken = f"it calls {unknown[0].name!r}, and no function was offered"
        return stop
    if not has_calls:
        turn.calls += calls
    return stop


def read_section(text: str, function_names: Collection[str]) -> tuple[list[OpenCall], str]:
    """The calls of a spelled section, by the parser of the engine, and what is wrong with it.

    The last call may be incomplete; then the fault says so.
    """
    from perilune.chat.parser import ChatParser
    from perilune.chat.tokenizer import Tokenizer

    # The parser reads ids: the markers have theirs, and every text between two of them gets one.
    pieces = [piece for piece in _PIECE.split(text) if piece]
    special = {len(pieces) + i: name for i, name in enumerate(_CALL_MARKERS)}
    ids = {name: i for i, name in special.items()}
    token_bytes = [piece.encode("utf-8", "replace") for piece in (*pieces, *_CALL_MARKERS)]
    tokenizer = Tokenizer(lambda text: [], token_bytes, special)
    parser = ChatParser(tokenizer, [], function_names=function_names)
    calls: list[OpenCall] = []
    ended: set[int] = set()
    fault = ""
    deltas = [delta for i, p in enumerate(pieces) for delta in parser.feed(ids.get(p, i))]
    for delta in [*deltas, *parser.finish(FinishReason.STOP)]:
        match delta:
            case ToolCallStart(_, call_id, name):
                calls.append(OpenCall(call_id, name))
            case ToolCallArguments(index, piece):
                calls[index].arguments += piece
            case ToolCallEnd(index):
                ended.add(index)
            case Truncated(where, _) if where != "tool_call_arguments":
                fault = "a spelled tool call names no function"
    for index, call in enumerate(calls):
        call.arguments = call.arguments.strip()
        # Without its end marker a call is whole when its arguments are there and are an object.
        if index not in ended and not (call.arguments and call.is_whole):
            fault = fault or f"the spelled call of {call.name} breaks off"
    return calls, fault


class _CodeMarks:
    """Whether the end of a growing text stands inside a code span or a fenced block of Markdown."""

    __slots__ = ("_fence", "_head", "_run", "_span")

    def __init__(self) -> None:
        self._fence = ""
        self._head = ""  # the beginning of the line
        self._run = ""  # backticks at the end, perhaps not all of them
        self._span = ""  # the backticks of a span that the line opened

    def feed(self, text: str) -> None:
        for part in _CODE_PARTS.findall(text):
            if part[0] == "`":
                self._run += part
            else:
                self._settle()
            if part == "\n":
                self._end_line()
            elif len(self._head) < 80:
                self._head += part[:80]

    def would_be_code(self, more: str) -> bool:
        twin = _CodeMarks()
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        twin.feed(more)
        twin._settle()
        return bool(twin._fence or twin._span)

    def is_code(self, behind: str) -> bool:
        """`behind` is the text that follows: a span must be closed in it, a block need not be.

        Without `behind`, an open span counts.
        """
        self._settle()
        if self._fence:
            return True
        return bool(self._span) and (not behind or self._span in behind.split("\n", 1)[0])

    def _settle(self) -> None:
        if self._run:
            if not self._span:
                self._span = self._run
            elif self._run == self._span:
                self._span = ""
            self._run = ""

    def _end_line(self) -> None:
        mark = _FENCE.match(self._head)
        if mark and not self._fence:
            self._fence = mark[1]
        elif mark and mark[1].startswith(self._fence):
            self._fence = ""
        self._head = self._span = ""
