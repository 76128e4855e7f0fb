"""Requests of the Responses API as the core reads them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perilune.chat.messages import read_messages as read_chat_messages
from perilune.engine.request import ToolChoice
from perilune.engine.sampling_params import GrammarKind
from perilune.serve.api_error import ApiError
from perilune.serve.http import parse
from perilune.serve.request import Caller
from perilune.serve.responses.request import Asked, read_responses
from perilune.serve.responses.schema import ResponsesBody
from perilune.serve.thought import carry

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
USER = {"role": "user", "content": "Hi"}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "42"}
SAID = {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
        "content": [{"type": "output_text", "text": "Sure.", "annotations": []}]}  # fmt: skip
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [],
           "content": [{"type": "reasoning_text", "text": "Use f."}]}  # fmt: skip


def ask(*items: Any, **fields: Any) -> Asked:
    body = {"model": "tiny", "input": list(items) or "Hi", **fields}
    return read_responses(parse(ResponsesBody, body), Caller(), "resp_1")


def turns(*items: Any, **fields: Any) -> list[dict[str, Any]]:
    found = [dict(message) for message in ask(*items, **fields).chat.messages]
    read_chat_messages(found)  # the chat package takes them
    return found


def test_text_and_instructions() -> None:
    assert turns() == [{"role": "user", "content": "Hi"}]
    assert turns(instructions="Be brief.")[0] == {"role": "system", "content": "Be brief."}


def test_roles_and_parts() -> None:
    found = turns(
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "What is"}, {"type": "input_text", "text": " this?"}]},
    )  # fmt: skip
    assert [turn["role"] for turn in found] == ["developer", "user"]
    assert "".join(part["text"] for part in found[1]["content"]) == "What is this?"


def test_the_items_of_one_answer_are_one_turn() -> None:
    second = {**CALL, "call_id": "call_2"}
    found = turns(
        USER, THOUGHT, SAID, CALL, second, {**OUTPUT, "call_id": "call_2"}, OUTPUT, THOUGHT, SAID,
        USER,
    )  # fmt: skip
    roles = [turn["role"] for turn in found]
    assert roles == ["user", "assistant", "tool", "tool", "assistant", "user"]
    assert found[1]["reasoning_content"] == "Use f."
    assert [call["id"] for call in found[1]["tool_calls"]] == ["call_1", "call_2"]
    assert found[1]["content"] == [{"type": "text", "text": "Sure."}]
    assert [turn.get("tool_call_id") for turn in found[2:4]] == ["call_2", "call_1"]


def test_thinking_after_an_answer_is_of_the_next_turn() -> None:
    found = turns(USER, SAID, THOUGHT, CALL, OUTPUT)
    assert [turn["role"] for turn in found] == ["user", "assistant", "assistant", "tool"]
    assert "reasoning_content" not in found[1] and found[2]["reasoning_content"] == "Use f."


def test_thinking_comes_back_encoded() -> None:
    """Codex keeps `encrypted_content` and drops the text."""
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": carry("思考")}
    assert turns(USER, item, CALL, OUTPUT)[1]["reasoning_content"] == "思考"
    foreign = {**item, "encrypted_content": "gAAAAA"}
    assert "reasoning_content" not in turns(USER, foreign, CALL, OUTPUT)[1]
    assert ask(include=["reasoning.encrypted_content"]).carry_reasoning


def test_outputs_as_parts() -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    found = turns(USER, CALL, {**OUTPUT, "output": parts})
    assert [part["text"] for part in found[2]["content"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("choice", "expected", "name"),
    [
        (None, ToolChoice.AUTO, None),
        ("required", ToolChoice.REQUIRED, None),
        ({"type": "function", "name": "f"}, ToolChoice.NAMED, "f"),
        (
            {"type": "allowed_tools", "mode": "required",
             "tools": [{"type": "function", "name": "f"}]},
            ToolChoice.REQUIRED,
            None,
        ),
    ],
)  # fmt: skip
def test_tools(choice: Any, expected: ToolChoice, name: str | None) -> None:
    chat = ask(tools=[TOOL], tool_choice=choice, parallel_tool_calls=False).chat
    assert (chat.tool_use.choice, chat.tool_use.name) == (expected, name)
    assert not chat.tool_use.parallel
    function = {"name": "f", "parameters": {"type": "object"}}
    assert chat.tools == [{"type": "function", "function": function}]


def test_tools_of_a_namespace() -> None:
    """Codex groups its tools so."""
    space = {"type": "namespace", "name": "agents", "tools": [{**TOOL, "name": "wait"}]}
    asked = ask(USER, {**CALL, "namespace": "agents", "name": "wait"}, OUTPUT, tools=[TOOL, space])
    names = [tool["function"]["name"] for tool in asked.chat.tools]
    assert names == ["f", "agents__wait"]
    assert asked.namespaces == {"agents__wait": ("agents", "wait")}
    assert asked.chat.messages[1]["tool_calls"][0]["function"]["name"] == "agents__wait"


def test_sampling_and_the_form_of_the_answer() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}
    asked = ask(max_output_tokens=9, temperature=0.5, top_p=0.5, top_logprobs=2,
                text={"format": form})  # fmt: skip
    assert asked.chat.sampling == {
        "max_tokens": 9, "temperature": 0.5, "top_p": 0.5, "logprobs": 2,
    }  # fmt: skip
    assert asked.chat.grammar is not None and asked.chat.grammar.definition == schema
    free = ask(text={"format": {"type": "json_object"}}).chat.grammar
    assert free is not None and free.kind is GrammarKind.JSON_OBJECT
    assert ask(text={"format": {"type": "text"}}).chat.grammar is None


def test_thinking() -> None:
    assert ask().chat.thinking.enabled
    assert not ask(reasoning={"effort": "none"}).chat.thinking.enabled
    assert ask(reasoning={"effort": "low"}).chat.thinking.budget == 2048


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"previous_response_id": "resp_0"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"store": True}, "store"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"input": []}, "input"),
        ({"input": ["Hi"]}, "input[0]"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]},
         "input[0].content[0].type"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [OUTPUT]}, "input[0].call_id"),
        ({"input": [USER, CALL]}, "function_call_output"),
        ({"input": [{**CALL, "arguments": {}}]}, "input[0].arguments"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{**TOOL, "name": "no good"}]}, "tools[0].name"),
        ({"tools": [{"type": "namespace", "name": "a", "tools": [{"type": "custom"}]}]},
         "tools[0].tools[0].type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
    ],
)  # fmt: skip
def test_what_is_refused_names_its_place(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_responses(
            parse(ResponsesBody, {"model": "tiny", "input": "Hi", **fields}), Caller(), "resp_1"
        )
    assert caught.value.status == 400
    assert named in caught.value.message


JSON = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=3), max_size=2)
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["input_text", "output_text", "refusal", "input_image", "x"])},
    optional={"text": JSON, "refusal": JSON, "image_url": JSON},
)
ITEM = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["message", "reasoning", "function_call", "function_call_output"]),
        "role": st.sampled_from(["user", "assistant", "developer", "x"]),
        "content": st.text(max_size=5) | st.lists(PART, max_size=3) | JSON,
        "output": st.text(max_size=5) | st.lists(PART, max_size=3) | JSON,
        "call_id": st.sampled_from(["a", "b"]), "name": st.sampled_from(["f", "g"]),
        "arguments": st.just("{}") | JSON, "encrypted_content": JSON,
    },
)  # fmt: skip


@given(st.lists(ITEM, min_size=1, max_size=5))
def test_whatever_the_items_are_they_are_read_or_refused(items: list[dict[str, Any]]) -> None:
    try:
        found = [dict(message) for message in ask(*items).chat.messages]
    except ApiError as error:
        assert error.status == 400
    else:
        read_chat_messages(found)
