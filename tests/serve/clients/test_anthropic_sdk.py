"""Anthropic's SDK, unmodified: messages, streams, tools, thinking, counts; sync and async."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from .conftest import GREETING

USER: Any = [{"role": "user", "content": "Hi"}]
WEATHER: Any = [{"role": "user", "content": "How is the weather in Oslo?"}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: Any = [{"name": "get_weather", "description": "Weather.", "input_schema": SCHEMA}]
ADAPTIVE: Any = {"type": "adaptive"}


@pytest.fixture
def client(server: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server, api_key="none", max_retries=0) as client:
        yield client


def test_a_message(client: anthropic.Anthropic) -> None:
    reply = client.messages.create(
        model="tiny", max_tokens=500, messages=USER, system="Be brief.", thinking=ADAPTIVE
    )
    thinking, text = reply.content
    assert thinking.type == "thinking" and thinking.thinking == "They greet."
    assert text.type == "text" and text.text == GREETING
    assert reply.stop_reason == "end_turn"
    count = client.messages.count_tokens(
        model="tiny", messages=USER, system="Be brief.", thinking=ADAPTIVE
    )
    usage = reply.usage
    assert count.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_a_stream(client: anthropic.Anthropic) -> None:
    with client.messages.stream(
        model="tiny", max_tokens=500, messages=WEATHER, tools=TOOLS, thinking=ADAPTIVE
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    for kind in ("thinking", "signature", "text", "input_json", "content_block_stop"):
        assert kind in kinds
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use"]
    call = final.content[-1]
    assert call.type == "tool_use" and call.input == {"city": "Oslo"}
    assert final.stop_reason == "tool_use" and final.usage.output_tokens > 0


def test_a_text_stream(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="tiny", max_tokens=500, messages=USER) as stream:
        assert "".join(stream.text_stream) == GREETING


def test_a_tool_loop(client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {
        "model": "tiny", "max_tokens": 500, "tools": TOOLS, "thinking": ADAPTIVE,
    }  # fmt: skip
    first = client.messages.create(messages=WEATHER, **asked)
    call = first.content[-1]
    assert call.type == "tool_use"
    result = {
        "type": "tool_result", "tool_use_id": call.id, "is_error": False,
        "content": [{"type": "text", "text": "Sunny"}],
    }  # fmt: skip
    messages: Any = [*WEATHER, first.to_param(), {"role": "user", "content": [result]}]
    second = client.messages.create(messages=messages, **asked)
    assert second.content[-1].text == "It is sunny in Oslo."  # type: ignore[union-attr]


def test_the_tool_runner(client: anthropic.Anthropic) -> None:
    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """Weather of a city.

        Args:
            city: Its name.
        """
        return f"Sunny in {city}"

    runner = client.beta.messages.tool_runner(
        model="tiny", max_tokens=500, messages=WEATHER, tools=[get_weather]
    )
    final = runner.until_done()
    assert final.content[-1].text == "It is sunny in Oslo."  # type: ignore[union-attr]


def test_structured_output_and_stops(client: anthropic.Anthropic) -> None:
    schema = {
        "type": "object", "additionalProperties": False, "required": ["name", "age"],
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    }  # fmt: skip
    asked: Any = [{"role": "user", "content": "A person, please"}]
    reply = client.messages.create(
        model="tiny", max_tokens=500, messages=asked,
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )  # fmt: skip
    assert reply.content[0].text == '{"name":"Ada","age":36}'  # type: ignore[union-attr]
    reply = client.messages.create(
        model="tiny", max_tokens=500, messages=USER, stop_sequences=["script"]
    )
    assert (reply.stop_reason, reply.stop_sequence) == ("stop_sequence", "script")


def test_models_and_errors(client: anthropic.Anthropic) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.type) == ("tiny", "model") and model.max_input_tokens
    assert client.models.retrieve("tiny").display_name == "tiny"
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="claude", max_tokens=5, messages=USER)
    assert missing.value.request_id
    with pytest.raises(anthropic.BadRequestError) as bad:
        client.messages.create(model="tiny", max_tokens=5, messages=[])
    body: Any = bad.value.body
    assert body["error"]["type"] == "invalid_request_error"


async def test_async(server: str) -> None:
    async with anthropic.AsyncAnthropic(base_url=server, auth_token="none") as client:
        reply = await client.messages.create(model="tiny", max_tokens=500, messages=USER)
        assert reply.content[0].text == GREETING  # type: ignore[union-attr]
        async with client.messages.stream(model="tiny", max_tokens=500, messages=USER) as stream:
            assert "".join([text async for text in stream.text_stream]) == GREETING
            final = await stream.get_final_message()
        assert final.stop_reason == "end_turn"
        raw = await client.messages.create(model="tiny", max_tokens=500, messages=USER, stream=True)
        kinds = [event.type async for event in raw]
        assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
