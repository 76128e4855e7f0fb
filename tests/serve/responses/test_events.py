"""The order of the Responses API's events, for every stream that the core can bring."""

from __future__ import annotations

import copy
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from perilune.chat.deltas import (
    ContentDelta,
    Delta,
    Finished,
    FinishReason,
    ReasoningDelta,
    TokenLogprob,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from perilune.events import Usage
from perilune.serve.api_error import ApiError
from perilune.serve.responses.events import ResponseEvents, usage_json
from perilune.serve.stream import Completed
from perilune.serve.thought import carried

from ..event_streams import event_streams

BASE = {"id": "resp_1", "object": "response"}


def translate(
    events: list[Delta | Completed], **options: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(stream events, response)"""
    translator = ResponseEvents(BASE, **options)
    said = [copy.deepcopy(e) for e in translator.start()]
    said += [copy.deepcopy(e) for event in events for e in translator.feed(event)]
    return said, translator.response


LETTERS = {
    "response.created": "C", "response.in_progress": "P", "response.output_item.added": "(",
    "response.output_item.done": ")", "response.content_part.added": "[",
    "response.content_part.done": "]", "response.reasoning_text.delta": "r",
    "response.reasoning_text.done": "R", "response.output_text.delta": "t",
    "response.output_text.done": "T", "response.function_call_arguments.delta": "a",
    "response.function_call_arguments.done": "A", "response.completed": "E",
    "response.incomplete": "I",
}  # fmt: skip


@given(event_streams())
def test_the_order_of_events(events: list[Delta | Completed]) -> None:
    said, _ = translate(events)
    word = "".join(LETTERS[event["type"]] for event in said)
    assert re.fullmatch(r"CP(\((\[r+R\]|\[t+T\]|a*A)\))*(E|(\(a*)?I)", word), word
    assert [event["sequence_number"] for event in said] == list(range(len(said)))
    added = [event for event in said if event["type"] == "response.output_item.added"]
    assert [event["output_index"] for event in added] == list(range(len(added)))
    ids = [event["item"]["id"] for event in added]
    assert len(set(ids)) == len(ids)
    for event in said:
        if "item_id" in event:
            assert event["item_id"] == ids[event["output_index"]]


@given(event_streams(), st.booleans())
def test_the_deltas_add_up_to_the_response(events: list[Delta | Completed], carry: bool) -> None:
    said, response = translate(events, carry_reasoning=carry)
    sums: dict[int, str] = {}
    for event in said:
        if event["type"].endswith(".delta"):
            sums[event["output_index"]] = sums.get(event["output_index"], "") + event["delta"]
    for index, item in enumerate(response["output"]):
        text = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        assert text == sums.get(index, "")
        if item["type"] == "reasoning":
            assert ("encrypted_content" in item) == carry
            assert not carry or carried(item["encrypted_content"]) == text
    assert said[-1]["response"] == response
    done = [event["item"] for event in said if event["type"] == "response.output_item.done"]
    assert done == response["output"]
    said_text = "".join(e.text for e in events if isinstance(e, ContentDelta))
    texts = [item["content"][0]["text"] for item in done if item["type"] == "message"]
    assert "".join(texts) == said_text
    thought = [item["content"][0]["text"] for item in done if item["type"] == "reasoning"]
    assert "".join(thought) == "".join(e.text for e in events if isinstance(e, ReasoningDelta))
    calls = [item for item in done if item["type"] == "function_call"]
    assert len(calls) == sum(isinstance(e, ToolCallEnd) for e in events)


@given(event_streams())
def test_ends(events: list[Delta | Completed]) -> None:
    said, response = translate(events)
    finished = next(e for e in events if isinstance(e, Finished))
    if finished.reason is FinishReason.LENGTH:
        assert response["status"] == "incomplete"
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert said[-1]["type"] == "response.incomplete"
    else:
        assert response["status"] == "completed" and said[-1]["type"] == "response.completed"
        assert all(item["status"] == "completed" for item in response["output"])
    assert response["usage"] == usage_json(finished.usage)


def test_a_cut_call_has_no_end_that_a_client_could_act_on() -> None:
    said, response = translate(
        [
            ToolCallStart(0, "functions.f:0", "f"),
            ToolCallArguments(0, '{"a": 1}'),
            Finished(FinishReason.LENGTH, _usage()),
        ]
    )
    kinds = [event["type"] for event in said]
    assert "response.output_item.added" in kinds
    assert not any("arguments.done" in kind or "item.done" in kind for kind in kinds)
    assert response["output"] == []


def _usage() -> Usage:
    return Usage(prompt_tokens=3, completion_tokens=4)


def test_a_call_names_the_namespace_of_its_tool() -> None:
    events: list[Delta | Completed] = [ToolCallStart(0, "functions.a__f:0", "a__f"), ToolCallEnd(0)]
    said, response = translate(events, namespaces={"a__f": ("a", "f")})
    (call,) = response["output"]
    assert (call["namespace"], call["name"]) == ("a", "f")
    assert said[2]["item"]["namespace"] == "a"


def test_a_broken_stream_ends_with_an_error_and_a_failed_response() -> None:
    translator = ResponseEvents(BASE)
    said = [*translator.start(), *translator.feed(ContentDelta("Hal"))]
    said += list(translator.fail(ApiError(503, "the engine died", code="engine_dead")))
    error, failed = said[-2:]
    assert error["type"] == "error" and error["code"] == "engine_dead"
    assert error["error"]["message"] == error["message"] == "the engine died"
    assert failed["type"] == "response.failed" and failed["response"]["status"] == "failed"
    assert failed["response"]["error"]["code"] == "server_error"
    assert [event["sequence_number"] for event in said] == list(range(len(said)))


def test_log_probabilities_go_with_the_text() -> None:
    def words(scores: Any) -> list[dict[str, Any]]:
        return [{"token": str(score.token), "logprob": score.logprob} for score in scores]

    events: list[Delta | Completed] = [
        ContentDelta("a", (TokenLogprob(1, -0.5),)),
        ContentDelta("b", (TokenLogprob(2, -0.25), TokenLogprob(3, -1.0))),
        Finished(FinishReason.STOP, _usage()),
    ]
    said, response = translate(events, scores=words)
    deltas = [e["logprobs"] for e in said if e["type"] == "response.output_text.delta"]
    assert [len(piece) for piece in deltas] == [1, 2]
    assert response["output"][0]["content"][0]["logprobs"] == [*deltas[0], *deltas[1]]
