"""`/v1/responses` on the wire: whole, streamed, counted, refused."""

from __future__ import annotations

from typing import Any

import httpx

from ..anthropic.test_routes import read_sse
from ..scripted import Turn

HI = {"model": "tiny", "input": "Hi"}
TOOL = {
    "type": "function", "name": "get_weather", "description": "Weather of a city.",
    "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
    },
}  # fmt: skip


async def post(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    reply = await client.post("/v1/responses", json={**HI, **fields})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


async def test_a_whole_answer_and_the_same_streamed(scripted: Any) -> None:
    turn = Turn("Sure.", reasoning="Call it.", calls=[("get_weather", {"city": "Oslo"})])
    async with scripted(lambda prompt: turn) as client:
        whole = await post(client, tools=[TOOL])
        assert whole["id"].startswith("resp_") and whole["status"] == "completed"
        assert whole["store"] is False and whole["model"] == "tiny"
        reasoning, message, call = whole["output"]
        assert reasoning["content"] == [{"type": "reasoning_text", "text": "Call it."}]
        assert message["content"][0]["text"] == "Sure."
        assert (call["name"], call["arguments"]) == ("get_weather", '{"city": "Oslo"}')
        assert whole["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
        reply = await client.post("/v1/responses", json={**HI, "tools": [TOOL], "stream": True})
        said = read_sse(reply.text)
        assert all(name == data["type"] for name, data in said)
        last = said[-1][1]["response"]
        for item, streamed in zip(whole["output"], last["output"], strict=True):
            for ours in (item, streamed):
                ours.pop("id"), ours.pop("call_id", None)
            assert item == streamed


async def test_a_tool_chain_reaches_the_model_whole(scripted: Any) -> None:
    def answer(prompt: str) -> Turn:
        if "## Return of" in prompt:
            return Turn("It is sunny.")
        return Turn(reasoning="Look.", calls=[("get_weather", {"city": "Oslo"})])

    async with scripted(answer) as client:
        include = ["reasoning.encrypted_content"]
        first = await post(client, tools=[TOOL], include=include, instructions="Be brief.")
        kept = [{k: v for k, v in item.items() if k != "content"} for item in first["output"]]
        items = [
            {"role": "user", "content": "Hi"},
            *kept,
            {"type": "function_call_output", "call_id": kept[-1]["call_id"], "output": "Sunny"},
        ]
        asked = {"tools": [TOOL], "input": items, "instructions": "Be brief."}
        second = await post(client, **asked)
        assert second["output"][-1]["content"][0]["text"] == "It is sunny."
        prompt = client.script.prompts[-1]
        assert "<think>Look.</think>" in prompt and "Be brief." in prompt
        assert "## Return of functions.get_weather:0\nSunny" in prompt
        count = await client.post("/v1/responses/input_tokens", json={**HI, **asked})
        assert count.json()["input_tokens"] == second["usage"]["input_tokens"]


async def test_limits_and_log_probabilities(scripted: Any) -> None:
    async with scripted(lambda prompt: Turn("Hello there")) as client:
        cut = await post(client, max_output_tokens=3, reasoning={"effort": "none"})
        assert cut["status"] == "incomplete"
        assert cut["incomplete_details"] == {"reason": "max_output_tokens"}
        scored = await post(client, top_logprobs=2, include=["message.output_text.logprobs"])
        logprobs = scored["output"][-1]["content"][0]["logprobs"]
        assert "".join(score["token"] for score in logprobs) == "Hello there"
        assert all(len(score["top_logprobs"]) == 2 for score in logprobs)


async def test_errors(scripted: Any) -> None:
    async with scripted(Turn("Hi")) as client:
        reply = await client.post("/v1/responses", json={**HI, "previous_response_id": "resp_0"})
        error = reply.json()["error"]
        assert (reply.status_code, error["param"]) == (400, "previous_response_id")
        assert error["code"] == "unsupported_parameter" and "whole conversation" in error["message"]
        assert (await client.get("/v1/responses/resp_0")).status_code in (404, 405)
