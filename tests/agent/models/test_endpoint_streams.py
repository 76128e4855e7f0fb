"""Replies as other servers send them, through `EndpointModel`: what counts, what is asked again."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import pytest

from perilune.agent.models.chat_model import ModelError, Sampling
from perilune.agent.models.endpoint import EndpointModel
from perilune.chat.deltas import Finished
from tests.agent.models.replay import Replay, called, deltas_of, read, said, sse

S, E = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"


def spelled(name: str = "get_weather", arguments: str = '{"x": 1}', index: int = 0) -> str:
    return (
        f"<|tool_call_begin|>functions.{name}:{index}<|tool_call_argument_begin|>{arguments}"
        "<|tool_call_end|>"
    )


HI = ("hi", "", [], "stop")
CALL = ("", "", [("call_1", "get_weather", '{"x": 1}')], "tool_calls")


# --- parts that are missing, null or of another type ---------------------------------------------


@pytest.mark.parametrize(
    "odd",
    [
        {"choices": None}, {"choices": []}, {"choices": [None]}, {"choices": "x"}, {"choices": {}},
        {"choices": [{}]}, {"choices": [{"delta": None}]}, {"choices": [{"delta": []}]},
        {"choices": [{"delta": {"content": None, "tool_calls": None, "role": 5}}]},
        {"choices": [{"delta": {"tool_calls": [None, 3, {}, {"function": None}]}}]},
        {"choices": [{"index": 1, "delta": {"content": "another choice"}}]},
        {"usage": None}, {"usage": {}}, {"usage": "many"}, {"usage": [1]},
        {"id": None, "model": 7, "choices": []}, {"error": None}, {"error": {}}, {"error": ""},
        None, True, 3, "text", [], [1, 2], {},
    ],
)  # fmt: skip
async def test_odd_chunks_among_good_ones_change_nothing(odd: Any) -> None:
    odd = f"data: {json.dumps(odd)}\n\n"
    assert await read(sse(said(content="h"), odd, said("stop", content="i"), odd)) == HI


async def test_a_null_delta_with_the_finish_reason_ends_the_answer() -> None:
    last = {"choices": [{"delta": None, "finish_reason": "stop"}]}
    assert await read(sse(said(content="hi"), last)) == HI


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 3}, (7, 3, 0)),
        ({"prompt_tokens": "7", "completion_tokens": 3.0}, (7, 3, 0)),
        ({"prompt_tokens": -7, "completion_tokens": 3}, (0, 3, 0)),
        ({"prompt_tokens": 7, "completion_tokens": None, "prompt_tokens_details": None}, (7, 0, 0)),
        ({"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 99}}, (7, 0, 7)),
        ({"input_tokens": 7, "output_tokens": 3}, (7, 3, 0)),
        ({"prompt_tokens": 10**30, "completion_tokens": True}, None),
        ({"prompt_tokens": "many", "completion_tokens": []}, None),
        ({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, None),
    ],
)
async def test_usage_is_taken_as_far_as_it_makes_sense(usage: Any, expected: Any) -> None:
    last = (await deltas_of(sse(said("stop", content="hi"), {"choices": [], "usage": usage})))[-1]
    assert isinstance(last, Finished)
    found = last.usage and (
        last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.cached_tokens
    )  # fmt: skip
    assert found == expected


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (["a", {"type": "text", "text": "b"}], "ab"),
        ([{"type": "text", "text": "a"}, None, 3, {"type": "image"}], "a"),
        ({"type": "text", "text": "a"}, "a"),
        (42, "42"),
    ],
)
async def test_content_in_parts(content: Any, text: str) -> None:
    assert (await read(sse(said(content=content), said("stop"))))[0] == text


@pytest.mark.parametrize(
    "thought",
    [
        {"reasoning_content": "hm"}, {"reasoning": "hm"},
        {"reasoning_content": None, "reasoning": "hm"},
        {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}, None]},
        {"reasoning": {"content": "hm"}}, {"thinking": "hm"},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]},
    ],
)  # fmt: skip
async def test_reasoning_by_every_name(thought: dict[str, Any]) -> None:
    assert await read(sse(said(**thought), said("stop", content="hi"))) == ("hi", "hm", [], "stop")


# --- tool calls ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pieces",
    [
        [called('{"x": 1}')],
        [called('{"x"'), called(": 1}", None, 0, None)],
        [called('{"x"', index="0"), called(": 1}", None, "0", None)],
        [called('{"x"', index=None), called(": 1}", None, None, None)],
        [called('{"x"', index=3), called(": 1}", None, 3, None)],
        [called('{"x"'), called(": 1}", None, 7, None)],
        [called('{"x"'), called(": 1}")],
        [called('{"x"'), called(": 1}", call_id="another")],
        [called("", "get_"), called("", "weather", 0, None), called('{"x": 1}', None, 0, None)],
        [called("", "get_"), called('{"x": 1}', "get_weather", 0, None)],
        [called({"x": 1})],
        [called(None), called('{"x": 1}', None, 0, None)],
        [called('{"x": 1}'), called('{"x": 1}', None, 0, None)],
        [{"index": 0, "id": "call_1", "name": "get_weather", "arguments": '{"x": 1}'}],
    ],
)
async def test_a_call_in_any_pieces(pieces: list[Any]) -> None:
    chunks = [said(tool_calls=[piece]) for piece in pieces]
    assert await read(sse(*chunks, said("tool_calls"))) == CALL
    assert await read(sse(said(tool_calls=pieces), said("tool_calls"))) == CALL
    if len(pieces) == 1:
        assert await read(sse(said(tool_calls=pieces[0]), said("tool_calls"))) == CALL


async def test_the_older_function_call() -> None:
    first = said(function_call={"name": "get_weather", "arguments": '{"x"'})
    chunks = [first, said(function_call={"arguments": ": 1}"}), said("function_call")]
    content, _, calls, reason = await read(sse(*chunks))
    assert (content, calls, reason) == ("", [("", "get_weather", '{"x": 1}')], "tool_calls")


@pytest.mark.parametrize("indices", [(0, 1), (0, 0), (None, None), (0, 5), ("0", "1")])
async def test_two_calls_stay_two(indices: tuple[Any, Any]) -> None:
    one = called('{"x": 1}', index=indices[0])
    two = called("{}", "get_time", indices[1], "call_2")
    for chunks in ([said(tool_calls=[one, two])], [said(tool_calls=[one]), said(tool_calls=[two])]):
        _, _, calls, _ = await read(sse(*chunks, said("tool_calls")))
        assert [call[1] for call in calls] == ["get_weather", "get_time"]


# --- how it ends ---------------------------------------------------------------------------------

TEXT, WHOLE, HALF = (
    said(content="hi"),
    said(tool_calls=[called('{"x": 1}')]),
    said(tool_calls=[called('{"x": ')]),
)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (sse(TEXT, said("stop")), "stop"),
        (sse(TEXT, said("stop"), done=False), "stop"),
        (sse(TEXT), "stop"),  # [DONE] says that it is whole
        (sse(TEXT, done=False), "cut"),
        (sse(done=False), "cut"),
        (sse(), "cut"),
        (b"", "cut"),
        (b"data: \n\n", "cut"),
        (sse(WHOLE), "tool_calls"),
        (sse(WHOLE, done=False), "tool_calls"),
        (sse(HALF), "cut"),
        (sse(HALF, done=False), "cut"),
        (sse(said(tool_calls=[called("{}", "unknown")])), "cut"),
        (sse(said(tool_calls=[called("", "get_time")]), done=False), "cut"),
        (sse(said(tool_calls=[called("", "get_time")])), "tool_calls"),
        (sse(WHOLE, said("stop")), "tool_calls"),
        (sse(WHOLE, said("")), "tool_calls"),
        (sse(WHOLE, said("who knows")), "tool_calls"),
        (sse(TEXT, said("who knows")), "stop"),
        (sse(TEXT, said("tool_calls")), "stop"),
        (sse(said("tool_calls")), "garbled"),
        (sse(said(tool_calls=[called("{}", None)]), said("tool_calls")), "garbled"),
        (sse(HALF, said("tool_calls")), "tool_calls"),  # the model's own fault: it is told
        (sse(HALF, said("length")), "length"),
        (sse(TEXT, said("max_tokens")), "length"),
        (sse(TEXT, said("end_turn")), "stop"),
        (sse(TEXT, said("content_filter")), "content_filter"),
        (sse(said("content_filter")), "request"),
        (sse(TEXT, said("error")), "overloaded"),
        (sse(TEXT, said("abort")), "overloaded"),
        (sse(TEXT, said("insufficient_system_resource")), "overloaded"),
        (sse(TEXT, said("model_context_window_exceeded")), "length"),
        (sse(said("model_context_window_exceeded")), "context"),
        (sse(TEXT, said(7)), "stop"),
        (sse(TEXT, said("stop"), "data: {broken\n\n"), "stop"),
        (sse(TEXT, "data: {broken\n\n", said("stop")), "cut"),
        (sse(TEXT, said("stop"), {"error": {"message": "late"}}), "stop"),
        (sse(TEXT, {"error": {"message": "boom"}}), "overloaded"),
        (sse({"error": "model not found"}), "overloaded"),
        (sse({"error": {"message": "bad", "code": 400}}), "request"),
        (sse(TEXT, {"error": {"message": "bad", "code": 400}}), "cut"),
        (sse({"error": {"message": "exceeded model token limit: 9", "code": 400}}), "context"),
        (sse('event: error\ndata: {"message": "boom"}\n\n'), "overloaded"),
        (sse("event: error\ndata: upstream gave up\n\n"), "overloaded"),
        (sse({"detail": "no such model"}), "overloaded"),
        (sse({"object": "error", "message": "bad", "code": 400}), "request"),
        (sse(TEXT, said("stop")) + sse(said(content=" more")), "stop"),  # behind [DONE]
        (sse(TEXT, said("stop")) + b"data: [DONE]\n\n", "stop"),
    ],
)  # fmt: skip
async def test_endings(body: bytes, expected: str) -> None:
    try:
        content, _, calls, found = await read(body)
    except ModelError as error:
        found, content, calls = error.kind, "", []
        assert error.retryable == (error.kind not in ("request", "context"))
    assert found == expected
    if expected in ("stop", "content_filter"):
        assert content == "hi"
    if expected == "tool_calls":
        assert calls


async def test_an_empty_completion_near_the_window_is_an_overflow() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 990, "completion_tokens": 1}}
    with pytest.raises(ModelError) as caught:
        await read(sse(said("length"), usage), context_window=1000)
    assert caught.value.kind == "context"
    assert (await read(sse(said("length"), usage), context_window=2000))[3] == "length"


@pytest.mark.parametrize(
    "broken",
    [httpx.RemoteProtocolError("gone"), httpx.ReadTimeout("slow"), OSError("reset"),
     ValueError("odd"), RuntimeError("odd")],
)  # fmt: skip
async def test_a_connection_that_breaks(broken: Exception) -> None:
    for pieces, kind in (([broken], "cut"), ([sse(TEXT, done=False), broken], "cut")):
        with pytest.raises(ModelError) as caught:
            await read(pieces)
        assert (caught.value.kind, caught.value.retryable) == (kind, True)
    assert await read([sse(TEXT, said("stop"), done=False), broken]) == HI, "it was whole"
    with pytest.raises(ModelError) as caught:
        await read(broken)
    assert (caught.value.kind, caught.value.retryable) == ("connection", True)


# --- the bytes -----------------------------------------------------------------------------------

GOOD = sse(said(content="h😀"), said(content="é"), said("stop"))


@pytest.mark.parametrize(
    "body",
    [
        GOOD.replace(b"\n", b"\r\n"), GOOD.replace(b"\n", b"\r"), b"\xef\xbb\xbf" + GOOD,
        b": ping\n\n" * 1000 + GOOD, b"event: ping\ndata:\n\n" + GOOD, b"retry: 5\nid: 1\n" + GOOD,
        b"event: keepalive\n\n" + GOOD, b"data: ping\n\n" + GOOD, b"data: : PROCESSING\n\n" + GOOD,
        GOOD.replace(b"data: ", b"data:"), GOOD.replace(b"\n\n", b"\n"), GOOD.rstrip(b"\n"),
        GOOD.replace(b"data: ", b"event: message\ndata: "), b"\n\n\n" + GOOD,
        GOOD.replace(b"data: ", b"").replace(b"\n\n", b"\n"),  # JSON lines
        json.dumps({"choices": {"message": {"content": "h😀é"}, "finish_reason": "stop"}}).encode(),
        json.dumps({"choices": [{"message": {"content": "h😀é"}}]}, indent=2).encode(),
        GOOD.replace(b'"index"', b'"index": 0, "index"'),  # a key twice
    ],
)  # fmt: skip
async def test_every_form_of_a_stream(body: bytes) -> None:
    for size in (1, 2, 5, len(body)):
        pieces = [body[i : i + size] for i in range(0, len(body), size)]
        assert await read(pieces) == ("h😀é", "", [], "stop"), size


async def test_a_packed_stream_and_a_badly_packed_one() -> None:
    headers = {"content-encoding": "gzip"}
    assert (await read((200, headers, gzip.compress(GOOD))))[0] == "h😀é"
    with pytest.raises(ModelError):
        await read((200, headers, b"not packed"))


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"<!doctype html><html>Welcome</html>", "web page"),
        (b"Internal Server Error", "Internal Server Error"),
        ((302, {"location": "http://test/elsewhere"}, b""), "302|redirect"),
        ((204, {}, b""), "204"),
        ((404, {}, b"404 page not found"), "http://test/v1/chat/completions"),
        ((405, {}, b""), "/v1"),
        ((404, {}, b'{"error": {"message": "model m does not exist"}}'), "--model"),
        (b": flood\n\n" * 600_000, "without saying"),
        (b"data: " + b"x" * (33 << 20), "larger"),
    ],
)  # fmt: skip
async def test_what_is_no_completion_says_what_it_is(reply: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        await read(
            [reply[i : i + 1 << 20] for i in range(0, len(reply), 1 << 20)]
            if isinstance(reply, bytes)
            else reply
        )


@pytest.mark.parametrize(
    "chunk",
    [
        '{"choices": [{"delta": {"content": "x"}, "index": 1e999}], "a": NaN}',
        '{"choices": [{"delta": {"content": "x"}}], "a": ' + "9" * 5000 + "}",
        '{"choices": [{"delta": {"content": "x"}}], "a": ' + "[" * 300 + "]" * 300 + "}",
    ],
)
async def test_numbers_and_nesting_that_json_should_not_have(chunk: str) -> None:
    assert (await read(sse(f"data: {chunk}\n\n", said("stop"))))[0] == "x"
    with pytest.raises(ModelError):
        await read(sse("data: " + "[" * 100_000 + "\n\n", said("stop")))


# --- tool sections and markers in the text -------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("field", ["content", "reasoning_content"])
@pytest.mark.parametrize(
    "text",
    [
        S + spelled() + E,
        S + spelled() + E + "<|im_end|>",
        S + spelled(),
        (S + spelled() + E).replace("calls_section", "call_section"),
        spelled(),
        f"{S}\n{spelled()}\n{E}",
    ],
)
async def test_a_section_is_read_as_calls(text: str, field: str, size: int) -> None:
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    content, _, calls, reason = await read(sse(*(said(**{field: p}) for p in pieces), said("stop")))
    assert (content.strip(), reason) == ("", "tool_calls")
    assert calls == [("functions.get_weather:0", "get_weather", '{"x": 1}')]


async def test_a_section_between_texts_and_without_a_finish_reason() -> None:
    text = f"I look.{S}{spelled()}{spelled('get_time', '{}', 1)}{E} Soon."
    content, _, calls, reason = await read(sse(said(content=text)))
    assert (content, reason) == ("I look. Soon.", "tool_calls")
    assert [call[1] for call in calls] == ["get_weather", "get_time"]


async def test_calls_that_came_both_ways_are_one() -> None:
    text = said(content=f"I look.{S}{spelled()}{E}")
    content, _, calls, _ = await read(sse(text, WHOLE, said("tool_calls")))
    assert (content, calls) == ("I look.", [("call_1", "get_weather", '{"x": 1}')])


@pytest.mark.parametrize(
    "text",
    [S, f"I look.{S}", S + spelled(arguments='{"x": '), S + spelled(arguments="x") + E,
     "I look.<|tool_calls_sec", S + "<|tool_call_begin|>functions.get_wea", S + E],
)  # fmt: skip
@pytest.mark.parametrize("finish", ["stop", "tool_calls", None])
async def test_a_broken_section_is_asked_again(text: str, finish: Any) -> None:
    with pytest.raises(ModelError) as caught:
        await read(sse(said(content=text), said(finish)))
    assert (caught.value.kind, caught.value.retryable) == ("garbled", True)


async def test_a_section_cut_at_the_limit_of_tokens() -> None:
    text = S + spelled() + spelled("get_time", '{"zone": "Eur', 1).removesuffix("<|tool_call_end|>")
    _, _, calls, reason = await read(sse(said(content=text), said("length")))
    assert reason == "length", "the loop refuses the last call then"
    assert [call[1] for call in calls] == ["get_weather", "get_time"]


async def test_an_unknown_function_goes_to_the_loop_which_tells_the_model() -> None:
    body = sse(said(content=S + spelled("nope") + E), said("stop"))
    assert (await read(body))[2] == [("functions.nope:0", "nope", '{"x": 1}')]
    with pytest.raises(ModelError, match="no function was offered"):
        await read(body, tools=())


@pytest.mark.parametrize(
    "text",
    [
        f"`{S}` opens a section.", f"The marker {S} opens a section of calls.",
        f"```\n{S}{spelled()}{E}\n```\nis a section.", f"A call: `{spelled()}`",
        f"It looks so: {S}{spelled('NAME', '{...}')}{E}, and then the tool answers.",
        "`<|im_end|>` ends a turn, and [EOS] a text.", "K2 writes <think> and </think> around it.",
        "Use `</think>` there.", "```xml\n<think>\nhm\n</think>\n```", "a <| b", "1 < 2 [E", "x <",
        "> **<|im_middle|>** stands behind the role.", "`<|tool_calls_section_end|>`",
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_text_about_markers_stays_as_it_is(text: str, size: int) -> None:
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    for tools in ((), None):
        options = {} if tools is None else {"tools": tools}
        found = await read(sse(*(said(content=p) for p in pieces), said("stop")), **options)
        assert found == (text, "", [], "stop")


@pytest.mark.parametrize(
    ("text", "content", "reasoning"),
    [
        ("hi<|im_end|>", "hi", ""), ("hi[EOS]", "hi", ""), ("hi<|im_end|>[EOS]\n", "hi", ""),
        ("hi<|im_end|><|im_user|>user<|im_middle|>and?<|im_end|>", "hi", ""),
        ("hi<|im_e", "hi", ""),
        ("<|im_assistant|>assistant<|im_middle|>hi", "hi", ""), ("<|im_end|>", "", ""),
        ("<think>hm</think>\n\nhi", "hi", "hm"), ("hm</think>hi", "hi", "hm"),
        ("\n<think>\nhm\n</think>hi", "hi", "\nhm\n"), ("<think></think>hi", "hi", ""),
        ("<think>hm", "", "hm"), ("Well.\n<think>hm</think>hi", "Well.\nhi", "hm"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_markers_are_no_answer(text: str, content: str, reasoning: str, size: int) -> None:
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    found = await read(sse(*(said(content=p) for p in pieces), said("stop")))
    assert found[:2] == (content, reasoning)


# --- characters ----------------------------------------------------------------------------------


async def test_halves_of_characters_everywhere() -> None:
    """In content, reasoning, names, ids and arguments; a pair cut between two chunks is joined."""
    half = "\ud83d"
    call = {"id": f"i{half}", "function": {"name": f"n{half}", "arguments": f'{{"t": "{half}"}}'}}
    chunks = [
        {"id": half, "model": half, "choices": [{"delta": {"reasoning": f"r{half}"}}]},
        said(content=f"a{half}"),
        said(content=f"\ude00 b{half}"),
        said("tool_calls", tool_calls=[call]),
    ]
    deltas = await deltas_of(sse(*chunks))
    content, reasoning, calls, _ = await read(sse(*chunks))
    assert (content, reasoning) == ("a😀 b\ufffd", "r\ufffd")
    assert calls == [("i\ufffd", "n\ufffd", '{"t": "\ufffd"}')]
    repr(deltas).encode()


async def test_halves_of_characters_in_the_request() -> None:
    transport = Replay(GOOD)
    model = EndpointModel("http://test", "m\ud83d", transport=transport)
    arguments = '{"t": "\\ud83d"}'
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}]
    messages = [
        {"role": "user", "content": "a\ud83d"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "1", "content": "caf\udce9"},
    ]
    [_ async for _ in model.complete(messages, [], Sampling(stop=("\udc00",)))]
    await model.close()
    sent = transport.bodies[0]
    json.dumps(sent, ensure_ascii=False).encode()
    assert sent["messages"][0]["content"] == "a\ufffd"
    assert json.loads(sent["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {
        "t": "\ufffd"
    }


# --- the room for output, and what servers list --------------------------------------------------


async def test_output_that_does_not_fit_is_asked_with_less() -> None:
    message = "max_tokens is too large: 99999. This model supports at most 512 completion tokens"
    transport = Replay((400, {}, json.dumps({"error": {"message": message}}).encode()), GOOD)
    assert (await read(transport, sampling=Sampling(max_tokens=99999)))[0] == "h😀é"
    assert [body["max_tokens"] for body in transport.bodies] == [99999, 512]


async def test_output_that_never_fits_is_refused_once() -> None:
    message = json.dumps({"error": {"message": "Invalid max_tokens value"}}).encode()
    transport = Replay((400, {}, message))
    with pytest.raises(ModelError) as caught:
        await read(transport, sampling=Sampling(max_tokens=99999))
    assert len(transport.bodies) == 2
    assert caught.value.kind in ("max_tokens", "request")


@pytest.mark.parametrize(
    "listed",
    [b"", b"null", b"[]", b"{}", b'{"data": null}', b'{"data": [null, {}, {"id": 5}]}', b"<html>",
     b"[" * 100_000, b'{"data": {"id": "m"}}', b'{"data": [{"id": "m", "meta": []}]}',
     b'{"data": [{"id": "m", "max_model_len": 1e999}]}', b'{"data": [{"id": "\\ud83d"}]}'],
)  # fmt: skip
async def test_any_list_of_models(listed: bytes) -> None:
    model = EndpointModel("http://test", "m", transport=Replay((200, {}, listed)))
    await model.prepare()
    assert model.context_window is None
    await model.close()
