"""Anthropic's event order, for every stream that the core can bring."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
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
from perilune.events import Usage
from perilune.serve.anthropic.events import MessageEvents, WholeMessage, usage_json
from perilune.serve.api_error import ApiError
from perilune.serve.stream import Completed
from perilune.serve.thought import carried

from ..event_streams import event_streams


def translate(
    events: list[Delta | Completed], *, show_thinking: bool = True, max_context: int = 10_000
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(stream events, whole message)"""
    translator = MessageEvents(
        "msg_1", "tiny", 9, max_context=max_context, show_thinking=show_thinking
    )
    said = [*translator.start(), *(e for event in events for e in translator.feed(event))]
    whole = WholeMessage()
    for event in said:
        whole.add(event)
    return said, whole.message(cut_call=translator.cut_call)


@given(event_streams())
def test_the_order_of_events(events: list[Delta | Completed]) -> None:
    said, _ = translate(events)
    kinds = [event["type"] for event in said if event["type"] != "ping"]
    word = "".join({"message_start": "M", "content_block_start": "(", "content_block_delta": "d",
                    "content_block_stop": ")", "message_delta": "m", "message_stop": "E"}[kind]
                   for kind in kinds)  # fmt: skip
    assert re.fullmatch(r"M(\(d*\))*mE", word), word
    starts = [e["index"] for e in said if e["type"] == "content_block_start"]
    assert starts == list(range(len(starts)))
    open_block = -1
    for event in said:
        if event["type"] == "content_block_start":
            open_block = event["index"]
        elif event["type"].startswith("content_block"):
            assert event["index"] == open_block


@given(event_streams(), st.booleans())
def test_the_deltas_add_up_to_what_the_core_said(
    events: list[Delta | Completed], show: bool
) -> None:
    said, whole = translate(events, show_thinking=show)
    added: dict[str, str] = {"text": "", "thinking": "", "partial_json": ""}
    for event in said:
        if event["type"] == "content_block_delta":
            for key in added:
                added[key] += event["delta"].get(key, "")
    reasoning = "".join(e.text for e in events if isinstance(e, ReasoningDelta))
    assert added["text"] == "".join(e.text for e in events if isinstance(e, ContentDelta))
    assert added["thinking"] == (reasoning if show else "")
    assert added["partial_json"] == "".join(
        e.text for e in events if isinstance(e, ToolCallArguments)
    )
    blocks = whole["content"]
    assert "".join(b["text"] for b in blocks if b["type"] == "text") == added["text"]
    complete = sum(isinstance(e, ToolCallEnd) for e in events)
    assert sum(b["type"] == "tool_use" for b in blocks) == complete
    for block in blocks:
        if block["type"] == "thinking":
            assert block["thinking"] == added["thinking"]
            assert carried(block["signature"]) == (None if show else reasoning)


@given(event_streams())
def test_stop_reasons(events: list[Delta | Completed]) -> None:
    said, whole = translate(events)
    finished = next(e for e in events if isinstance(e, Finished))
    (end,) = [e for e in said if e["type"] == "message_delta"]
    expected = {
        FinishReason.STOP: "stop_sequence" if finished.stop == "END" else "end_turn",
        FinishReason.LENGTH: "max_tokens",
        FinishReason.TOOL_CALLS: "tool_use",
    }[finished.reason]
    assert end["delta"]["stop_reason"] == whole["stop_reason"] == expected
    assert whole["stop_sequence"] == ("END" if expected == "stop_sequence" else None)
    assert whole["usage"] == end["usage"] == usage_json(finished.usage)
    usage = whole["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == finished.usage.prompt_tokens


def test_a_full_context_has_its_own_reason() -> None:
    finished = Finished(FinishReason.LENGTH, Usage(prompt_tokens=90, completion_tokens=10))
    _, whole = translate([ContentDelta("x"), finished], max_context=100)
    assert whole["stop_reason"] == "model_context_window_exceeded"


def test_a_call_that_was_cut_is_shown_in_the_stream_and_not_in_the_whole() -> None:
    events: list[Delta | Completed] = [
        ToolCallStart(0, "functions.f:0", "f"),
        ToolCallArguments(0, '{"a": 1}'),  # all of it, but the end of the call is missing
        Finished(FinishReason.LENGTH, Usage(prompt_tokens=1, completion_tokens=9)),
    ]
    said, whole = translate(events)
    assert any(e.get("content_block", {}).get("type") == "tool_use" for e in said)
    assert whole["content"] == []
    assert whole["stop_reason"] == "max_tokens"


def test_tool_use_starts_at_once_with_an_id_that_anthropic_allows() -> None:
    translator = MessageEvents("msg_1", "tiny", 9, max_context=100)
    (start,) = translator.feed(ToolCallStart(0, "functions.a.b:0", "a.b"))
    block = start["content_block"]
    assert block["input"] == {} and block["name"] == "a.b"
    assert re.fullmatch(r"toolu_[0-9a-f]{24}", block["id"])


def test_arguments_that_are_no_json_are_an_error_of_the_server() -> None:
    with pytest.raises(ApiError) as caught:
        translate([ToolCallStart(0, "f:0", "f"), ToolCallArguments(0, "{"), ToolCallEnd(0)])
    assert caught.value.status == 500


def test_thinking_without_an_answer_is_closed() -> None:
    said, whole = translate([ReasoningDelta("Hm"), ReasoningEnd()])
    assert [e["type"] for e in said][-1] == "content_block_stop"
    assert whole["content"][0]["thinking"] == "Hm"
    assert json.dumps(whole)
