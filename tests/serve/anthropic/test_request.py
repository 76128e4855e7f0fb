"""Anthropic's requests as the core reads them."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perilune.chat.messages import read_messages as read_chat_messages
from perilune.engine.request import ToolChoice
from perilune.serve.anthropic.request import Asked, read_messages
from perilune.serve.anthropic.schema import MessagesBody
from perilune.serve.api_error import ApiError
from perilune.serve.http import parse
from perilune.serve.request import Caller
from perilune.serve.thought import carry, mark

USER = {"role": "user", "content": "Hi"}
TOOL = {"name": "f", "description": "Does f.", "input_schema": {"type": "object"}}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": "ü"}}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 40).decode()


def ask(*messages: dict[str, Any], **fields: Any) -> Asked:
    body = {"model": "tiny", "max_tokens": 100, "messages": list(messages or [USER]), **fields}
    return read_messages(parse(MessagesBody, body), Caller(), "msg_1")


def turns(*messages: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    found = [dict(message) for message in ask(*messages, **fields).chat.messages]
    read_chat_messages(found)  # the chat package takes them
    return found


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def refused(*messages: dict[str, Any], **fields: Any) -> str:
    with pytest.raises(ApiError) as caught:
        ask(*messages, **fields)
    assert caught.value.status == 400
    return caught.value.message


def test_system_as_text_and_as_blocks() -> None:
    wanted = {"role": "system", "content": [text("Be brief.")]}
    assert turns(system="Be brief.")[0] == wanted
    assert (
        turns(system=[{**text("Be brief."), "cache_control": {"type": "ephemeral"}}])[0] == wanted
    )
    assert [turn["role"] for turn in turns()] == ["user"]


def test_the_attribution_of_claude_code_is_left_out() -> None:
    """It differs in each request, so that no prefix would ever be found in the cache."""
    attribution = text("x-anthropic-billing-header: cc_version=2.1.330.abc; cch=12345;")
    assert turns(system=[attribution, text("Be brief.")])[0]["content"] == [text("Be brief.")]


def test_a_tool_chain() -> None:
    thinking = {"type": "thinking", "thinking": "Use f.", "signature": ""}
    found = turns(
        USER,
        assistant(thinking, text("Let me see."), CALL),
        user({"type": "tool_result", "tool_use_id": "toolu_1", "content": "42"}, text("Well?")),
        tools=[TOOL],
    )
    assert [turn["role"] for turn in found] == ["user", "assistant", "tool", "user"]
    assert found[1]["reasoning_content"] == "Use f."
    assert found[1]["content"] == [text("Let me see.")]
    (call,) = found[1]["tool_calls"]
    assert call == {
        "id": "toolu_1", "type": "function",
        "function": {"name": "f", "arguments": '{"a": "ü"}'},
    }  # fmt: skip
    assert found[2] == {"role": "tool", "tool_call_id": "toolu_1", "content": [text("42")]}


def test_tool_results_of_every_kind() -> None:
    def result(**fields: Any) -> Any:
        block = {"type": "tool_result", "tool_use_id": "toolu_1", **fields}
        return turns(USER, assistant(CALL), user(block))[2]["content"]

    assert result() == []
    assert result(content="gone", is_error=True) == [text("Error: "), text("gone")]
    assert result(content=[text("a"), text("b")]) == [text("a"), text("b")]
    reference = {"type": "tool_reference", "tool_name": "g"}
    assert result(content=[reference]) == [text("Tool: g")]
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    (part,) = result(content=[image])
    assert part.pop("place") == "messages.2.content.0.content.0.source"
    assert part == {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}


def test_several_results_answer_their_own_calls() -> None:
    second = {**CALL, "id": "toolu_2"}
    found = turns(
        USER,
        assistant(CALL, second),
        user(
            {"type": "tool_result", "tool_use_id": "toolu_2", "content": "two"},
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": "one"},
        ),
    )
    assert [turn.get("tool_call_id") for turn in found[2:]] == ["toolu_2", "toolu_1"]


def test_thinking_that_was_not_shown_comes_back_in_its_signature() -> None:
    hidden = {"type": "thinking", "thinking": "", "signature": carry("Secret 思考")}
    shown = {"type": "thinking", "thinking": "Open.", "signature": mark("Open.")}
    foreign = {"type": "thinking", "thinking": "", "signature": "EqQBCkYIBhgCKkD"}
    redacted = {"type": "redacted_thinking", "data": "xyz"}
    found = turns(USER, assistant(hidden, shown, foreign, redacted, text("Hi")), USER)
    assert found[1]["reasoning_content"] == "Secret 思考Open."


def test_documents_and_search_results_keep_their_ends() -> None:
    document = {
        "type": "document", "title": "T",
        "source": {"type": "text", "media_type": "text/plain", "data": "Body"},
    }  # fmt: skip
    (turn,) = turns(user(document))
    assert (
        "".join(p["text"] for p in turn["content"]) == '<document title="T">\nBody\n</document>\n'
    )
    found = {"type": "search_result", "source": "s", "title": "T", "content": [text("Hit")]}
    (turn,) = turns(user(found))
    assert "Hit" in "".join(p["text"] for p in turn["content"])


def test_a_last_message_of_the_assistant_is_continued() -> None:
    found = turns(USER, {"role": "assistant", "content": "The answer is ("})
    assert found[-1]["partial"] is True


def test_assistant_messages_in_a_row_are_one_turn() -> None:
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    result = user({"type": "tool_result", "tool_use_id": "toolu_1", "content": "42"})
    found = turns(USER, assistant(thinking), assistant(text("So")), assistant(CALL), result)
    assert [turn["role"] for turn in found] == ["user", "assistant", "tool"]
    assert found[1]["reasoning_content"] == "Hm." and found[1]["tool_calls"]


@pytest.mark.parametrize("role", ["ctx", "msg"])
def test_the_roles_of_claude_code_are_the_users(role: str) -> None:
    assert turns(USER, {"role": role, "content": "note"})[1]["role"] == "user"
    assert turns(USER, {"role": "system", "content": "note"})[1]["role"] == "system"


@pytest.mark.parametrize(
    ("fields", "enabled", "budget"),
    [
        ({}, False, None),
        ({"thinking": {"type": "disabled"}}, False, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 50}}, True, 50),
        ({"thinking": {"type": "adaptive"}}, True, None),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, True, 2048),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, True, None),
        ({"thinking": {"type": "between_tools"}}, False, None),
    ],
)
def test_thinking(fields: dict[str, Any], enabled: bool, budget: int | None) -> None:
    thinking = ask(**fields).chat.thinking
    assert (thinking.enabled, thinking.budget) == (enabled, budget)


def test_between_tools_thinks_after_a_result() -> None:
    result = user({"type": "tool_result", "tool_use_id": "toolu_1", "content": "42"})
    asked = ask(USER, assistant(CALL), result, thinking={"type": "between_tools"})
    assert asked.chat.thinking.enabled


def test_display_omitted() -> None:
    assert ask(thinking={"type": "adaptive"}).show_thinking
    assert not ask(thinking={"type": "adaptive", "display": "omitted"}).show_thinking


@pytest.mark.parametrize(
    ("choice", "expected", "name", "parallel"),
    [
        (None, ToolChoice.AUTO, None, True),
        ({"type": "auto"}, ToolChoice.AUTO, None, True),
        ({"type": "any", "disable_parallel_tool_use": True}, ToolChoice.REQUIRED, None, False),
        ({"type": "tool", "name": "f"}, ToolChoice.NAMED, "f", True),
        ({"type": "none"}, ToolChoice.NONE, None, True),
    ],
)
def test_tool_choice(choice: Any, expected: ToolChoice, name: str | None, parallel: bool) -> None:
    use = ask(tools=[TOOL], tool_choice=choice).chat.tool_use
    assert (use.choice, use.name, use.parallel) == (expected, name, parallel)


def test_sampling_and_format() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    asked = ask(
        temperature=0.5, top_p=0.9, top_k=5, stop_sequences=["END"],
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )  # fmt: skip
    assert asked.chat.sampling == {
        "max_tokens": 100, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "stop": ("END",),
    }  # fmt: skip
    assert asked.chat.grammar is not None and asked.chat.grammar.definition == schema
    older = ask(output_format={"type": "json_schema", "schema": schema})
    assert older.chat.grammar == asked.chat.grammar


def test_no_tokens_fill_the_cache_only() -> None:
    asked = ask(max_tokens=0)
    assert asked.only_cache and asked.chat.sampling["max_tokens"] == 1


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"messages": [{"role": "bishop", "content": "Hi"}]}, "messages.0.role"),
        ({"messages": [user(7)]}, "messages.0.content.0"),
        ({"messages": [user({"type": "text"})]}, "messages.0.content.0.text"),
        ({"messages": [user({"type": "audio"})]}, "messages.0.content.0.type"),
        ({"messages": [user(CALL)]}, "messages.0.content.0.type"),
        (
            {"messages": [user({"type": "image", "source": {"type": "file", "file_id": "x"}})]},
            "messages.0.content.0.source.type",
        ),
        (
            {"messages": [user({"type": "document", "source": {"type": "base64"}})]},
            "messages.0.content.0.source.type",
        ),
        (
            {"messages": [user({"type": "tool_result", "tool_use_id": "x", "content": "42"})]},
            "messages.0.content.0.tool_use_id",
        ),
        ({"messages": [USER, assistant({**CALL, "input": "no"})]}, "messages.1.content.0.input"),
        ({"messages": [USER, assistant(CALL)]}, "messages.1"),
        ({"messages": [USER, assistant({"type": "thinking"})]}, "messages.1.content.0.thinking"),
        ({"system": [{"type": "image"}]}, "system.0.type"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"tools": [{**TOOL, "name": "no good"}]}, "tools.0.name"),
        (
            {"tools": [{**TOOL, "input_schema": {"type": "object", "properties": {"a": 3}}}]},
            "tools.0.input_schema.properties.a",
        ),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled", "budget_tokens": 100}}, "thinking.budget_tokens"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"max_tokens": 0, "stream": True}, "max_tokens"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"name": "m"}]}, "mcp_servers"),
    ],
)
def test_what_is_refused_names_its_place(body: dict[str, Any], named: str) -> None:
    messages = body.pop("messages", [USER])
    assert named in refused(*messages, **body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
KINDS = st.sampled_from(
    ["text", "image", "tool_use", "tool_result", "thinking", "document", "search_result", "x"]
)
BLOCK = st.dictionaries(
    st.sampled_from(["text", "source", "id", "name", "input", "tool_use_id", "content", "title",
                     "thinking", "signature", "is_error", "cache_control"]),
    JSON,
    max_size=5,
).flatmap(lambda block: KINDS.map(lambda kind: {**block, "type": kind}))  # fmt: skip


@given(
    st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant", "system", "ctx"]),
             "content": st.text(max_size=5) | st.lists(BLOCK, max_size=4)}
        ),
        min_size=1,
        max_size=4,
    )
)  # fmt: skip
def test_whatever_the_blocks_are_it_is_read_or_refused(messages: list[dict[str, Any]]) -> None:
    try:
        found = ask(*messages).chat.messages
    except ApiError as error:
        assert error.status == 400
    else:
        read_chat_messages([dict(turn) for turn in found])
