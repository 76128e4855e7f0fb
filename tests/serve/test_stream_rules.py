"""The rules P0 to P2 hold for what the server says, and the check of them catches each breach."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from .contract import ask, check_frames, check_stream
from .scripted import Turn

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("look", "weigh")
]
FULL = Turn("Grüße, 世界 🌍!", reasoning="Erst schauen.", calls=[("look", {}), ("weigh", {"a": 1})])


async def test_content_reasoning_and_calls_stream_by_the_rules(scripted: Any) -> None:
    async with scripted(FULL) as client:
        body = {"tools": TOOLS, "stream_options": {"include_usage": True}}
        said = await ask(client, body, stream=True)
        whole = await ask(client, {"tools": TOOLS}, stream=False)
        assert said.message == {k: v for k, v in whole.message.items() if k != "refusal"}
        assert said.message["content"] == "Grüße, 世界 🌍!"
        assert said.message["reasoning_content"] == "Erst schauen."
        assert [call["id"] for call in said.message["tool_calls"]] == ["look_0", "weigh_1"]
        assert said.reason == whole.reason == "tool_calls"
        assert said.usages[0]["completion_tokens"] == whole.usages[0]["completion_tokens"]


async def test_stream_options_need_a_stream(scripted: Any) -> None:
    async with scripted(FULL) as client:
        refused = await ask(client, {"stream_options": {"include_usage": True}}, stream=False)
        assert refused.status == 400 and refused.body["error"]["param"] == "stream_options"


async def test_candidates_do_not_mix(scripted: Any) -> None:
    async with scripted(Turn("One and the same.", reasoning="Hm.")) as client:
        said = await ask(client, {"n": 4}, stream=True)
        assert [m["content"] for m in said.messages] == ["One and the same."] * 4
        whole = await ask(client, {"n": 4}, stream=False)
        assert len(whole.messages) == 4
        assert whole.usages[0]["completion_tokens"] == sum(
            usage["completion_tokens"] for usage in said.usages
        )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "content", "reason"),
    [
        ({"stop": "Two"}, "One. ", "stop"),
        ({"stop": ["Three", "o."]}, "One. Tw", "stop"),
        ({"stop": ["Four"]}, "One. Two. Three.", "stop"),
        ({"max_tokens": 7}, "One", "length"),
        ({"max_completion_tokens": 7}, "One", "length"),
    ],
)
async def test_answers_end_where_they_are_told_to(
    scripted: Any, fields: dict[str, Any], content: str, reason: str, stream: bool
) -> None:
    """The text of a stop is not said, and in a stream nothing of it is said too early."""
    async with scripted(Turn("One. Two. Three.", reasoning="Two?")) as client:
        said = await ask(client, fields, stream=stream)
        assert said.reason == reason and said.message["reasoning_content"] == "Two?"
        if reason == "stop":
            assert said.message["content"] == content
        else:
            assert content.startswith(said.message["content"])
            assert said.usages[0]["completion_tokens"] == 7


async def test_no_usage_frame_unless_asked(scripted: Any) -> None:
    async with scripted(Turn("Hi")) as client:
        said = await ask(client, {}, stream=True)
        assert all(frame["choices"] for frame in said.frames[:-1])


def test_no_boundary_frame_without_thinking_is_not_missed() -> None:
    frames = _frames()
    assert check_frames(frames, body={}).message["content"] == "Hi"


def _chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": reason}
    if reason is not None:
        details = {
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }
        choice["usage"] = {
            "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, **details
        }  # fmt: skip
    return {
        "id": "chatcmpl-" + "0" * 24, "object": "chat.completion.chunk", "created": 1,
        "model": "m", "choices": [choice], "usage": None,
    }  # fmt: skip


def _frames() -> list[Any]:
    started = {"index": 0, "id": "f_0", "type": "function",
               "function": {"name": "f", "arguments": ""}}  # fmt: skip
    return [
        _chunk({"role": "assistant", "content": ""}),
        _chunk({"reasoning_content": "Hm"}),
        _chunk({"reasoning_content": ""}),
        _chunk({"content": "Hi"}),
        _chunk({"tool_calls": [started]}),
        _chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
        _chunk({}, "tool_calls"),
        "[DONE]",
    ]


def _choice(frames: list[Any], place: int) -> dict[str, Any]:
    choice: dict[str, Any] = frames[place]["choices"][0]
    return choice


def _set(place: int, key: str, value: Any) -> Callable[[list[Any]], None]:
    return lambda frames: frames[place].__setitem__(key, value)


def _set_delta(place: int, value: Any) -> Callable[[list[Any]], None]:
    return lambda frames: _choice(frames, place).__setitem__("delta", value)


BREACHES: dict[str, Callable[[list[Any]], Any]] = {
    "no [DONE]": lambda f: f.pop(),
    "id changes": _set(2, "id", "chatcmpl-" + "1" * 24),
    "id has another form": lambda f: [c.__setitem__("id", "x") for c in f[:-1]],
    "created is not an integer": _set(3, "created", 1.5),
    "created changes": _set(3, "created", 2),
    "model changes": _set(3, "model", "other"),
    "two choices": lambda f: f[3]["choices"].append(_choice(f, 3)),
    "no finish_reason": lambda f: _choice(f, 3).pop("finish_reason"),
    "no role": _set_delta(0, {"content": ""}),
    "first frame without content": _set_delta(0, {"role": "assistant"}),
    "role again": _set_delta(3, {"role": "assistant", "content": "x"}),
    "no boundary": lambda f: f.pop(2),
    "two kinds in a frame": _set_delta(3, {"content": "x", "reasoning_content": "y"}),
    "half a character": _set_delta(3, {"content": "\ufffd"}),
    "content is null": _set_delta(3, {"content": None}),
    "call starts with arguments": lambda f: _choice(f, 4)["delta"]["tool_calls"][0][
        "function"
    ].__setitem__("arguments", "{"),
    "call starts at 1": lambda f: _choice(f, 4)["delta"]["tool_calls"][0].__setitem__("index", 1),
    "call id again": lambda f: _choice(f, 5)["delta"]["tool_calls"][0].__setitem__("id", "f_0"),
    "call id has another form": lambda f: _choice(f, 4)["delta"]["tool_calls"][0].__setitem__(
        "id", "call_1"
    ),
    "end frame says something": _set_delta(6, {"content": "x"}),
    "end frame without usage": lambda f: _choice(f, 6).pop("usage"),
    "usage in the middle": _set(3, "usage", {}),
    "two ends": lambda f: f.insert(6, copy.deepcopy(f[6])),
    "no end": lambda f: f.pop(6),
    "another object": lambda f: [c.__setitem__("object", "chat.completion") for c in f[:-1]],
    "object changes": _set(3, "object", "chat.completion"),
    "no index": lambda f: _choice(f, 3).pop("index"),
    "no delta": lambda f: _choice(f, 3).pop("delta"),
    "another index": lambda f: _choice(f, 3).__setitem__("index", 1),
    "first frame ends": lambda f: _choice(f, 0).__setitem__("finish_reason", "stop"),
    "reasoning is null": _set_delta(1, {"reasoning_content": None}),
    "calls interleave": lambda f: f.insert(6, _call_frames(f)[0]) or f.insert(7, f[5]),
    "call without its type": lambda f: _choice(f, 4)["delta"]["tool_calls"][0].pop("type"),
    "call with its name again": lambda f: _choice(f, 5)["delta"]["tool_calls"][0][
        "function"
    ].__setitem__("name", "f"),
    "content while thinking": lambda f: f.insert(2, f[3]),
    "usage without its sum": lambda f: _usage(f).pop("total_tokens"),
    "usage without thinking": lambda f: _usage(f).pop("completion_tokens_details"),
    "usage without cached tokens": lambda f: _usage(f)["prompt_tokens_details"].pop(
        "cached_tokens"
    ),
    "usage is not an integer": lambda f: _usage(f).__setitem__("prompt_tokens", 1.5),
    "a usage frame that nobody asked for": lambda f: f.insert(7, _sums(f)),
    "logprobs of another shape": lambda f: _choice(f, 3).__setitem__(
        "logprobs", {"content": [{"token": "Hi", "logprob": -0.5}], "refusal": None}
    ),
}


def _usage(frames: list[Any]) -> dict[str, Any]:
    usage: dict[str, Any] = _choice(frames, 6)["usage"]
    return usage


def _call_frames(frames: list[Any]) -> list[Any]:
    """The two frames of a second call."""
    second = copy.deepcopy(frames[4:6])
    for frame in second:
        frame["choices"][0]["delta"]["tool_calls"][0]["index"] = 1
    second[0]["choices"][0]["delta"]["tool_calls"][0]["id"] = "f_1"
    return second


def _sums(frames: list[Any]) -> dict[str, Any]:
    return {**frames[0], "choices": [], "usage": dict(_usage(frames))}


@pytest.mark.parametrize("breach", BREACHES)
def test_the_check_catches(breach: str) -> None:
    frames = _frames()
    BREACHES[breach](frames)
    with pytest.raises((AssertionError, KeyError, IndexError, ValueError, TypeError)):
        check_frames(frames, body={})


ASKED = {"stream_options": {"include_usage": True}}
USAGE_BREACHES: dict[str, Callable[[list[Any]], Any]] = {
    "no sums": lambda f: f.pop(7),
    "sums before the end": lambda f: f.insert(6, f.pop(7)),
    "sums beside a choice": lambda f: f[7].__setitem__("choices", f[6]["choices"]),
    "sums are not the sum": lambda f: f[7]["usage"].update(completion_tokens=2, total_tokens=3),
    "sums of another id": _set(7, "id", "chatcmpl-" + "1" * 24),
}


@pytest.mark.parametrize("breach", USAGE_BREACHES)
def test_the_check_catches_wrong_sums(breach: str) -> None:
    frames = _frames()
    frames.insert(7, _sums(frames))
    check_frames(copy.deepcopy(frames), body=ASKED)
    USAGE_BREACHES[breach](frames)
    with pytest.raises((AssertionError, KeyError, IndexError, ValueError)):
        check_frames(frames, body=ASKED)


def test_the_check_reads_lines_and_headers() -> None:
    text = "".join(f"data: {f if f == '[DONE]' else json.dumps(f)}\n\n" for f in _frames())
    kind = "text/event-stream; charset=utf-8"

    def reply(kind: str, text: str) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": kind}, content=text.encode())

    assert check_stream(reply(kind, ": ping\n\n" + text), body={}).reason == "tool_calls"
    for other in (reply("application/json", text), reply(kind, text.replace("data: ", "data:", 1)),
                  reply(kind, "event: x\n" + text)):  # fmt: skip
        with pytest.raises(AssertionError):
            check_stream(other, body={})


async def test_log_probabilities_stream_by_the_rules(scripted: Any) -> None:
    async with scripted(Turn("Hi there", reasoning="Hm.")) as client:
        body = {"logprobs": True, "top_logprobs": 2}
        streamed = await ask(client, body, stream=True)
        whole = await ask(client, body, stream=False)
        assert streamed.logprobs == whole.logprobs and len(whole.logprobs[0]) > 1
