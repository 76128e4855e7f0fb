"""Messages that other APIs and clients have written, back in a history."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perilune.chat.messages import read_messages as read_chat_messages
from perilune.errors import ChatError
from perilune.serve.api_error import ApiError
from perilune.serve.chat_request import read_messages
from perilune.serve.chat_schema import ChatCompletionBody
from perilune.serve.http import parse

from .scripted import Scripted, Turn

USER = {"role": "user", "content": "Hi"}


def turns(*messages: Any) -> list[Any]:
    body = parse(ChatCompletionBody, {"messages": list(messages)})
    return read_chat_messages(read_messages(body)[0])


def assistant(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(parts), **more}


@pytest.mark.parametrize(
    ("message", "content", "reasoning"),
    [
        (assistant({"type": "text", "text": "a"}), "a", ""),
        (assistant({"type": "output_text", "text": "a", "annotations": []}), "a", ""),
        (assistant({"type": "refusal", "refusal": "No."}), "No.", ""),
        ({"role": "assistant", "content": None, "refusal": "No."}, "No.", ""),
        ({"role": "assistant", "content": "a", "refusal": None}, "a", ""),
        (assistant({"type": "thinking", "thinking": "t", "signature": ""},
                   {"type": "text", "text": "a"}), "a", "t"),
        (assistant({"type": "thinking", "thinking": [{"type": "text", "text": "t"}]}), "", "t"),
        (assistant({"type": "reasoning", "text": "t"}, {"type": "text", "text": "a"}), "a", "t"),
        (assistant({"type": "reasoning_text", "text": "t"}), "", "t"),
        (assistant({"type": "redacted_thinking", "data": "xyz"}), "", ""),
        (assistant(reasoning="t"), "", "t"),
        (assistant(reasoning_content="t"), "", "t"),
        (assistant(thinking="t"), "", "t"),
        (assistant(reasoning_content="t", reasoning="u", thinking="v"), "", "t"),
        (assistant(reasoning_details=[{"type": "reasoning.text", "text": "t"},
                                      {"type": "reasoning.summary", "summary": "s"},
                                      {"type": "reasoning.encrypted", "data": "x"}]), "", "ts"),
        ({"role": "assistant", "content": None}, "", ""),
        ({"role": "assistant", "content": []}, "", ""),
        ({"role": "assistant"}, "", ""),
    ],
)  # fmt: skip
def test_what_an_assistant_has_said(message: dict[str, Any], content: str, reasoning: str) -> None:
    _, found, _ = turns(USER, message, USER)
    assert "".join(found.content) == content and found.reasoning == reasoning


def test_the_other_roles() -> None:
    found = turns(
        {"role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
        {"role": "user", "name": "ann", "content": [{"type": "input_text", "text": "Hi"}, "!"]},
        {"role": "user", "content": None},
        {"role": "user", "content": []},
    )
    assert [turn.role for turn in found] == ["system", "user", "user", "user"]
    assert found[1].name == "ann" and "".join(found[1].content) == "Hi!"


def test_the_old_functions() -> None:
    call = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    found = turns(USER, call, {"role": "function", "name": "f", "content": "42"}, call,
                  {"role": "function", "name": "f", "content": "43"})  # fmt: skip
    assert [turn.role for turn in found] == ["user", "assistant", "tool", "assistant", "tool"]
    assert [turn.tool_call_id for turn in found[2::2]] == ["functions.f:0", "functions.f:1"]
    with pytest.raises(ApiError, match="no function_call"):
        turns(USER, {"role": "function", "name": "f", "content": "42"})


def test_anthropics_blocks() -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": "ü"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1",
              "content": [{"type": "text", "text": "42"}]}  # fmt: skip
    answer = {"role": "user", "content": [result, {"type": "text", "text": "Well?"}]}
    found = turns(USER, assistant({"type": "text", "text": "See."}, use), answer)
    assert [turn.role for turn in found] == ["user", "assistant", "tool", "user"]
    assert found[1].tool_calls[0].arguments == '{"a": "ü"}' and found[2].content == ("42",)


def test_prefix_is_partial() -> None:
    assert turns(USER, {"role": "assistant", "content": "The", "prefix": True})[-1].partial


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (assistant(audio={"id": "audio_1"}), "messages[0].audio"),
        (assistant({"type": "refusal"}), "messages[0].content[0].refusal"),
        (assistant({"type": "output_text", "text": 3}), "messages[0].content[0].text"),
        (assistant({"type": "thinking", "thinking": {}}), "messages[0].content[0]"),
        (assistant({"type": "tool_use", "id": "x", "name": "f"}), "messages[0].content[0].input"),
        (assistant(refusal=7), "messages[0].refusal"),
        (assistant(reasoning=["x"]), "messages[0].reasoning"),
        (assistant(reasoning_details="x"), "messages[0].reasoning_details"),
        (assistant(function_call="f"), "messages[0].function_call"),
        (assistant({"type": "hologram"}), "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "thinking", "thinking": "x"}]},
         "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},
         "messages[0].content[0].type"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused_by_place(message: dict[str, Any], named: str) -> None:
    with pytest.raises((ApiError, ChatError)) as caught:
        turns(message)
    assert named in str(caught.value)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_history_goes_in(scripted: Any, stream: bool) -> None:
    script = Scripted([Turn("Hi")])
    async with scripted(script) as client:
        messages = [USER, assistant({"type": "refusal", "refusal": "I will not."},
                                    {"type": "output_text", "text": " Sorry."}), USER]  # fmt: skip
        body = {"messages": messages, "stream": stream}
        reply = await client.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200 and "I will not. Sorry." in script.prompts[-1]


JSON = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.just([]) | st.just({})
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "output_text", "refusal", "thinking", "reasoning", "tool_use",
                              "tool_result", "redacted_thinking", "x"])},
    optional={"text": JSON, "refusal": JSON, "thinking": JSON, "id": JSON, "name": JSON,
              "input": JSON, "tool_use_id": JSON, "content": JSON},
)  # fmt: skip
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "developer", "tool", "function"])},
    optional={
        "content": st.lists(PART | JSON, max_size=3) | JSON, "refusal": JSON, "reasoning": JSON,
        "thinking": JSON, "reasoning_content": JSON, "reasoning_details": JSON | st.just([{}]),
        "function_call": JSON | st.just({"name": "f"}), "tool_calls": JSON, "name": JSON,
        "prefix": JSON, "audio": JSON, "tool_call_id": JSON,
    },
)  # fmt: skip


@given(st.lists(MESSAGE, min_size=1, max_size=4))
def test_whatever_the_messages_are_they_are_read_or_refused(messages: list[Any]) -> None:
    try:
        turns(*messages)
    except ApiError as error:
        assert error.status == 400
    except ChatError:
        pass
