"""Finer rules of a streamed chat answer: its end, its order, its scores, what must not be in it.

Priorities P1 and P2 of Moonshot's interface.
"""

from __future__ import annotations

import re
from typing import Any

from perilune.exam.contract.check import Level, Skip, check, expect
from perilune.exam.contract.scenarios import ChatStream, open_streams, plain, reasoning
from perilune.exam.contract.shapes import (
    MARKERS,
    check_logprobs,
)
from perilune.exam.contract.sse import DONE
from perilune.exam.contract.stream_rule import stream_rule
from perilune.exam.contract.target import Target

# --- P1 --------------------------------------------------------------------------------------


@stream_rule(
    "done",
    "The stream ends with data: [DONE].",
    why="Clients that wait for it hang or report a cut.",
    priority="P1",
)
def done(stream: ChatStream) -> None:
    expect(stream.events and stream.events[-1].data == DONE, "the last event is not [DONE]")
    ends = sum(event.data == DONE for event in stream.events)
    expect(ends == 1, f"{ends} times [DONE]")


@stream_rule(
    "same-identity",
    "id, object, created and model are the same in every frame.",
    why="Clients group frames by id.",
    priority="P1",
)
def same_identity(stream: ChatStream) -> None:
    for name in ("id", "object", "created", "model"):
        values = {str(chunk.get(name)) for chunk in stream.chunks}
        expect(len(values) == 1, f"{name} changes within the stream: {sorted(values)[:3]}")


@stream_rule(
    "content-key",
    "The first frame has the key content.",
    why="The interface says so; some clients read it without asking.",
    priority="P1",
    level=Level.KIMI,
)
def content_key(stream: ChatStream) -> None:
    for index in stream.indices:
        expect("content" in stream.deltas(index)[0], "the first delta has no content")


@stream_rule(
    "role-once",
    "The role comes in the first frame only.",
    why="Clients that join strings make it assistantassistant.",
    priority="P1",
)
def role_once(stream: ChatStream) -> None:
    for index in stream.indices:
        later = [d for d in stream.deltas(index)[1:] if d.get("role") is not None]
        expect(not later, f"{len(later)} later frames have a role")


@stream_rule(
    "end-delta",
    "The frame with the finish_reason has an empty delta.",
    why="Clients that stop at it lose what it carries.",
    priority="P1",
    level=Level.RECOMMENDED,
)
def end_delta(stream: ChatStream) -> None:
    for _, choice in stream.choices:
        if choice.get("finish_reason"):
            left = {name for name, value in choice["delta"].items() if value not in (None, "")}
            expect(not left, f"the last delta has {sorted(left)}")


@stream_rule(
    "thinking-boundary",
    'After thinking a frame with reasoning_content "" comes before the first content.',
    why="Kimi's clients close the thinking block there.",
    priority="P1",
    level=Level.KIMI,
    of=("thinking",),
)
def thinking_boundary(stream: ChatStream) -> None:
    deltas = stream.deltas()
    if not any(reasoning(d) for d in deltas) or not any(d.get("content") for d in deltas):
        raise Skip("the answer has not both thinking and content")
    last = max(i for i, d in enumerate(deltas) if reasoning(d))
    first = next(i for i, d in enumerate(deltas) if d.get("content"))
    boundary = any(d.get("reasoning_content") == "" for d in deltas[last + 1 : first])
    expect(boundary, 'no frame with reasoning_content "" between thinking and content')


@stream_rule(
    "thinking-first",
    "Thinking ends before the content begins.",
    why="A page shows two blocks, not a mixture.",
    priority="P1",
    of=("thinking", "text"),
)
def thinking_first(stream: ChatStream) -> None:
    for index in stream.indices:
        answering = False
        for delta in stream.deltas(index):
            answering = answering or bool(delta.get("content") or delta.get("tool_calls"))
            expect(not (answering and reasoning(delta)), "thinking comes after content")


