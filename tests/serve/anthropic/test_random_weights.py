"""What grammars guarantee through this API, with a model that knows nothing."""

from __future__ import annotations

import json

import httpx
import pytest

from .test_routes import HI, TOOL

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_schema_holds_the_answer(random_client: httpx.AsyncClient) -> None:
    schema = {
        "type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["n"], "additionalProperties": False,
    }  # fmt: skip
    form = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    reply = await random_client.post("/v1/messages", json={**HI, **form})
    answer = json.loads(reply.json()["content"][0]["text"])
    assert 1 <= answer["n"] <= 9


async def test_a_forced_call_fits_its_schema(random_client: httpx.AsyncClient) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Oslo", "Ulm"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    asked = {**HI, "tools": [{**TOOL, "input_schema": schema}], "tool_choice": {
        "type": "tool", "name": "get_weather", "disable_parallel_tool_use": True,
    }}  # fmt: skip
    body = (await random_client.post("/v1/messages", json=asked)).json()
    calls = [block for block in body["content"] if block["type"] == "tool_use"]
    assert [call["input"]["city"] in ("Oslo", "Ulm") for call in calls] == [True], body
    assert body["stop_reason"] == "tool_use"
