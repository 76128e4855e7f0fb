"""OpenAI's SDK, unmodified: chat completions, completions, responses; sync, async, streams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from .conftest import GREETING

USER: Any = [{"role": "user", "content": "Hi"}]
WEATHER: Any = [{"role": "user", "content": "How is the weather in Oslo?"}]
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}]
FLAT_TOOLS: Any = [{"type": "function", "name": "get_weather", "parameters": PARAMETERS}]


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_chat(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="tiny", messages=USER)
    message = reply.choices[0].message
    assert message.content == GREETING
    assert message.reasoning_content == "They greet."  # type: ignore[attr-defined]
    assert message.tool_calls is None
    usage = reply.usage
    assert usage is not None and usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens


def test_chat_stream(client: openai.OpenAI) -> None:
    text, reasoning, ends, usage = "", "", [], None
    for chunk in client.chat.completions.create(
        model="tiny", messages=USER, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            ends += [choice.finish_reason] if choice.finish_reason else []
    assert (text, reasoning, ends) == (GREETING, "They greet.", ["stop"])
    assert usage is not None and usage.total_tokens > usage.prompt_tokens


def test_chat_stream_helper_with_tools(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="tiny", messages=WEATHER, tools=TOOLS) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_completion().choices[0].message
    assert "tool_calls.function.arguments.delta" in kinds and "content.done" in kinds
    assert message.tool_calls is not None
    assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Oslo"}


def test_a_tool_loop(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "The weather in both cities?"}]
    reply = client.chat.completions.create(model="tiny", messages=messages, tools=TOOLS)
    choice = reply.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.tool_calls is not None
    assert len(choice.message.tool_calls) == 2
    messages.append(choice.message.model_dump(exclude_none=True))
    messages += [
        {"role": "tool", "tool_call_id": call.id, "content": "Sunny"}
        for call in choice.message.tool_calls
    ]
    again = client.chat.completions.create(model="tiny", messages=messages, tools=TOOLS)
    assert again.choices[0].message.content == "It is sunny in Oslo."


def test_parse(client: openai.OpenAI) -> None:
    asked: Any = [{"role": "user", "content": "A person, please"}]
    reply = client.chat.completions.parse(model="tiny", messages=asked, response_format=Person)
    assert reply.choices[0].message.parsed == Person(name="Ada", age=36)


def test_several_answers_with_log_probabilities(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="tiny", messages=USER, n=2, logprobs=True, top_logprobs=1, seed=3,
        reasoning_effort="none",
    )  # fmt: skip
    assert [choice.message.content for choice in reply.choices] == [GREETING] * 2
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    joined = b"".join(bytes(score.bytes or ()) for score in logprobs.content)
    assert joined.decode() == GREETING


def test_completions_models_and_errors(client: openai.OpenAI) -> None:
    text = client.completions.create(model="tiny", prompt="abc", max_tokens=2, logprobs=1)
    assert text.choices[0].text == "cc"
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt", messages=USER)
    assert missing.value.code == "model_not_found" and missing.value.request_id
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="tiny", messages=USER, temperature=9)
    assert bad.value.param == "temperature"


async def test_async(server: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key="none") as client:
        reply = await client.chat.completions.create(model="tiny", messages=USER)
        assert reply.choices[0].message.content == GREETING
        stream = await client.chat.completions.create(model="tiny", messages=USER, stream=True)
        text = "".join(
            [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        )
        assert text == GREETING
        response = await client.responses.create(model="tiny", input="Hi")
        assert response.output_text == GREETING


def test_responses(client: openai.OpenAI) -> None:
    reply = client.responses.create(model="tiny", input="Hi", instructions="Be brief.")
    assert reply.output_text == GREETING and reply.status == "completed"
    assert [item.type for item in reply.output] == ["reasoning", "message"]
    assert reply.usage is not None and reply.usage.output_tokens_details.reasoning_tokens
    count = client.responses.input_tokens.count(model="tiny", input="Hi", instructions="Be brief.")
    assert count.input_tokens == reply.usage.input_tokens


def test_responses_stream(client: openai.OpenAI) -> None:
    with client.responses.stream(model="tiny", input="weather", tools=FLAT_TOOLS) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert {"response.reasoning_text.delta", "response.output_text.delta",
            "response.function_call_arguments.delta"} <= set(kinds)  # fmt: skip
    call = final.output[-1]
    assert call.type == "function_call" and json.loads(call.arguments) == {"city": "Oslo"}


def test_a_responses_tool_loop(client: openai.OpenAI) -> None:
    items: Any = [{"role": "user", "content": "weather?"}]
    first = client.responses.create(
        model="tiny", input=items, tools=FLAT_TOOLS, include=["reasoning.encrypted_content"]
    )
    call = first.output[-1]
    assert call.type == "function_call"
    items += [item.to_dict() for item in first.output]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"})
    second = client.responses.create(model="tiny", input=items, tools=FLAT_TOOLS)
    assert second.output_text == "It is sunny in Oslo."


def test_responses_parse_and_refusals(client: openai.OpenAI) -> None:
    reply = client.responses.parse(model="tiny", input="A person, please", text_format=Person)
    assert reply.output_parsed == Person(name="Ada", age=36)
    with pytest.raises(openai.BadRequestError) as stateful:
        client.responses.create(model="tiny", input="Hi", previous_response_id="resp_1")
    assert stateful.value.param == "previous_response_id"


def test_leaving_a_stream_frees_the_server(client: openai.OpenAI) -> None:
    asked: Any = [{"role": "user", "content": "forever"}]
    with client.chat.completions.create(model="tiny", messages=asked, stream=True) as stream:
        next(iter(stream))
    reply = client.chat.completions.create(model="tiny", messages=USER)
    assert reply.choices[0].message.content == GREETING