@stream_rule(
    "null-usage",
    "With include_usage every frame but the last has usage null.",
    why="The API says so; clients take the one that is set.",
    priority="P1",
    level=Level.RECOMMENDED,
    of=("usage",),
)
def null_usage(stream: ChatStream) -> None:
    for chunk in stream.chunks[:-1]:
        expect(chunk.get("usage") is None, "a frame before the last has usage")
        expect("usage" in chunk, "a frame has no usage, not even null")


@stream_rule(
    "logprobs",
    "With logprobs every token has token, logprob, bytes and the asked number of top_logprobs.",
    why="Scores and confidence displays are read from it.",
    priority="P1",
    level=Level.RECOMMENDED,
    of=("logprobs",),
)
def logprobs(stream: ChatStream) -> None:
    rows: list[Any] = []
    for choice in stream.of(0):
        rows += (choice.get("logprobs") or {}).get("content") or []
    check_logprobs(rows, top=2)


@stream_rule(
    "incremental",
    "Frames leave the server as they are made, not all at the end.",
    why="A stream that comes in one piece is not a stream.",
    priority="P1",
    of=("text", "unicode"),
)
def incremental(stream: ChatStream) -> None:
    if len(stream.chunks) < 8 or stream.exchange.seconds < 0.5:
        raise Skip("the answer was too short or too fast to tell")
    expect(stream.exchange.reads > 1, f"{len(stream.chunks)} frames arrived in one piece")


@check(
    "chat.stream.same-text",
    "At temperature 0 the streamed text is the text of the plain answer.",
    why="Otherwise the stream loses or adds something.",
    priority="P1",
    level=Level.RECOMMENDED,
)
def same_text(target: Target) -> None:
    for stream in open_streams(target, ("text", "unicode")):
        whole = plain(target, stream.name).ok().json["choices"][0]
        expect(
            stream.text() == (whole["message"].get("content") or ""),
            f"streamed {stream.text()[:60]!r}, plain {str(whole['message'].get('content'))[:60]!r}",
            stream.exchange,
        )
        expect(
            stream.finish() == whole["finish_reason"],
            f"streamed {stream.finish()!r}, plain {whole['finish_reason']!r}",
            stream.exchange,
        )


# --- P2 --------------------------------------------------------------------------------------


@stream_rule(
    "id-form",
    "The id is chatcmpl- and 24 hexadecimal digits.",
    why="The interface says so; logs are searched by it.",
    priority="P2",
    level=Level.KIMI,
)
def id_form(stream: ChatStream) -> None:
    for chunk in stream.chunks:
        found = str(chunk.get("id"))
        expect(re.fullmatch(r"chatcmpl-[0-9a-f]{24}", found), f"id is {found!r}")


@stream_rule(
    "no-unasked-usage",
    "Without include_usage no frame has choices [].",
    why="Clients that read choices[0] fail on it.",
    priority="P2",
    of=("text", "tools", "pair"),
)
def no_unasked_usage(stream: ChatStream) -> None:
    expect(all(chunk.get("choices") for chunk in stream.chunks), "a frame has no choice")


@stream_rule(
    "one-kind",
    "A frame carries one of content, thinking and tool calls.",
    why="Clients switch on the kind and drop the rest.",
    priority="P2",
    level=Level.RECOMMENDED,
)
def one_kind(stream: ChatStream) -> None:
    for _, choice in stream.choices:
        delta = choice.get("delta") or {}
        kinds = [bool(delta.get("content")), bool(reasoning(delta)), bool(delta.get("tool_calls"))]
        expect(sum(kinds) <= 1, f"a frame carries {sorted(delta)}")


@stream_rule(
    "no-markers",
    "The template's own markers never appear in text or arguments.",
    why="Users see them, and a history that holds them breaks the next turn.",
    priority="P0",
)
def no_markers(stream: ChatStream) -> None:
    for index in stream.indices:
        texts = [stream.text(index), stream.text(index, "reasoning_content")]
        texts += [call["arguments"] for call in stream.calls(index)]
        for text in texts:
            found = MARKERS.search(text)
            expect(found is None, f"the marker {found and found.group()} is in the answer")
