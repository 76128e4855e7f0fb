# ruff: noqa: E501 - the wordings are the servers' own
"""Servers' refusals in their own words."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from perilune.agent.models.chat_model import ModelError
from perilune.agent.models.refusals import status_error, stream_error

# (server, status, error object or text, window that is learnt)
TOO_LONG: list[tuple[str, int, Any, int | None]] = [
    ("moonshot", 400, {"message": "Invalid request: Your request exceeded model token limit: 131072", "type": "invalid_request_error"}, 131072),
    ("moonshot-2", 400, {"message": "Your request exceeded model token limit: 262144 (requested: 270001)", "type": "invalid_request_error"}, 262144),
    ("openai", 400, {"message": "This model's maximum context length is 128000 tokens. However, your messages resulted in 131234 tokens. Please reduce the length of the messages.", "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}, 128000),
    ("openai-completion", 400, {"message": "This model's maximum context length is 4097 tokens. However, you requested 4927 tokens (4900 in the messages, 27 in the completion). Please reduce the length of the messages or completion.", "code": "context_length_exceeded"}, 4097),
    ("openai-responses", 400, {"message": "Your input exceeds the context window of this model. Please adjust your input and try again.", "code": "context_length_exceeded"}, None),
    ("vllm", 400, {"message": "This model's maximum context length is 32768 tokens. However, you requested 33000 tokens (32990 in the messages, 10 in the completion). Please reduce the length of the messages or completion.", "type": "BadRequestError", "code": 400}, 32768),
    ("vllm-input", 400, {"message": "This model's maximum context length is 8192 tokens. However, your request has 9001 input tokens. Please reduce the length of the input messages.", "type": "BadRequestError", "code": 400}, 8192),
    ("vllm-v1", 400, {"message": "The decoder prompt (length 41270) is longer than the maximum model length of 40960. Make sure that `max_model_len` is no smaller than the number of text tokens.", "type": "BadRequestError"}, 40960),
    ("vllm-new", 400, {"message": "You passed 9001 input tokens and requested 1 output tokens. However, the model's context length is only 8192 tokens, resulting in a maximum input length of 8191 tokens. Please reduce the length of the input prompt.", "type": "BadRequestError"}, 8192),
    ("sglang", 400, {"message": "Input length (40970 tokens) exceeds the maximum allowed length (40954 tokens). Use a shorter input or enable --allow-auto-truncate.", "object": "error"}, 40954),
    ("sglang-2", 400, {"message": "The input (40999 tokens) is longer than the model's context length (40960 tokens).", "type": "BadRequest"}, 40960),
    ("sglang-3", 400, {"message": "Requested token count exceeds the model's maximum context length of 32768 tokens. You requested a total of 33010 tokens: 32998 tokens from the input messages and 12 tokens for the completion."}, 32768),
    ("llama.cpp", 400, {"code": 400, "message": "the request exceeds the available context size, try increasing it", "type": "exceed_context_size_error", "n_prompt_tokens": 9000, "n_ctx": 8192}, 8192),
    ("llama.cpp-2", 400, {"code": 400, "message": "request (9000 tokens) exceeds the available context size (8192 tokens), try increasing it", "type": "exceed_context_size_error"}, 8192),
    ("llama.cpp-old", 500, {"code": 500, "message": "the request exceeds the available context size. try increasing the context size or enable context shift", "type": "server_error"}, None),
    ("ollama", 400, "the input length exceeds the context length", None),
    ("ollama-2", 400, {"message": "prompt too long; exceeded max context length by 1043 tokens"}, None),
    ("lm-studio", 400, "Trying to keep the first 9001 tokens when context the overflows. However, the model is loaded with context length of only 8192 tokens, which is not enough. Try to load the model with a larger context length, or provide a shorter input", 8192),
    ("lm-studio-2", 400, "The number of tokens to keep from the initial prompt is greater than the context length. Try to load the model with a larger context length, or provide a shorter input", None),
    ("anthropic", 400, {"type": "invalid_request_error", "message": "prompt is too long: 205384 tokens > 200000 maximum"}, 200000),
    ("anthropic-2", 400, {"type": "invalid_request_error", "message": "input length and `max_tokens` exceed context limit: 199990 + 8192 > 200000, decrease input length or `max_tokens` and try again"}, 200000),
    ("anthropic-413", 413, {"type": "request_too_large", "message": "Request exceeds the maximum size"}, None),
    ("azure", 400, {"message": "This model's maximum context length is 16385 tokens, however you requested 17000 tokens (16900 in your prompt; 100 for the completion). Please reduce your prompt; or completion length.", "code": "context_length_exceeded"}, 16385),
    ("github-models", 413, {"code": "tokens_limit_reached", "message": "Request body too large for gpt-4o model. Max size: 8000 tokens.", "details": "x"}, 8000),
    ("openrouter", 400, {"message": "This endpoint's maximum context length is 262144 tokens. However, you requested about 270000 tokens (269000 of text input, 1000 in the output). Please reduce the length of either one, or use the \"middle-out\" transform to compress your prompt automatically.", "code": 400}, 262144),
    ("openrouter-raw", 400, {"message": "Provider returned error", "code": 400, "metadata": {"raw": "{\"error\":{\"message\":\"Your request exceeded model token limit: 131072\"}}", "provider_name": "Moonshot"}}, 131072),
    ("together", 422, {"message": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 32769. Given: 33000 `inputs` tokens and 10 `max_new_tokens`", "type": "invalid_request_error"}, 32769),
    ("fireworks", 400, {"message": "The prompt is too long: 140201, model maximum context length: 131071", "object": "error", "type": "invalid_request_error"}, 131071),
    ("groq", 400, {"message": "Please reduce the length of the messages or completion.", "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}, None),
    ("groq-413", 413, {"message": "Request Entity Too Large", "type": "invalid_request_error", "code": "request_too_large"}, None),
    ("gemini", 400, {"code": 400, "message": "The input token count (1100000) exceeds the maximum number of tokens allowed (1048576).", "status": "INVALID_ARGUMENT"}, 1048576),
    ("gemini-2", 400, {"code": 400, "message": "The input token count exceeds the maximum number of tokens allowed 1048576.", "status": "INVALID_ARGUMENT"}, 1048576),
    ("mistral", 400, {"object": "error", "message": "Prompt contains 40021 tokens and 0 draft tokens, too large for model with 32768 maximum context length", "type": "invalid_request_error", "code": "3051"}, 32768),
    ("deepseek", 400, {"message": "This model's maximum context length is 65536 tokens. However, you requested 70123 tokens (66027 in the messages, 4096 in the completion). Please reduce the length of the messages or completion.", "type": "invalid_request_error", "code": "invalid_request_error"}, 65536),
    ("dashscope", 400, {"code": "InvalidParameter", "message": "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 98304]"}, 98304),
    ("cohere", 400, {"message": "too many tokens: size limit exceeded by 1203 tokens. Try using shorter or fewer inputs, or setting prompt_truncation='AUTO'."}, None),
    ("zhipu", 400, {"code": "1261", "message": "Prompt exceeds max length"}, None),
    ("bedrock", 400, {"message": "Input is too long for requested model."}, None),
    ("xai", 400, {"message": "This model's maximum prompt length is 131072 but the request contains 140000 tokens."}, 131072),
    ("trt-llm", 400, {"message": "The sum of prompt length (9000.0), query length (0) and max_tokens (10) should not exceed max_num_tokens (8192)"}, 8192),
    ("minimax", 400, {"message": "invalid params, context window exceeds limit (2013)", "type": "bad_request_error"}, None),
    ("tgi", 422, {"message": "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000", "type": "validation"}, 4096),
    ("perilune", 400, {"message": "the prompt has 9000 tokens, and the context is 8192", "type": "invalid_request_error", "code": "context_length_exceeded"}, None),
    ("nginx", 413, "<html>\r\n<head><title>413 Request Entity Too Large</title></head>", None),
]  # fmt: skip

# (server, status, error, kind): some of the same words, and another cause.
FALSE_FRIENDS: list[tuple[str, int, Any, str]] = [
    ("openai-tpm", 429, {"message": "Rate limit reached for gpt-4o in organization org on tokens per min (TPM): Limit 30000, Used 29000, Requested 5000. Please try again in 8s.", "type": "tokens", "code": "rate_limit_exceeded"}, "rate_limit"),
    ("openai-tpm-large", 429, {"message": "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 40000. The input or output tokens must be reduced in order to run successfully.", "type": "tokens", "code": "rate_limit_exceeded"}, "rate_limit"),
    ("moonshot-tpm", 429, {"message": "Your account reached max request, request reached organization max TPM, please try again after 1 seconds", "type": "rate_limit_reached_error"}, "rate_limit"),
    ("anthropic-tpm", 429, {"type": "rate_limit_error", "message": "This request would exceed the rate limit for your organization of 40,000 input tokens per minute."}, "rate_limit"),
    ("openai-string", 400, {"message": "Invalid 'messages[1].content': string too long. Expected a string with maximum length 10485760, but got a string with length 11000000 instead.", "code": "string_above_max_length", "param": "messages[1].content"}, "request"),
    ("openai-tool-name", 400, {"message": "Invalid 'tools[0].function.name': string too long. Expected a string with maximum length 64, but got a string with length 80 instead.", "code": "string_above_max_length"}, "request"),
    ("openai-array", 400, {"message": "Invalid 'tools': array too long. Expected an array with maximum length 128, but got an array with length 200 instead.", "code": "array_above_max_length"}, "request"),
    ("openai-stop", 400, {"message": "Invalid 'stop': array too long. Expected an array with maximum length 4, but got an array with length 5 instead."}, "request"),
    ("description", 400, {"message": "tools.0.description: String should have at most 1024 characters"}, "request"),
    ("schema", 400, {"message": "Invalid schema for function 'f': 'x' is not of type 'object'", "code": "invalid_function_parameters"}, "request"),
    ("id-order", 400, {"message": "tool_call_id is not found", "type": "invalid_request_error"}, "request"),
    ("openai-output", 400, {"message": "max_tokens is too large: 100000. This model supports at most 16384 completion tokens, whereas you provided 100000.", "param": "max_tokens", "code": "invalid_value"}, "max_tokens"),
    ("vllm-output", 400, {"message": "'max_tokens' or 'max_completion_tokens' is too large: 8000. This model's maximum context length is 8192 tokens and your request has 300 input tokens (8000 > 8192 - 300). (parameter=max_tokens, value=8000)", "type": "BadRequestError"}, "max_tokens"),
    ("openai-both", 400, {"message": "This model's maximum context length is 4097 tokens. However, you requested 4927 tokens (27 in the messages, 4900 in the completion). Please reduce the length of the messages or completion.", "code": "context_length_exceeded"}, "max_tokens"),
    ("anthropic-output", 400, {"type": "invalid_request_error", "message": "max_tokens: 100000 > 8192, which is the maximum allowed number of output tokens for claude-3-5-sonnet"}, "max_tokens"),
    ("deepseek-output", 400, {"message": "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", "type": "invalid_request_error"}, "max_tokens"),
    ("groq-output", 400, {"message": "`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is less than the `context_window` for this model", "type": "invalid_request_error"}, "max_tokens"),
    ("dashscope-output", 400, {"code": "InvalidParameter", "message": "Range of max_tokens should be [1, 8192]"}, "max_tokens"),
    ("auth", 401, {"message": "Invalid Authentication: token limit exceeded"}, "auth"),
    ("quota", 429, {"message": "You exceeded your current quota, please check your plan", "type": "insufficient_quota", "code": "insufficient_quota"}, "quota"),
    ("moonshot-quota", 429, {"message": "Your account is suspended", "type": "exceeded_current_quota_error"}, "quota"),
    ("credit", 402, {"message": "Insufficient credits: you requested up to 65536 tokens, but can only afford 1000", "code": 402}, "quota"),
    ("image", 400, {"message": "messages.0.content.1.image: image exceeds 5 MB maximum: 7000000 bytes > 5242880 bytes"}, "request"),
]  # fmt: skip


def refused(status: int, error: Any) -> ModelError:
    body = json.dumps({"error": error}) if isinstance(error, dict) else error
    return status_error(status, {}, body.encode())


@pytest.mark.parametrize(("_", "status", "error", "window"), TOO_LONG, ids=[r[0] for r in TOO_LONG])
def test_a_prompt_that_is_too_long(_: str, status: int, error: Any, window: int | None) -> None:
    found = refused(status, error)
    assert (found.kind, found.retryable) == ("context", False)
    assert found.window == window
    if isinstance(error, dict):
        bare = status_error(status, {}, json.dumps(error).encode())
        assert bare.kind == "context", "without the envelope"
    inside = stream_error(error, {"error": error})
    if status != 413:
        assert inside.kind == "context", "inside a stream that began with 200"


@pytest.mark.parametrize(
    ("_", "status", "error", "kind"), FALSE_FRIENDS, ids=[r[0] for r in FALSE_FRIENDS]
)
def test_false_friends(_: str, status: int, error: Any, kind: str) -> None:
    assert refused(status, error).kind == kind


@pytest.mark.parametrize(
    ("name", "room"),
    [("openai-output", 16384), ("vllm-output", 7892), ("openai-both", 4070),
     ("anthropic-output", 8192), ("deepseek-output", 8192), ("groq-output", 8192),
     ("dashscope-output", 8192)],
)  # fmt: skip
def test_the_room_for_output_is_read(name: str, room: int) -> None:
    status, error = next((s, e) for n, s, e, _ in FALSE_FRIENDS if n == name)
    assert refused(status, error).room == room


def test_one_field_that_is_too_long_is_explained() -> None:
    for name, status, error, kind in FALSE_FRIENDS:
        if kind == "request" and name.startswith(("openai", "description", "image")):
            assert refused(status, error).explained, name


@pytest.mark.parametrize(
    ("error", "chunk", "kind", "retryable"),
    [
        ("overloaded", {}, "overloaded", True),
        ({"message": "boom", "code": 500}, {}, "overloaded", True),
        ({"message": "busy", "code": 429}, {}, "rate_limit", True),
        ({"message": "bad key", "code": 401}, {}, "auth", False),
        ({"message": "bad", "code": "400"}, {}, "request", False),
        ({"message": "Engine is overloaded", "type": "engine_overloaded_error"}, {}, "overloaded", True),
        (["odd"], {}, "overloaded", True),
        (True, {}, "overloaded", True),
        ({"code": None, "message": None}, {"code": 503}, "overloaded", True),
    ],
)  # fmt: skip
def test_errors_inside_a_stream(error: Any, chunk: Any, kind: str, retryable: bool) -> None:
    found = stream_error(error, chunk)
    assert (found.kind, found.retryable) == (kind, retryable)


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff\xfe", b"null", b"[]", b"[1]", b"{}", b'{"error": null}', b'{"error": []}',
     b'{"error": {"message": {}}}', b'{"error": {"message": "\\ud83d"}}', b"[" * 50_000,
     b'{"detail": [{"loc": ["body"], "msg": "no"}]}', b"<html>" + b"<a" * 50_000,
     b'{"error": {"code": 1e999, "type": NaN}}', b"<script>" * 20_000],
)  # fmt: skip
@pytest.mark.parametrize("status", [400, 404, 413, 422, 429, 500, 503, 599])
def test_any_body_of_a_refusal_is_read(status: int, body: bytes) -> None:
    found = status_error(status, {"retry-after": "\ud83d"}, body)
    found.message.encode()
    assert len(found.message) < 700


def test_words_of_refusals_cut_and_mixed_never_fail() -> None:
    """Seeded mutation: any cut or mixture of real refusals is read in bounded time."""
    rng = random.Random(16)
    words = [json.dumps({"error": e}).encode() for _, _, e, _ in (*TOO_LONG, *FALSE_FRIENDS)]
    for _ in range(3000):
        one, two = rng.choice(words), rng.choice(words)
        body = bytearray(one[: rng.randrange(len(one))] + two[rng.randrange(len(two)) :])
        for _ in range(rng.randrange(4)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        found = status_error(rng.choice((400, 413, 422, 429, 500)), {}, bytes(body))
        found.message.encode()
        assert found.window is None or 0 < found.window < 10**9
