"""Random streams of the core's events, as it promises them: the input of every API's writer."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import strategies as st

from perilune.chat.deltas import (
    ContentDelta,
    Delta,
    Finished,
    FinishReason,
    ReasoningDelta,
    ReasoningEnd,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from perilune.engine.request import RequestMetrics
from perilune.events import Usage
from perilune.serve.stream import Completed

TEXT = st.text(min_size=1, max_size=12)
ARGUMENTS = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3)


@st.composite
def _pieces(draw: st.DrawFn, text: str) -> list[str]:
    """A text cut into non-empty pieces."""
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=4)))
    bounds = [0, *(cut for cut in cuts if cut < len(text)), len(text)]
    return [text[a:b] for a, b in pairwise(bounds) if a < b]


@st.composite
def event_streams(draw: st.DrawFn) -> list[Delta | Completed]:
    """All events of a request with one answer."""
    events: list[Delta | Completed] = []
    if draw(st.booleans()):
        events += [ReasoningDelta(text) for text in draw(st.lists(TEXT, min_size=1, max_size=3))]
        events.append(ReasoningEnd())
    events += [ContentDelta(text) for text in draw(st.lists(TEXT, max_size=3))]
    calls = draw(st.integers(0, 3))
    cut = bool(calls) and draw(st.booleans())
    for call in range(calls):
        events.append(ToolCallStart(call, f"functions.tool:{call}", draw(st.sampled_from("ab"))))
        text = json.dumps(draw(ARGUMENTS))
        pieces = draw(_pieces(text))
        if cut and call == calls - 1:
            events += [
                ToolCallArguments(call, piece) for piece in pieces[: draw(st.integers(0, 4))]
            ]
            break
        events += [ToolCallArguments(call, piece) for piece in pieces]
        events.append(ToolCallEnd(call))
    if cut:
        reason = FinishReason.LENGTH
    elif calls:
        reason = FinishReason.TOOL_CALLS
    else:
        reason = draw(st.sampled_from([FinishReason.STOP, FinishReason.LENGTH]))
    stop = draw(st.sampled_from([None, 7, "END"])) if reason is FinishReason.STOP else None
    usage = Usage(
        prompt_tokens=draw(st.integers(3, 50)),
        completion_tokens=draw(st.integers(0, 50)),
        cached_tokens=draw(st.integers(0, 3)),
    )
    return [*events, Finished(reason, usage, stop), Completed(usage, RequestMetrics())]
