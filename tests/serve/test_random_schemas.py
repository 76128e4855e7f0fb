"""Tool arguments fit their schema, whatever the schema and whatever the weights.

The model is random, so whatever fits does so by construction. A bias towards what closes strings
and objects keeps the noise short; it forbids nothing. Noise that goes on for 3,000 tokens all the
same is cut, which is not a call (`finish_reason` "length"); few may be.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import jsonschema
import pytest

from .contract import ask
from .random_schemas import Schemas

pytestmark = pytest.mark.asyncio(loop_scope="module")
TOGETHER = 16


@pytest.mark.parametrize("first", [0])
async def test_two_hundred_schemas(random_client: httpx.AsyncClient, first: int) -> None:
    """Those of odd seeds are streamed."""
    await _check(random_client, range(first, first + 200))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("first", range(1000, 6000, 500))
async def test_five_thousand_schemas(random_client: httpx.AsyncClient, first: int) -> None:
    await _check(random_client, range(first, first + 500))


async def _check(client: httpx.AsyncClient, seeds: range) -> None:
    bias = await _closers(client)
    limit = asyncio.Semaphore(TOGETHER)
    wrong: list[str] = []
    cut: list[int] = []

    async def one(seed: int) -> None:
        schema = Schemas(seed).root()
        jsonschema.Draft202012Validator.check_schema(schema)
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        body = {
            "tools": [tool], "tool_choice": "required", "parallel_tool_calls": False,
            "logit_bias": bias, "max_tokens": 3000, "thinking_token_budget": 1, "seed": seed,
        }  # fmt: skip
        async with limit:
            said = await ask(client, body, stream=bool(seed % 2))
        if said.status == 200 and said.reason == "length":
            cut.append(seed)
        elif (problem := _problem(said, schema)) is not None:
            wrong.append(f"seed {seed}: {problem}\n  {json.dumps(schema)[:600]}")

    await asyncio.gather(*map(one, seeds))
    assert len(cut) <= len(seeds) // 100, cut
    assert not wrong, f"{len(wrong)} of {len(seeds)}:\n" + "\n".join(wrong[:8])


def _problem(said: Any, schema: dict[str, Any]) -> str | None:
    if said.status != 200:
        return str(said.body)
    if said.reason != "tool_calls":
        return f"ended by {said.reason}: {str(said.message)[-200:]}"
    text = said.message["tool_calls"][0]["function"]["arguments"]
    try:
        jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator)
    except (ValueError, jsonschema.ValidationError) as error:
        return f"{str(error)[:300]} in {text[:300]!r}"
    return None


async def _closers(client: httpx.AsyncClient) -> dict[str, float]:
    """A bias for the tokens that consist of closing characters."""
    size = 512
    reply = await client.post("/tokenize", json={"prompt": '"', "return_token_strs": True})
    assert reply.status_code == 200
    bias = {}
    for token in range(size):
        text = (await client.post("/detokenize", json={"tokens": [token]})).json()["prompt"]
        if text and set(text) <= set('"}]'):
            bias[str(token)] = 9.0 if text == '"' else 10.0
        elif text in ("z", "0"):  # what open patterns wait for
            bias[str(token)] = 5.0
    return bias
