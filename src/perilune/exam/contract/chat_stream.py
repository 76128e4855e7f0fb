"""How a chat answer streams, frame by frame. P0 to P2: priorities of Moonshot's interface."""

from __future__ import annotations

import re
from typing import Any

from perilune.exam.contract.check import Level, Skip, check, expect, expect_int, expect_text
from perilune.exam.contract.scenarios import ChatStream, open_streams, plain, reasoning
from perilune.exam.contract.shapes import (
    FINISH_REASONS,
    MARKERS,
    check_logprobs,
    check_usage,
    check_usage_details,
)
from perilune.exam.contract.sse import DONE
from perilune.exam.contract.stream_rule import stream_rule
from perilune.exam.contract.target import Target


@check(
    "chat.stream.opens",
    "A request with stream: true is answered with status 200, whatever else it asks for.",
    why="Nothing streams.",
)
def opens(target: Target) -> None:
    for stream in open_streams(target):
        expect(stream.chunks, f"the stream {stream.name!r} has no frame", stream.exchange)
    for name in ("text", "unicode", "usage", "tools"):
        opened = {stream.name for stream in open_streams(target)}
        expect(name in opened, f"the stream {name!r} did not open")


# --- P0 --------------------------------------------------------------------------------------


@stream_rule(
    "content-type",
    "The content type is text/event-stream.",
    why="Clients choose their reader by it.",
    priority="P0",
)
def content_type(stream: ChatStream) -> None:
    found = stream.exchange.content_type
    expect(found == "text/event-stream", f"content-type is {found!r}")


@stream_rule(
    "data-lines",
    "Every line is `data: ` and JSON, a comment, or empty.",
    why="Simple clients split lines and cut six characters.",
    priority="P0",
)
def data_lines(stream: ChatStream) -> None:
    for event in stream.events:
        for line in event.lines:
            expect(line.startswith("data: "), f"a line begins {line[:20]!r}")
        expect(len(event.lines) == 1, "an event has several data lines")
        expect(
            event.data == DONE or isinstance(event.json, dict),
            f"an event is not a JSON object: {event.data[:60]!r}",
        )


@stream_rule(
    "chunk-fields",
    "Every frame has id, object chat.completion.chunk, created (integer), model and choices.",
    why="Typed clients fail on a frame that lacks one.",
    priority="P0",
)
def chunk_fields(stream: ChatStream) -> None:
    for chunk in stream.chunks:
        expect_text(chunk.get("id"), "id")
        found = chunk.get("object")
        expect(found == "chat.completion.chunk", f"object is {found!r}")
        expect_int(chunk.get("created"), "created", at_least=1)
        expect_text(chunk.get("model"), "model")
        expect(isinstance(chunk.get("choices"), list), "choices is not a list")


@stream_rule(
    "one-choice",
    "A frame carries exactly one choice, also when n > 1; only the usage frame has none.",
    why="Most clients read choices[0] only and lose the rest.",
    priority="P0",
)
def one_choice(stream: ChatStream) -> None:
    for chunk in stream.chunks:
        if not chunk.get("choices") and isinstance(chunk.get("usage"), dict):
            continue
        expect(len(chunk.get("choices") or ()) == 1, f"{len(chunk['choices'])} choices in a frame")


@stream_rule(
    "choice-fields",
    "Every choice has index, delta and finish_reason.",
    why="Typed clients fail on a choice that lacks one.",
    priority="P0",
)
def choice_fields(stream: ChatStream) -> None:
    for _, choice in stream.choices:
        for name in ("index", "delta", "finish_reason"):
            expect(name in choice, f"a choice lacks {name}")
        expect_int(choice["index"], "index")
        expect(isinstance(choice["delta"], dict), "delta is not an object")
        reason = choice["finish_reason"]
        expect(reason is None or reason in FINISH_REASONS, f"finish_reason is {reason!r}")


@stream_rule(
    "first-frame",
    "The first frame of each answer has the role assistant and no finish_reason.",
    why="Clients open the message with it.",
    priority="P0",
)
def first_frame(stream: ChatStream) -> None:
    for index in stream.indices:
        first = stream.of(index)[0]
        role = (first.get("delta") or {}).get("role")
        expect(role == "assistant", f"the first role of answer {index} is {role!r}")
        expect(first.get("finish_reason") is None, "the first frame already ends the answer")


