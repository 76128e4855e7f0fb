"""The thinking table, streamed and not: switches, efforts, budgets, history, control."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perilune.serve.settings import Settings

from .contract import URL, ask
from .scripted import Scripted, Turn
from .servers import asgi_client

STREAM = pytest.mark.parametrize("stream", [False, True])
THINKS = Turn("Answer.", reasoning="A long thought, and one more.")


@STREAM
@pytest.mark.parametrize(
    ("fields", "thinks"),
    [
        ({}, True),
        ({"thinking": {"type": "enabled"}}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"chat_template_kwargs": {"thinking": True}}, True),
        ({"chat_template_kwargs": {"thinking": False}}, False),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "high"}, True),
        ({"reasoning_effort": "max"}, True),
        ({"thinking": {"type": "enabled", "effort": "low"}}, True),
        ({"chat_template_kwargs": {"thinking_effort": "high"}}, True),
    ],
)
async def test_switches(scripted: Any, fields: dict[str, Any], thinks: bool, stream: bool) -> None:
    async with scripted(THINKS) as client:
        said = await ask(client, fields, stream=stream)
        assert said.status == 200
        if thinks:
            assert said.message["reasoning_content"] == THINKS.reasoning
            assert said.message["content"] == "Answer."
            assert said.usages[0]["completion_tokens_details"]["reasoning_tokens"] > 0
        else:  # the prompt has closed the thinking, so what the script thinks is never thinking
            assert "reasoning_content" not in said.message
            assert said.usages[0]["completion_tokens_details"]["reasoning_tokens"] == 0


@STREAM
@pytest.mark.parametrize(
    "fields",
    [
        {"thinking_token_budget": 4},
        {"thinking": {"type": "enabled", "budget_tokens": 4}},
    ],
)
async def test_budgets_close_the_thinking(
    scripted: Any, fields: dict[str, Any], stream: bool
) -> None:
    async with scripted(Turn("x", endless=True)) as client:
        said = await ask(client, {**fields, "max_tokens": 20}, stream=stream)
        assert said.message["reasoning_content"] == "xxxx"
        assert said.usages[0]["completion_tokens_details"]["reasoning_tokens"] == 4
        assert said.message["content"].startswith("xxx") and said.reason == "length"


@STREAM
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "keep": "some"}}, "thinking.keep"),
        ({"thinking": {"type": "enabled", "effort": "huge"}}, "thinking.effort"),
        ({"thinking": "enabled"}, "thinking"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"thinking_token_budget": -1}, "thinking_token_budget"),
        ({"thinking_token_budget": 1.5}, "thinking_token_budget"),
        ({"chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs.tokenize"),
        ({"chat_template_kwargs": {"thinking": "yes"}}, "chat_template_kwargs.thinking"),
        (
            {"thinking": {"type": "enabled"}, "chat_template_kwargs": {"thinking": False}},
            "thinking",
        ),
    ],
)
async def test_bad_switches_are_400(
    scripted: Any, fields: dict[str, Any], param: str, stream: bool
) -> None:
    async with scripted(THINKS) as client:
        said = await ask(client, fields, stream=stream)
        assert said.status == 400 and said.error["param"] == param
        assert said.error["type"] == "invalid_request_error"


@STREAM
async def test_reasoning_can_be_left_out_and_has_an_alias(scripted: Any, stream: bool) -> None:
    async with scripted(THINKS, settings=Settings(reasoning_alias=True)) as client:
        said = await ask(client, {"include_reasoning": False}, stream=stream)
        assert "reasoning_content" not in said.message and said.message["content"] == "Answer."
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": stream}
        text = (await client.post(URL, json=body)).text
        assert '"reasoning":"' in text


@STREAM
async def test_reasoning_of_the_history_goes_in(scripted: Any, stream: bool) -> None:
    """As `reasoning_content` or `reasoning`; of a finished turn only with keep: all."""
    seen = Scripted(lambda prompt: THINKS)
    history = [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two", "reasoning_content": "SECRET"},
        {"role": "user", "content": "Three"},
    ]
    other = [history[0], {"role": "assistant", "content": "Two", "reasoning": "SECRET"}, history[2]]
    async with scripted(seen) as client:
        for messages, fields, kept in (
            (history, {}, False),
            (history, {"thinking": {"type": "enabled", "keep": "all"}}, True),
            (other, {"chat_template_kwargs": {"preserve_thinking": True}}, True),
        ):
            said = await ask(client, {"messages": messages, **fields}, stream=stream)
            assert said.status == 200
            assert ("SECRET" in seen.prompts[-1]) is kept


@STREAM
async def test_a_partial_message_is_continued(scripted: Any, stream: bool) -> None:
    """Moonshot's `partial`, or `continue_final_message`: only what comes behind it is said."""
    last = {"role": "assistant", "content": "So far"}
    user = {"role": "user", "content": "Hi"}
    async with scripted(Turn("So far and on.", reasoning="Hm.")) as client:
        for fields in (
            {"messages": [user, {**last, "partial": True}]},
            {"messages": [user, last], "continue_final_message": True,
             "add_generation_prompt": False},
        ):  # fmt: skip
            said = await ask(client, fields, stream=stream)
            assert said.message["content"] == " and on." and said.reason == "stop"
        wrong = {"messages": [{**user, "partial": True}]}
        assert (await ask(client, wrong, stream=stream)).status == 400


@STREAM
async def test_thinking_can_be_ended_from_outside(scripted: Any, stream: bool) -> None:
    script = Scripted([Turn("x", endless=True)], step_seconds=0.005)
    async with scripted(script) as client:
        asked = asyncio.create_task(ask(client, {"max_tokens": 400}, stream=stream))
        while not client.service.open_requests:
            await asyncio.sleep(0.01)
        (request_id,) = client.service.open_requests
        await asyncio.sleep(0.1)
        control = {"id": request_id, "action": "reasoning_end"}
        reply = await client.post(f"{URL}/control", json=control)
        assert reply.status_code == 200 and reply.json()["success"] is True
        message = (await asked).message
        assert message["reasoning_content"] and message["content"]
        assert (await client.post(f"{URL}/control", json=control)).status_code == 404
        wrong = await client.post(f"{URL}/control", json={"id": request_id, "action": "stop"})
        assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "action"


async def test_only_the_owner_ends_the_thinking(scripted: Any) -> None:
    from perilune.serve.keys import Keys

    keys = Keys([("a", "key-of-a-12345"), ("b", "key-of-b-12345")])
    script = Scripted([Turn("x", endless=True)], step_seconds=0.005)
    async with scripted(script, keys=keys) as client:
        service = client.service
        async with asgi_client(service, keys) as other:
            client.headers["authorization"] = "Bearer key-of-a-12345"
            other.headers["x-api-key"] = "key-of-b-12345"
            body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 200}
            asked = asyncio.create_task(client.post(URL, json=body))
            while not service.open_requests:
                await asyncio.sleep(0.01)
            control = {"id": service.open_requests[0], "action": "reasoning_end"}
            assert (await other.post(f"{URL}/control", json=control)).status_code == 404
            message = (await asked).json()["choices"][0]["message"]
            assert message["content"] == ""
