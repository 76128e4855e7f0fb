"""`/v1/completions`, over noise: prompts of every form, echo, scores, streams."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from .servers import events

pytestmark = pytest.mark.asyncio(loop_scope="module")
URL = "/v1/completions"
GREEDY = {"temperature": 0, "max_tokens": 6, "ignore_eos": True}


async def post(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    reply = await client.post(URL, json={**GREEDY, **body})
    assert reply.status_code == 200, reply.text
    result: dict[str, Any] = reply.json()
    return result


async def ids(client: httpx.AsyncClient, text: str) -> list[int]:
    reply = await client.post("/tokenize", json={"prompt": text})
    tokens: list[int] = reply.json()["tokens"]
    return tokens


async def test_prompts_of_every_form(random_client: httpx.AsyncClient) -> None:
    tokens = await ids(random_client, "The Moon")
    one = await post(random_client, prompt="The Moon")
    assert one["object"] == "text_completion" and one["id"].startswith("cmpl-")
    text = one["choices"][0]["text"]
    assert one["choices"][0]["finish_reason"] == "length"
    assert (await post(random_client, prompt=tokens))["choices"][0]["text"] == text
    many = await post(random_client, prompt=["The Moon", "Hello"], n=2)
    assert [choice["index"] for choice in many["choices"]] == [0, 1, 2, 3]
    assert [choice["text"] for choice in many["choices"][:2]] == [text, text]
    assert many["usage"]["completion_tokens"] == 24
    both = await post(random_client, prompt=[tokens, tokens])
    assert [choice["text"] for choice in both["choices"]] == [text, text]
    assert both["usage"]["prompt_tokens"] == 2 * len(tokens)


async def test_streams_say_the_same(random_client: httpx.AsyncClient) -> None:
    body = {**GREEDY, "prompt": ["The Moon", "Hello"], "stream": True, "logprobs": 1,
            "stream_options": {"include_usage": True}}  # fmt: skip
    frames = events((await random_client.post(URL, json=body)).text)
    assert frames[-1] == "[DONE]" and frames[-2]["choices"] == []
    whole = await post(random_client, prompt=["The Moon", "Hello"], logprobs=1)
    assert frames[-2]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    for index, choice in enumerate(whole["choices"]):
        own = [f["choices"][0] for f in frames[:-2] if f["choices"][0]["index"] == index]
        assert "".join(piece["text"] for piece in own) == choice["text"]
        assert own[-1]["finish_reason"] == "length"
        scored = [t for piece in own if piece["logprobs"] for t in piece["logprobs"]["tokens"]]
        assert scored == choice["logprobs"]["tokens"]


async def test_echo_scores_the_prompt(random_client: httpx.AsyncClient) -> None:
    """What harnesses do for a likelihood: the prompt's scores are those of generating it."""
    prompt = "The Moon is far"
    tokens = await ids(random_client, prompt)
    for most in (0, 1):
        said = await post(random_client, prompt=prompt, echo=True, logprobs=2, max_tokens=most)
        (choice,) = said["choices"]
        assert choice["text"].startswith(prompt)
        scores = choice["logprobs"]
        assert len(scores["tokens"]) == len(tokens) + most
        assert scores["token_logprobs"][0] is None and scores["top_logprobs"][0] is None
        assert all(value < 0 for value in scores["token_logprobs"][1:])
        assert all(1 <= len(top) <= 2 for top in scores["top_logprobs"][1:])
        assert scores["text_offset"][0] == 0
        assert said["usage"]["completion_tokens"] == most
    # Token by token: the score of what a greedy answer says is the score of the same as a prompt.
    answer = await post(random_client, prompt=tokens, logprobs=0, return_token_ids=True)
    generated = answer["choices"][0]
    again = await post(random_client, prompt=[*tokens, *generated["token_ids"]], echo=True,
                       logprobs=0, max_tokens=0)  # fmt: skip
    echoed = again["choices"][0]["logprobs"]["token_logprobs"][-len(generated["token_ids"]) :]
    for ours, theirs in zip(generated["logprobs"]["token_logprobs"], echoed, strict=True):
        assert abs(ours - theirs) < 0.05  # bfloat16 cache: another order of sums


