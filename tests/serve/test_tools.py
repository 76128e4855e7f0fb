"""Every row of the tool and format tables, streamed and not, over scripts and over noise."""

from __future__ import annotations

import json
from typing import Any

import httpx
import jsonschema
import pytest

from .contract import ask
from .scripted import Scripted, Turn

STREAM = pytest.mark.parametrize("stream", [False, True])
WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "maximum": 9}},
    "required": ["city"],
    "additionalProperties": False,
}


def tool(name: str, parameters: Any = None) -> dict[str, Any]:
    function: dict[str, Any] = {"name": name}
    if parameters is not None:
        function["parameters"] = parameters
    return {"type": "function", "function": function}


TOOLS = [tool("get_weather", WEATHER), tool("stop-it.now")]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
# An untrained model rarely closes what it opens: this request-level bias makes it terse.
TERSE = {"max_tokens": 2000, "thinking_token_budget": 3, "parallel_tool_calls": False}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


# --- with a script: what the model wants, and what it may ------------------------------------


@STREAM
async def test_auto_lets_the_model_call(scripted: Any, stream: bool) -> None:
    async with scripted(Turn("On it.", calls=[("get_weather", {"city": "Oslo"})])) as client:
        for choice in ({}, {"tool_choice": "auto"}, {"tool_choice": None}):
            said = await ask(client, {"tools": TOOLS, **choice}, stream=stream)
            (call,) = said.message["tool_calls"]
            assert call["function"]["name"] == "get_weather"
            assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}
            assert said.message["content"] == "On it." and said.reason == "tool_calls"


@STREAM
@pytest.mark.parametrize(
    "fields",
    [{"tools": TOOLS, "tool_choice": "none"}, {"tools": []}, {}, {"tool_choice": "none"},
     {"tool_choice": "auto"}],
)  # fmt: skip
async def test_without_leave_there_is_no_call(
    scripted: Any, fields: dict[str, Any], stream: bool
) -> None:
    """The model wants to call; the markers are masked, so it says something else, and no marker."""
    async with scripted(Turn("Hm", calls=[("get_weather", {"city": "Oslo"})])) as client:
        said = await ask(client, {**fields, "max_tokens": 60}, stream=stream)
        assert said.status == 200 and "tool_calls" not in said.message
        assert "<|" not in said.message["content"]


@STREAM
async def test_parallel_calls_and_ids_over_the_conversation(scripted: Any, stream: bool) -> None:
    wanted = [("get_weather", {"city": "Oslo"}), ("get_weather", {"city": "Rome"})]
    script = Scripted(lambda prompt: Turn(calls=wanted))
    async with scripted(script) as client:
        said = await ask(client, {"tools": TOOLS}, stream=stream)
        calls = said.message["tool_calls"]
        assert [call["id"] for call in calls] == ["get_weather_0", "get_weather_1"]
        history: list[dict[str, Any]] = [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            *(
                {"role": "tool", "tool_call_id": call["id"], "content": "Sunny"}
                for call in reversed(calls)
            ),
        ]
        said = await ask(client, {"tools": TOOLS, "messages": history}, stream=stream)
        again = [call["id"] for call in said.message["tool_calls"]]
        assert again == ["get_weather_2", "get_weather_3"]
        prompt = script.prompts[-1]  # the model saw its own form of the ids
        assert "functions.get_weather:0" in prompt and "get_weather_0" not in prompt
        one = await ask(client, {"tools": TOOLS, "parallel_tool_calls": False}, stream=stream)
        assert len(one.message["tool_calls"]) == 1


@STREAM
async def test_a_call_that_is_cut_is_no_call(scripted: Any, stream: bool) -> None:
    async with scripted(Turn(calls=[("get_weather", {"city": "Oslo"})])) as client:
        whole = await ask(client, {"tools": TOOLS}, stream=False)
        most = whole.usages[0]["completion_tokens"] - 6
        said = await ask(client, {"tools": TOOLS, "max_tokens": most}, stream=stream)
        assert said.reason == "length"
        if not stream:
            assert "tool_calls" not in said.message


@STREAM
async def test_calls_in_thinking_end_it(scripted: Any, chat_format: Any, stream: bool) -> None:
    """The implicit end of thinking: a section begins inside of it."""
    ids = chat_format.special_ids
    encode = chat_format.tokenizer.encode
    raw = [
        *encode("Hm"), ids.tool_calls_section_begin, ids.tool_call_begin,
        *encode("functions.get_weather:0"), ids.tool_call_argument_begin,
        *encode('{"city":"Oslo"}'), ids.tool_call_end, ids.tool_calls_section_end, ids.im_end,
    ]  # fmt: skip
    async with scripted(Turn(raw=raw)) as client:
        said = await ask(client, {"tools": TOOLS}, stream=stream)
        assert said.message["reasoning_content"] == "Hm" and len(said.message["tool_calls"]) == 1


