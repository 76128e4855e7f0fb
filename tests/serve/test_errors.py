"""The table of errors, streamed and not: status, type, param, code, Retry-After."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perilune.engine.async_engine import AsyncEngine
from perilune.engine.options import EngineOptions
from perilune.serve.keys import Keys
from perilune.serve.quotas import Quotas
from perilune.serve.request import Caller
from perilune.serve.settings import Settings

from .contract import URL, ask
from .scripted import Scripted, Turn, scripted_engine
from .servers import asgi_client, events, make_service

STREAM = pytest.mark.parametrize("stream", [False, True])
USER = {"role": "user", "content": "Hi"}
DATA = "data:image/png;base64,iVBORw0KGgo="


def image(url: Any, kind: str = "image_url") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": kind, kind: {"url": url}}]}]}


@STREAM
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [1]}, "messages.0"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
         "messages[0].content[0].type"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"n": 0}, "n"),
        ({"n": -1}, "n"),
        ({"n": 9}, "n"),
        ({"n": 10**30}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_completion_tokens": 10**9}, "max_completion_tokens"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(2000)}}, "logit_bias"),
        ({"logprobs": 3}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"seed": "x"}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": 3}, "stop"),
        ({"stop_token_ids": [-1]}, "stop_token_ids.0"),
        ({"stop_token_ids": [10**6]}, "stop_token_ids"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": 3}, "stream_options"),
        ({"user": "x" * 600}, "user"),
        ({"metadata": {"k": 3}}, "metadata.k"),
        ({"priority": 10**9}, "priority"),
        ({"priority": -1}, "priority"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"store": True}, "store"),
        ({"moderation": {}}, "moderation"),
        ({"prediction": {}}, "prediction"),
        ({"functions": []}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"chat_template": "{{ 7*7 }}"}, "chat_template"),
        ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
        ({"continue_final_message": True}, "continue_final_message"),
        (image("http://169.254.169.254/latest"), "messages[0].content[0]"),
        (image("file:///etc/passwd"), "messages[0].content[0]"),
        (image("data:image/png,hello"), "messages[0].content[0]"),
        (image("data:image/png;base64,%%%"), "messages[0].content[0]"),
        (image("data:image/png;base64,aGVsbG8gd29ybGQ="), "messages[0].content[0]"),
        (image(3), "messages[0].content[0]"),
        (image(DATA), "messages[0].content[0]"),
        (image("https://example.org/x.mp4", "video_url"), "messages[0].content[0]"),
    ],
)  # fmt: skip
async def test_bad_fields_are_400(
    scripted: Any, fields: dict[str, Any], param: str, stream: bool
) -> None:
    if "stream" in fields and stream:
        pytest.skip("the field under test is `stream` itself")
    async with scripted(Turn("Hi")) as client:
        if "stream" in fields:
            reply = await client.post(URL, json={"messages": [USER], **fields})
            status, error = reply.status_code, reply.json()["error"]
        else:
            said = await ask(client, fields, stream=stream)
            status, error = said.status, said.error
        assert status == 400, error
        assert error["type"] == "invalid_request_error"
        assert error["param"] == param
        if param in ("audio", "store", "prediction"):
            assert error["code"] == "unsupported_parameter"


@STREAM
async def test_another_model_is_404(scripted: Any, stream: bool) -> None:
    async with scripted(Turn("Hi")) as client:
        said = await ask(client, {"model": "gpt-x"}, stream=stream)
        assert said.status == 404 and said.error["code"] == "model_not_found"
        assert said.error["param"] == "model" and said.error["type"] == "not_found_error"


@STREAM
async def test_a_prompt_beyond_the_context(scripted: Any, stream: bool) -> None:
    async with scripted(Turn("Hi"), max_context=256) as client:
        body = {"messages": [{"role": "user", "content": "x" * 2000}]}
        said = await ask(client, body, stream=stream)
        assert said.status == 400 and said.error["code"] == "context_length_exceeded"
        assert "256" in said.error["message"]
        text = await client.post("/v1/completions", json={"prompt": "x" * 2000, "stream": stream})
        assert text.json()["error"]["code"] == "context_length_exceeded"
        assert text.json()["error"]["param"] == "prompt"
        fits = await ask(client, {"max_tokens": 5000}, stream=stream)
        assert fits.status == 200  # an answer is cut where the context ends


@STREAM
async def test_unknown_fields(scripted: Any, stream: bool) -> None:
    fields = {"no_such_field": 1}
    harmless = {"verbosity": "low", "service_tier": "auto", "store": False, "modalities": ["text"],
                "safety_identifier": "x", "prompt_cache_key": "k", "user": "u"}  # fmt: skip
    async with scripted(Turn("Hi")) as client:
        assert (await ask(client, fields, stream=stream)).status == 200
    async with scripted(Turn("Hi"), settings=Settings(strict_params=True)) as client:
        said = await ask(client, fields, stream=stream)
        assert said.status == 400 and said.error["code"] == "unknown_parameter"
        assert said.error["param"] == "no_such_field"
        assert (await ask(client, harmless, stream=stream)).status == 200


@STREAM
async def test_a_full_queue_is_429_with_retry_after(scripted: Any, stream: bool) -> None:
    script = Scripted([Turn("x", endless=True)], step_seconds=0.01)
    settings = Settings(engine=EngineOptions(max_sequences=2), max_queue=1)
    async with scripted(script, settings=settings) as client:
        slow = {"messages": [USER], "max_tokens": 300}
        waiting = [asyncio.create_task(client.post(URL, json=slow)) for _ in range(3)]
        while len(client.service.open_requests) < 3:
            await asyncio.sleep(0.01)
        said = await ask(client, {}, stream=stream)
        assert said.status == 429 and said.error["code"] == "queue_full"
        assert said.error["type"] == "rate_limit_error"
        assert int(said.headers["retry-after"]) >= 1
        assert int(said.headers["retry-after-ms"]) >= 1
        anthropic = await client.post(
            "/v1/messages", json={"model": "tiny", "max_tokens": 5, "messages": [USER]}
        )
        assert anthropic.status_code == 429
        assert anthropic.json()["error"]["type"] == "rate_limit_error"
        for task in waiting:
            assert (await task).status_code == 200
        assert (await ask(client, {"max_tokens": 2}, stream=stream)).status == 200


@STREAM
async def test_loading_draining_and_dead_engines_are_503(chat_format: Any, stream: bool) -> None:
    engine = AsyncEngine(scripted_engine(Scripted([Turn("Hi")]), chat_format))
    service = make_service(engine)
    async with asgi_client(service) as client:
        said = await ask(client, {}, stream=stream)  # not started yet
        assert said.status == 503 and said.error["code"] == "loading"
        assert said.error["type"] == "server_error" and said.headers["retry-after"]
        assert (await client.get("/health")).status_code == 503
        await engine.start()
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/health")).content == b""
        service.draining = True
        said = await ask(client, {}, stream=stream)
        assert said.status == 503 and said.error["code"] == "shutting_down"
        assert (await client.get("/health")).status_code == 503
        service.draining = False
        await engine.close()
        said = await ask(client, {}, stream=stream)
        assert said.status == 503 and said.error["code"] == "engine_dead"


@STREAM
async def test_kimi_strict_refuses_what_the_official_api_refuses(
    scripted: Any, stream: bool
) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    named = {"type": "function", "function": {"name": "f"}}
    instant = {"thinking": {"type": "disabled"}}
    refused: list[tuple[dict[str, Any], str]] = [
        ({"temperature": 0.5}, "temperature"),
        ({"temperature": 0.7, **instant}, "temperature"),
        ({"top_p": 0.9}, "top_p"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": 0.5, **instant}, "frequency_penalty"),
        ({"n": 2}, "n"),
        ({"tools": tools, "tool_choice": named}, "tool_choice"),
        ({"thinking": {"type": "enabled", "effort": "medium"}}, "thinking"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "thinking"),
        ({"stop": ["x"] * 6}, "stop"),
        ({"stop": "é" * 17}, "stop"),
    ]
    taken: list[dict[str, Any]] = [
        {"temperature": 1, "top_p": 0.95, "presence_penalty": 0, "frequency_penalty": 0, "n": 1},
        *({"temperature": t, **mode} for t in (0, 0.6, 1.0) for mode in ({}, instant)),
        {"tools": tools, "tool_choice": "none"},
        {"tools": tools, "tool_choice": "required"},
        {"tools": tools, "tool_choice": "required", **instant},
        {"tools": tools, "tool_choice": named, **instant},
        {"stop": ["x"] * 5},
    ]
    settings = Settings(kimi_strict=True)
    async with scripted(Turn("Hi"), settings=settings) as strict, scripted(Turn("Hi")) as free:
        for fields, param in refused:
            said = await ask(strict, {**fields, "max_tokens": 8}, stream=stream)
            assert said.status == 400 and said.error["param"] == param, fields
            if param != "stop" or isinstance(fields["stop"], list):
                assert (await ask(free, {**fields, "max_tokens": 8}, stream=stream)).status == 200
        for fields in taken:
            said = await ask(strict, {**fields, "max_tokens": 8}, stream=stream)
            assert said.status == 200, fields


@STREAM
async def test_a_model_that_fails_is_500_by_name(chat_format: Any, stream: bool) -> None:
    """Damaged weights give no numbers: this request fails, the server goes on."""
    engine = scripted_engine(Scripted([Turn("Hi")]), chat_format)
    healthy = engine.runner.execute
    broken = [True]

    def execute(step: Any, cache: Any) -> Any:
        logits = healthy(step, cache)
        return logits * float("nan") if broken[0] else logits

    engine.runner.execute = execute
    async with AsyncEngine(engine) as running, asgi_client(make_service(running)) as client:
        body = {"messages": [USER], "stream": stream}
        reply = await client.post(URL, json=body)
        if stream:
            *_, last = events(reply.text)
            error = last["error"]  # and no [DONE]
        else:
            assert reply.status_code == 500
            error = reply.json()["error"]
        assert error["type"] == "server_error" and error["code"] == "generation_failed"
        assert "not a number" in error["message"]
        broken[0] = False
        assert (await ask(client, {}, stream=stream)).message["content"] == "Hi"


# --- quotas ------------------------------------------------------------------------------------


@STREAM
async def test_quotas_of_a_key(scripted: Any, stream: bool) -> None:
    settings = Settings(key_requests_per_minute=2)
    keys = Keys([("a", "key-of-a-1"), ("b", "key-of-b-1")])
    async with scripted(Turn("Hi"), settings=settings, keys=keys) as client:
        statuses = []
        for key in ("a", "a", "a", "b"):
            client.headers["x-api-key"] = f"key-of-{key}-1"
            said = await ask(client, {}, stream=stream)
            statuses.append(said.status)
            if said.status == 429:
                assert said.error["code"] == "rate_limit_exceeded"
                assert 1 <= int(said.headers["retry-after"]) <= 31
        assert statuses == [200, 200, 429, 200]


def test_quotas_fill_with_time() -> None:
    now = [0.0]
    quotas = Quotas(
        Settings(key_tokens_per_minute=600, key_concurrent_requests=2), clock=lambda: now[0]
    )
    me = Caller("me")
    first = quotas.take(me, 100)
    first.release(500)
    first.release(500)  # once is enough
    with pytest.raises(Exception, match="600 tokens per minute"):
        quotas.take(me, 10)
    now[0] = 1.0  # ten tokens more
    leases = [quotas.take(me, 10)]
    now[0] = 60.0
    leases.append(quotas.take(me, 10))
    with pytest.raises(Exception, match="2 requests under way"):
        quotas.take(me, 10)
    leases[0].release(0)
    now[0] = 120.0
    quotas.take(me, 10_000)  # more than a minute's worth may go when the bucket is full enough
    quotas.take(Caller("other"), 10)
