"""`/v1/messages` on the wire: whole, streamed, counted, refused."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from perilune.errors import EngineDeadError
from perilune.serve.settings import Settings

from ..scripted import Scripted, Turn

HI = {"model": "tiny", "max_tokens": 500, "messages": [{"role": "user", "content": "Hi"}]}
TOOL = {
    "name": "get_weather",
    "description": "Weather of a city.",
    "input_schema": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
    },
}  # fmt: skip
THINK = {"thinking": {"type": "adaptive"}}


def read_sse(text: str) -> list[tuple[str, dict[str, Any]]]:
    """(event name, data) of each event; every event has exactly these two lines."""
    found = []
    for block in text.strip().split("\n\n"):
        event, data = block.split("\n")
        assert event.startswith("event: ") and data.startswith("data: "), block
        found.append((event.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def stream(client: httpx.AsyncClient, **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    reply = await client.post("/v1/messages?beta=true", json={**HI, "stream": True, **fields})
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    return read_sse(reply.text)


async def test_a_whole_answer(scripted: Any) -> None:
    async with scripted(Turn("Grüße, 世界!", reasoning="They greet.")) as client:
        reply = await client.post("/v1/messages", json={**HI, **THINK})
        body = reply.json()
        assert reply.status_code == 200, body
        assert body["id"].startswith("msg_") and body["type"] == "message"
        assert (body["role"], body["model"]) == ("assistant", "tiny")
        thinking, text = body["content"]
        assert thinking["type"] == "thinking" and thinking["thinking"] == "They greet."
        assert thinking["signature"]
        assert text == {"type": "text", "text": "Grüße, 世界!"}
        assert (body["stop_reason"], body["stop_sequence"]) == ("end_turn", None)
        assert body["usage"]["input_tokens"] > 0
        assert (
            body["usage"]["output_tokens"]
            > body["usage"]["output_tokens_details"]["thinking_tokens"]
            > 0
        )


async def test_without_asking_there_is_no_thinking(scripted: Any) -> None:
    async with scripted(Turn("Hello!", reasoning="They greet.")) as client:
        body = (await client.post("/v1/messages", json=HI)).json()
        assert [block["type"] for block in body["content"]] == ["text"]


async def test_a_stream_says_the_same_as_the_whole(scripted: Any) -> None:
    turn = Turn("Sure.", reasoning="Call it.", calls=[("get_weather", {"city": "Oslo"})] * 2)
    async with scripted(lambda prompt: turn) as client:
        said = await stream(client, **THINK, tools=[TOOL])
        whole = (await client.post("/v1/messages", json={**HI, **THINK, "tools": [TOOL]})).json()
        assert all(name == data["type"] for name, data in said)
        kinds = [data["content_block"]["type"] for _, data in said if "content_block" in data]
        assert kinds == ["thinking", "text", "tool_use", "tool_use"]
        assert [block["type"] for block in whole["content"]] == kinds
        assert [name for name, _ in said][:2] == ["message_start", "ping"]
        assert [name for name, _ in said][-2:] == ["message_delta", "message_stop"]
        texts: dict[int, str] = {}
        for _, data in said:
            delta = data.get("delta", {})
            piece = delta.get("text") or delta.get("thinking") or delta.get("partial_json") or ""
            if "index" in data:
                texts[data["index"]] = texts.get(data["index"], "") + piece
        assert [texts[0], texts[1]] == ["Call it.", "Sure."]
        for index in (2, 3):
            assert json.loads(texts[index]) == whole["content"][index]["input"]
            assert whole["content"][index]["input"] == {"city": "Oslo"}
        assert whole["stop_reason"] == said[-2][1]["delta"]["stop_reason"] == "tool_use"
        ids = {block["id"] for block in whole["content"][2:]}
        assert len(ids) == 2


async def test_a_tool_chain_reaches_the_model_whole(scripted: Any) -> None:
    def answer(prompt: str) -> Turn:
        if "## Return of" in prompt:
            return Turn("It is sunny.")
        return Turn(reasoning="Look.", calls=[("get_weather", {"city": "Oslo"})])

    async with scripted(answer) as client:
        first = (await client.post("/v1/messages", json={**HI, **THINK, "tools": [TOOL]})).json()
        call = first["content"][-1]
        result = {
            "type": "tool_result", "tool_use_id": call["id"],
            "content": [{"type": "text", "text": "Sunny"}], "is_error": False,
        }  # fmt: skip
        messages = [
            *HI["messages"],
            {"role": "assistant", "content": first["content"]},
            {"role": "user", "content": [result]},
        ]
        again = {**HI, **THINK, "tools": [TOOL], "messages": messages}
        second = (await client.post("/v1/messages", json=again)).json()
        assert second["content"][-1]["text"] == "It is sunny.", second
        prompt = client.script.prompts[-1]
        assert "<think>Look.</think>" in prompt
        assert "## Return of functions.get_weather:0\nSunny" in prompt
        counted = {k: v for k, v in again.items() if k != "max_tokens"}
        count = (await client.post("/v1/messages/count_tokens", json=counted)).json()
        usage = second["usage"]
        assert count == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}
        # The chain's prompt is a prefix of the next: nothing of it is computed twice but a page.
        assert usage["cache_read_input_tokens"] > 0


async def test_thinking_that_is_omitted_still_comes_back(scripted: Any) -> None:
    omitted = {"thinking": {"type": "adaptive", "display": "omitted"}, "tools": [TOOL]}
    turn = Turn(reasoning="Look.", calls=[("get_weather", {"city": "Oslo"})])
    async with scripted(turn) as client:
        first = (await client.post("/v1/messages", json={**HI, **omitted})).json()
        assert first["content"][0]["thinking"] == ""
        result = {"type": "tool_result", "tool_use_id": first["content"][-1]["id"]}
        messages = [
            *HI["messages"],
            {"role": "assistant", "content": first["content"]},
            {"role": "user", "content": [result]},
        ]
        await client.post("/v1/messages", json={**HI, **omitted, "messages": messages})
        assert "<think>Look.</think>" in client.script.prompts[-1]


async def test_stops(scripted: Any) -> None:
    async with scripted(lambda prompt: Turn("One END two")) as client:
        body = (await client.post("/v1/messages", json={**HI, "stop_sequences": ["END"]})).json()
        assert body["content"] == [{"type": "text", "text": "One "}]
        assert (body["stop_reason"], body["stop_sequence"]) == ("stop_sequence", "END")
        body = (await client.post("/v1/messages", json={**HI, "max_tokens": 3})).json()
        assert body["stop_reason"] == "max_tokens" and body["usage"]["output_tokens"] == 3
        body = (await client.post("/v1/messages", json={**HI, "max_tokens": 0})).json()
        assert body["content"] == [] and body["usage"]["output_tokens"] == 0
        assert body["stop_reason"] == "max_tokens"


async def test_a_prefill_is_continued(scripted: Any) -> None:
    async with scripted(Turn("B)")) as client:
        messages = [*HI["messages"], {"role": "assistant", "content": "The answer is ("}]
        reply = await client.post(
            "/v1/messages", json={**HI, "max_tokens": 1, "messages": messages}
        )
        assert reply.status_code == 200, reply.text
        assert client.script.prompts[-1].endswith("<|im_middle|>")


@pytest.mark.parametrize("stream_it", [False, True])
async def test_errors_have_anthropics_shape(scripted: Any, stream_it: bool) -> None:
    async with scripted(Turn("Hi"), max_context=200) as client:
        for body, status, kind, named in (
            ({**HI, "messages": []}, 400, "invalid_request_error", "messages"),
            ({k: v for k, v in HI.items() if k != "max_tokens"}, 400, "invalid_request_error",
             "max_tokens"),
            ({**HI, "model": "claude"}, 404, "not_found_error", "claude"),
            ({**HI, "messages": [{"role": "user", "content": "x" * 900}]}, 400,
             "invalid_request_error", "prompt is too long"),
        ):  # fmt: skip
            reply = await client.post("/v1/messages", json={**body, "stream": stream_it})
            found = reply.json()
            assert (reply.status_code, found["type"]) == (status, "error"), found
            assert found["error"]["type"] == kind and named in found["error"]["message"]
            assert found["request_id"] == reply.headers["request-id"]


async def test_a_thread_is_refused_so_that_the_sdk_sends_the_whole(scripted: Any) -> None:
    async with scripted(Turn("Hi")) as client:
        reply = await client.post("/v1/messages", json={**HI, "thread": {"type": "create"}})
        details = reply.json()["error"]["details"]
        assert details == {"error_code": "thread_unsupported_request"}


async def test_a_silent_stream_pings(scripted: Any) -> None:
    slow = Scripted(lambda prompt: Turn("Hi"), step_seconds=0.3)
    async with scripted(slow, settings=Settings(ping_seconds=0.05)) as client:
        names = [name for name, _ in await stream(client)]
        assert "ping" in names[2:]
        assert names[-1] == "message_stop"


async def test_an_error_in_the_middle_of_a_stream(
    scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scripted(Turn("Hello, this will not end well", endless=True)) as client:
        real = client.service.open

        async def open_and_break(request: Any) -> Any:
            stream = await real(request)
            outputs = stream._outputs
            count = 0

            class Breaking:
                async def __anext__(self) -> Any:
                    nonlocal count
                    count += 1
                    if count > 3:
                        raise EngineDeadError("the engine died under it")
                    return await anext(outputs)

                async def aclose(self) -> None:
                    await outputs.aclose()

            stream._outputs = Breaking()
            return stream

        monkeypatch.setattr(client.service, "open", open_and_break)
        said = await stream(client)
        name, data = said[-1]
        assert name == data["type"] == "error"
        assert data["error"]["type"] == "overloaded_error"
        assert "died" in data["error"]["message"] and data["request_id"].startswith("req")
        assert not any(name in ("message_delta", "message_stop") for name, _ in said)
