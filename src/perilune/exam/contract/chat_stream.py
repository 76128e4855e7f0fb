"""How a chat answer streams, frame by frame: the rules without which clients break.

They are those of priority P0 in Moonshot's interface; `chat_stream_details` has the others.
"""

from __future__ import annotations

from perilune.exam.contract.check import Level, check, expect, expect_int, expect_text
from perilune.exam.contract.scenarios import ChatStream, open_streams, plain, reasoning
from perilune.exam.contract.shapes import (
    FINISH_REASONS,
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