@STREAM
async def test_tools_of_system_messages(scripted: Any, stream: bool) -> None:
    script = Scripted(lambda prompt: Turn(calls=[("get_weather", {"city": "Oslo"})]))
    messages = [
        {"role": "system", "tools": [TOOLS[0]]},
        {"role": "system", "content": "Be kind.", "tools": [TOOLS[1]]},
        {"role": "user", "content": "Hi"},
    ]
    async with scripted(script) as client:
        said = await ask(client, {"messages": messages, "tools": [TOOLS[0]]}, stream=stream)
        assert said.message["tool_calls"][0]["function"]["name"] == "get_weather"
        assert "Be kind." in script.prompts[-1] and "stop-it.now" in script.prompts[-1]
        wrong = [{"role": "user", "content": "Hi", "tools": TOOLS}]
        assert (await ask(client, {"messages": wrong}, stream=stream)).status == 400


# --- refusals ------------------------------------------------------------------------------------


@STREAM
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "magic"}}, "tool_choice"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "no"}}},
            "tool_choice",
        ),
        ({"tools": TOOLS, "tool_choice": allowed("auto")}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": allowed("maybe", "get_weather")}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": allowed("auto", "no")}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": 7}, "tool_choice"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [tool("")]}, "tools"),
        ({"tools": [tool("a b")]}, "tools"),
        ({"tools": [tool("x" * 257)]}, "tools"),
        ({"tools": [tool("f", []), tool("g")]}, "tools"),
        ({"tools": [tool("f"), tool("f", WEATHER)]}, "tools"),
        ({"tools": "f"}, "tools"),
        ({"tools": TOOLS, "parallel_tool_calls": "yes"}, "parallel_tool_calls"),
    ],
)
async def test_bad_tools_are_400(
    scripted: Any, fields: dict[str, Any], param: str, stream: bool
) -> None:
    async with scripted(Turn("Hi")) as client:
        said = await ask(client, fields, stream=stream)
        assert said.status == 400, said
        assert said.error["param"].partition(".")[0] == param
        assert said.error["type"] == "invalid_request_error"
        assert (await ask(client, {}, stream=stream)).status == 200


@STREAM
@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {}},
        {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
        {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "json_schema", "json_schema": {"name": 3, "schema": {}}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": "object"}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "strict": "yes"}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "strange"}}},
        {"type": "yaml"},
        {"type": 3},
        {},
    ],
)
async def test_bad_formats_are_400(scripted: Any, form: dict[str, Any], stream: bool) -> None:
    async with scripted(Turn("Hi")) as client:
        said = await ask(client, {"response_format": form}, stream=stream)
        assert said.status == 400 and said.error["param"] == "response_format"


# --- with random weights: what is well formed is so by construction ---------------------------


pytestmark_noise = pytest.mark.asyncio(loop_scope="module")


@pytestmark_noise
@STREAM
@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"get_weather", "stop-it.now"}),
        (NAMED, {"get_weather"}),
        (allowed("required", "stop-it.now"), {"stop-it.now"}),
        ({"type": "allowed_tools", "mode": "required",
          "tools": [{"type": "function", "name": "get_weather"}]}, {"get_weather"}),
    ],
)  # fmt: skip
async def test_forced_calls_are_made_and_fit(
    random_client: httpx.AsyncClient, choice: Any, names: set[str], stream: bool
) -> None:
    body = {
        "tools": [tool("get_weather", WEATHER), tool("stop-it.now", {"maxProperties": 0})],
        "tool_choice": choice, "seed": 5, **TERSE,
    }  # fmt: skip
    said = await ask(random_client, body, stream=stream)
    assert said.reason == "tool_calls", said
    (call,) = said.message["tool_calls"]
    assert call["function"]["name"] in names
    if call["function"]["name"] == "get_weather":
        jsonschema.validate(json.loads(call["function"]["arguments"]), WEATHER)
    else:
        assert json.loads(call["function"]["arguments"]) == {}


@pytestmark_noise
@STREAM
async def test_formats_hold_the_answer_and_leave_thinking_free(
    random_client: httpx.AsyncClient, stream: bool
) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "weather", "schema": WEATHER}}
    body = {"max_tokens": 3000, "thinking_token_budget": 12, "seed": 3}
    said = await ask(random_client, {**body, "response_format": schema}, stream=stream)
    jsonschema.validate(json.loads(said.message["content"]), WEATHER)
    assert said.reason == "stop"
    assert said.message["reasoning_content"] and said.message["reasoning_content"][:1] != "{"
    said = await ask(random_client, {**body, "response_format": {"type": "text"}, "max_tokens": 30},
                     stream=stream)  # fmt: skip
    assert said.status == 200


@pytestmark_noise
@STREAM
async def test_json_objects(random_client: httpx.AsyncClient, stream: bool) -> None:
    tokens = {"max_tokens": 4000, "thinking_token_budget": 2, "seed": 2}
    body = {"response_format": {"type": "json_object"}, **tokens, "logit_bias": await _enders(
        random_client)}  # fmt: skip
    said = await ask(random_client, body, stream=stream)
    assert isinstance(json.loads(said.message["content"]), dict)


async def _enders(client: httpx.AsyncClient) -> dict[str, float]:
    """A bias towards what closes strings and objects."""
    reply = await client.post("/tokenize", json={"prompt": '"}]'})
    return {str(token): 12.0 for token in reply.json()["tokens"]}