async def test_echo_streams_the_prompt_first(random_client: httpx.AsyncClient) -> None:
    body = {**GREEDY, "prompt": "The Moon", "stream": True, "echo": True}
    frames = events((await random_client.post(URL, json=body)).text)
    assert frames[0]["choices"][0]["text"] == "The Moon"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**6]}, "prompt"),
        ({"prompt": ["x"] * 200}, "prompt"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "best_of": 3}, "best_of"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "logprobs": 21}, "logprobs"),
        ({"prompt": "x", "logprobs": True}, "logprobs"),
        ({"prompt": "x", "echo": True, "logprobs": 1, "stream": True}, "stream"),
        ({"prompt": "x", "n": 99}, "n"),
    ],
)
async def test_bad_fields_are_400(
    random_client: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    reply = await random_client.post(URL, json=fields)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"].partition(".")[0] == param


async def test_stop_and_seed(random_client: httpx.AsyncClient) -> None:
    hot = {"prompt": "The Moon", "max_tokens": 40, "temperature": 1.0, "seed": 7}
    first, second = await asyncio.gather(post(random_client, **hot), post(random_client, **hot))
    assert first["choices"] == second["choices"]
    assert first["system_fingerprint"] == second["system_fingerprint"]
    text = first["choices"][0]["text"]
    stop = text[len(text) // 2 :][:2]
    said = await post(random_client, **hot, stop=stop)
    assert said["choices"][0]["text"] == text[: text.index(stop)]
    assert said["choices"][0]["finish_reason"] == "stop"


async def test_chat_logprobs_are_of_the_answer(random_client: httpx.AsyncClient) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 24, "seed": 2,
            "thinking_token_budget": 4, "logprobs": True, "top_logprobs": 3}  # fmt: skip
    for stream in (False, True):
        reply = await random_client.post("/v1/chat/completions", json={**body, "stream": stream})
        if stream:
            choices = [f["choices"][0] for f in events(reply.text)[:-1]]
            content = "".join(c["delta"].get("content", "") for c in choices)
            scores = [s for c in choices if c["logprobs"] for s in c["logprobs"]["content"]]
        else:
            (choice,) = reply.json()["choices"]
            content, scores = choice["message"]["content"], choice["logprobs"]["content"]
        data = b"".join(bytes(score["bytes"]) for score in scores)
        assert data.decode("utf-8", "replace").replace("\ufffd", "") == content
        for score in scores:
            assert set(score) == {"token", "logprob", "bytes", "top_logprobs"}
            assert len(score["top_logprobs"]) == 3 and score["logprob"] <= 0


async def test_tokens_there_and_back(random_client: httpx.AsyncClient) -> None:
    text = "Grüße <|im_end|> 世界"
    reply = await random_client.post("/tokenize", json={"prompt": text, "return_token_strs": True})
    body = reply.json()
    assert body["count"] == len(body["tokens"]) == len(body["token_strs"])
    assert body["max_model_len"] == 131_072
    back = await random_client.post("/detokenize", json={"tokens": body["tokens"]})
    assert back.json() == {"prompt": text}
    messages = [{"role": "user", "content": "Hi"}]
    chat = {"messages": messages}
    counted = (await random_client.post("/tokenize", json=chat)).json()["count"]
    for path, read in (
        ("/v1/tokenizers/estimate-token-count", lambda b: b["data"]["total_tokens"]),
        ("/v1/chat/completions/input_tokens", lambda b: b["input_tokens"]),
    ):
        assert read((await random_client.post(path, json=chat)).json()) == counted
    answer = await random_client.post("/v1/chat/completions", json={**chat, "max_tokens": 1})
    assert answer.json()["usage"]["prompt_tokens"] == counted
    for path, wrong in (
        ("/tokenize", {}), ("/tokenize", {"prompt": "x", "messages": messages}),
        ("/tokenize", {"messages": [{"role": "x"}]}), ("/detokenize", {"tokens": [10**6]}),
        ("/detokenize", {"tokens": [-1]}), ("/detokenize", {}), ("/tokenize", {"prompt": 3}),
    ):  # fmt: skip
        assert (await random_client.post(path, json=wrong)).status_code == 400


async def test_models(random_client: httpx.AsyncClient) -> None:
    listed = (await random_client.get("/v1/models")).json()
    (model,) = listed["data"]
    assert listed["object"] == "list" and model["id"] == "tiny"
    assert {"object", "created", "owned_by", "root", "parent", "max_model_len"} <= set(model)
    assert (await random_client.get("/v1/models/tiny")).json() == model
    assert (await random_client.get("/v1/models/other/name")).status_code == 404
    headers = {"anthropic-version": "2023-06-01"}
    theirs = (await random_client.get("/v1/models", headers=headers)).json()
    assert theirs["data"][0]["type"] == "model" and theirs["has_more"] is False
    assert theirs["first_id"] == theirs["last_id"] == "tiny"


async def test_metrics(random_client: httpx.AsyncClient) -> None:
    await post(random_client, prompt="The Moon")
    reply = await random_client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    for name in (
        "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc",
        "prefix_cache_queries_total", "prefix_cache_hits_total", "prompt_tokens_total",
        "generation_tokens_total", "num_preemptions_total", "request_success_total",
        "time_to_first_token_seconds_bucket", "inter_token_latency_seconds_bucket",
        "e2e_request_latency_seconds_bucket", "request_queue_time_seconds_bucket",
        "request_prefill_time_seconds_bucket", "request_decode_time_seconds_bucket",
        "request_inference_time_seconds_bucket", "request_prompt_tokens_bucket",
        "request_generation_tokens_bucket", "request_max_num_generation_tokens_bucket",
        "request_params_n_bucket", "request_params_max_tokens_bucket",
        "iteration_tokens_total_bucket", "bytes_read_total", "bandwidth_share", "accept_length",
    ):  # fmt: skip
        assert f"perilune:{name}{{" in reply.text, name
    assert 'http_requests_total{handler="/v1/completions",method="POST",status="200"}' in reply.text
    values = {
        line.rsplit(" ", 1)[0].partition("{")[0]: float(line.rsplit(" ", 1)[1])
        for line in reply.text.splitlines()
        if line.startswith("perilune:")
    }
    assert values["perilune:generation_tokens_total"] > 0
    assert values["perilune:bytes_read_total"] > 0
    assert values["perilune:bandwidth_share"] > 0
    assert values["perilune:num_requests_running"] == 0


async def test_openapi_names_every_route(random_client: httpx.AsyncClient) -> None:
    document = (await random_client.get("/openapi.json")).json()
    assert "/v1/chat/completions" in document["paths"] and "/v1/messages" in document["paths"]
    body = document["components"]["schemas"]["ChatCompletionBody"]
    assert {"messages", "tools", "thinking"} <= set(body["properties"])
    for path in ("/docs", "/redoc"):
        assert (await random_client.get(path)).status_code == 404
