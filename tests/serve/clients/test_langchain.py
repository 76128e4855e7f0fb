"""LangChain's OpenAI client, unmodified."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from .conftest import GREETING

langchain_openai = pytest.importorskip("langchain_openai", reason="make test-clients runs it")


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"Sunny in {city}"


def chat(server: str, **options: Any) -> Any:
    return langchain_openai.ChatOpenAI(
        model="tiny", base_url=f"{server}/v1", api_key="none", max_retries=0, **options
    )


async def test_invoke_and_stream(server: str) -> None:
    model = chat(server)
    assert model.invoke("Hi").content == GREETING
    assert "".join(chunk.content for chunk in model.stream("Hi")) == GREETING
    reply = await model.ainvoke("Hi")
    assert reply.content == GREETING and reply.usage_metadata["output_tokens"] > 0


def test_tools(server: str) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage

    model = chat(server).bind_tools([get_weather])
    history: list[Any] = [HumanMessage("The weather in both cities?")]
    history.append(model.invoke(history))
    assert [call["args"] for call in history[-1].tool_calls] == [{"city": "Oslo"}, {"city": "Ulm"}]
    history += [ToolMessage("Sunny", tool_call_id=call["id"]) for call in history[-1].tool_calls]
    assert model.invoke(history).content == "It is sunny in Oslo."


def test_structured_output(server: str) -> None:
    model = chat(server).with_structured_output(Person, method="json_schema")
    assert model.invoke("A person, please") == Person(name="Ada", age=36)


def test_the_responses_api(server: str) -> None:
    model = chat(server, use_responses_api=True, output_version="responses/v1")
    reply = model.invoke("Hi")
    assert "".join(part.get("text", "") for part in reply.content) == GREETING
    called = model.bind_tools([get_weather]).invoke("weather?")
    assert called.tool_calls[0]["args"] == {"city": "Oslo"}