@stream_rule(
    "text-deltas",
    "content and reasoning_content are strings where they are sent (null is taken as absent).",
    why="Clients add them to a string.",
    priority="P0",
)
def text_deltas(stream: ChatStream) -> None:
    for _, choice in stream.choices:
        for name in ("content", "reasoning_content", "reasoning"):
            value = (choice.get("delta") or {}).get(name)
            expect(value is None or isinstance(value, str), f"{name} is {value!r}")


@stream_rule(
    "no-null-deltas",
    "content and reasoning_content are never null: a frame without text leaves them out.",
    why="The interface says string; strict clients refuse null.",
    priority="P0",
    level=Level.KIMI,
)
def no_null_deltas(stream: ChatStream) -> None:
    for _, choice in stream.choices:
        delta = choice.get("delta") or {}
        for name in ("content", "reasoning_content"):
            expect(name not in delta or delta[name] is not None, f"{name} is null in a frame")


@stream_rule(
    "finish",
    "Each answer ends with one finish_reason, and nothing of it comes after.",
    why="Clients stop there; what follows is lost, and without it they report a cut.",
    priority="P0",
)
def finish(stream: ChatStream) -> None:
    expect(stream.indices, "no answer at all")
    for index in stream.indices:
        reasons = [choice.get("finish_reason") for choice in stream.of(index)]
        ends = [reason for reason in reasons if reason is not None]
        expect(len(ends) == 1, f"answer {index} has {len(ends)} finish reasons")
        expect(reasons[-1] is not None, f"answer {index} goes on after its finish_reason")


@stream_rule(
    "all-answers",
    "n = 2 streams two answers, with index 0 and 1.",
    why="The caller asked and pays for two.",
    priority="P0",
    of=("pair",),
)
def all_answers(stream: ChatStream) -> None:
    expect(sorted(stream.indices) == [0, 1], f"the answers have the indices {stream.indices}")


@check(
    "chat.stream.utf8",
    "No character is split over frames: U+FFFD appears only where the whole answer has it.",
    why="Text in most scripts and every emoji breaks.",
    priority="P0",
)
def utf8(target: Target) -> None:
    for stream in open_streams(target, ("unicode", "text")):
        broken = 0
        for _, choice in stream.choices:
            for name in ("content", "reasoning_content"):
                text = (choice.get("delta") or {}).get(name) or ""
                broken += text.count("\N{REPLACEMENT CHARACTER}")
                expect(
                    not any("\ud800" <= char <= "\udfff" for char in text),
                    "a frame holds half of a character (a lone surrogate)",
                    stream.exchange,
                )
        if broken:
            whole = plain(target, stream.name).ok().json["choices"][0]["message"]
            known = ((whole.get("content") or "") + reasoning(whole)).count(
                "\N{REPLACEMENT CHARACTER}"
            )
            expect(broken <= known, f"{broken} broken characters in the frames", stream.exchange)


@stream_rule(
    "end-usage",
    "The last frame of each answer has choices[0].usage.",
    why="Kimi's clients read the numbers there.",
    priority="P0",
    level=Level.KIMI,
)
def end_usage(stream: ChatStream) -> None:
    for index in stream.indices:
        ends = [c for c in stream.of(index) if c.get("finish_reason")]
        expect(ends, f"answer {index} does not end")
        check_usage(ends[-1].get("usage"), "choices[0].usage")


@stream_rule(
    "include-usage",
    "With stream_options.include_usage a last frame has choices [] and usage, after all answers.",
    why="It is how clients of the OpenAI API count tokens.",
    priority="P0",
    of=("usage",),
)
def include_usage(stream: ChatStream) -> None:
    found = [i for i, chunk in enumerate(stream.chunks) if chunk.get("choices") == []]
    expect(found, "no frame with choices []")
    expect(found == [len(stream.chunks) - 1], "the frame with choices [] is not the last")
    check_usage(stream.chunks[-1].get("usage"), "usage")


@stream_rule(
    "usage-details",
    "The usage frame has completion_tokens_details.reasoning_tokens and "
    "prompt_tokens_details.cached_tokens, integers.",
    why="Without them nobody sees what thinking and caching cost or save.",
    priority="P0",
    level=Level.RECOMMENDED,
    of=("usage",),
)
def usage_details(stream: ChatStream) -> None:
    usage = next((c["usage"] for c in stream.chunks if isinstance(c.get("usage"), dict)), None)
    expect(usage, "no usage")
    assert usage is not None
    check_usage_details(usage)


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
