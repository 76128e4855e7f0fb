"""Errors, keys, and what the server does under malformed requests."""

from __future__ import annotations

from perilune.exam.contract.check import Level, Skip, check, expect
from perilune.exam.contract.refusals import refused
from perilune.exam.contract.target import ABSENT, Target

CHAT = "/v1/chat/completions"
SAFE_CONTEXT = 300_000  # tokens; a longer prompt is not sent only to be refused


@check(
    "errors.not-json",
    "A body that is not JSON is refused with 400.",
    why="A 500 makes clients try again.",
)
def not_json(target: Target) -> None:
    for body in (b"{", b'{"model": ', b"\xff\xfe", b'{"messages": [}]'):
        refused(target.post(CHAT, body))


@check(
    "errors.not-an-object",
    "A JSON body that is not an object is refused with 400.",
    why="A 500 makes clients try again.",
)
def not_object(target: Target) -> None:
    for body in (b"[]", b"7", b'"x"', b"null", b"true"):
        refused(target.post(CHAT, body))


@check(
    "errors.odd-numbers",
    "NaN and infinities in the body are refused with 400.",
    why="They pass comparisons and reach the sampler.",
)
def odd_numbers(target: Target) -> None:
    for number in ("NaN", "Infinity", "-Infinity", "1e999"):
        body = target.chat_body(temperature=ABSENT)
        text = f'{{"temperature": {number}, "model": "{body["model"]}", "max_tokens": 4, '
        text += '"messages": [{"role": "user", "content": "x"}]}'
        refused(target.post(CHAT, text.encode()))


@check(
    "errors.deep-json",
    "JSON nested 100,000 deep is refused; the server lives.",
    why="Recursion ends the process.",
)
def deep_json(target: Target) -> None:
    depth = 100_000
    exchange = target.post(CHAT, b'{"messages": ' + b"[" * depth + b"]" * depth + b"}")
    refused(exchange, (400, 413))
    expect(target.alive(), "the server no longer answers")


@check(
    "errors.unknown-model",
    "A model that is not served gives 404 in the error's shape.",
    why="Clients fall back to another model by it.",
)
def unknown_model(target: Target) -> None:
    refused(target.chat(model="no/such-model"), (404,))


@check(
    "errors.streamed-as-json",
    "An error before the stream is JSON with its status, never an event.",
    why="Clients wait for a stream that has failed.",
    priority="P0",
)
def streamed_as_json(target: Target) -> None:
    refused(target.chat(stream=True, model="no/such-model"), (404,))
    refused(target.chat(stream=True, messages=[]))


@check(
    "errors.param",
    "error.param names the field at fault.",
    why="A 400 without it is a riddle.",
    level=Level.RECOMMENDED,
)
def param(target: Target) -> None:
    for fields, name in (
        ({"temperature": -1}, "temperature"),
        ({"top_p": 7}, "top_p"),
        ({"messages": []}, "messages"),
        ({"tool_choice": "maybe"}, "tool_choice"),
    ):
        error = refused(target.chat(**fields))
        found = str(error.get("param"))
        expect(found.startswith(name), f"param is {found!r}, {name!r} is at fault")


@check(
    "errors.fields",
    "An error has message, type, param and code (null where there is none).",
    why="Typed clients read all four.",
    level=Level.RECOMMENDED,
)
def fields(target: Target) -> None:
    error = refused(target.chat(temperature=-1))
    for name in ("message", "type", "param", "code"):
        expect(name in error, f"error lacks {name}")


@check(
    "errors.route",
    "An unknown route gives 404, a wrong method 405.",
    why="Clients cannot tell what the server lacks.",
)
def route(target: Target) -> None:
    exchange = target.post("/v1/no/such/route", {})
    expect(exchange.status == 404, f"unknown route: {exchange.status}")
    exchange = target.request("DELETE", CHAT)
    expect(exchange.status == 405, f"wrong method: {exchange.status}")


@check(
    "errors.embeddings",
    "Routes that a text server lacks answer 404 or 501, and say so.",
    why="A 500 makes clients try again.",
    level=Level.RECOMMENDED,
)
def embeddings(target: Target) -> None:
    exchange = target.post("/v1/embeddings", {"model": target.model, "input": "x"})
    if exchange.status == 200:
        raise Skip("this server has embeddings")
    expect(exchange.status in (400, 404, 501), f"status {exchange.status}")


@check(
    "errors.context",
    "A prompt longer than the context gives 400 with code context_length_exceeded.",
    why="Agents compact their history by it.",
)
def context(target: Target) -> None:
    length = target.max_model_len
    if length is None or length > SAFE_CONTEXT:
        raise Skip("the model list tells no length, or one too long to try")
    error = refused(target.chat("moon " * (length + 8), max_tokens=1))
    found = error.get("code")
    expect(found == "context_length_exceeded", f"code is {found!r}")


@check(
    "errors.request-id",
    "Every answer has a header x-request-id, errors too.",
    why="The SDKs log it; without it a failure cannot be found in the server's log.",
    level=Level.RECOMMENDED,
)
def request_id(target: Target) -> None:
    for exchange in (target.chat(max_tokens=1), target.chat(temperature=-1)):
        expect(exchange.headers.get("x-request-id"), "no x-request-id", exchange)


@check(
    "errors.alive",
    "After all of this the server answers a plain request.",
    why="One bad request takes everybody's service away.",
)
def alive(target: Target) -> None:
    for body in (b"{", b"[" * 5000, b'{"messages": [{"role": "user", "content": "\\ud800"}]}'):
        target.post(CHAT, body)
    target.chat(tools=[{"type": "function", "function": {"name": "a", "parameters": 7}}])
    expect(target.alive(), "the server no longer answers")


# --- keys -------------------------------------------------------------------------------------


def _needs_key(target: Target) -> None:
    if target.api_key is None:
        raise Skip("no key was given")


@check(
    "keys.missing",
    "Without a key every route but /health gives 401.",
    why="Anybody uses the machine.",
)
def missing(target: Target) -> None:
    _needs_key(target)
    refused(target.post(CHAT, target.chat_body(), keyed=False), (401,))
    for path in ("/v1/models", "/metrics", "/tokenize", "/openapi.json", "/docs", "/version"):
        exchange = target.get(path, keyed=False)
        expect(exchange.status in (401, 403, 404), f"{path}: {exchange.status}", exchange)


@check(
    "keys.wrong",
    "A wrong key gives 401 in the error's shape, in either header.",
    why="Anybody uses the machine.",
)
def wrong(target: Target) -> None:
    _needs_key(target)
    body = target.chat_body()
    for headers in (
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic d3Jvbmc="},
        {"authorization": "Bearer"},
        {"authorization": f"bearer{target.api_key}"},
        {"x-api-key": "wrong"},
        {"x-api-key": ""},
    ):
        refused(target.post(CHAT, body, headers=headers, keyed=False), (401,))


@check(
    "keys.either-header",
    "The key works as Authorization: Bearer and as x-api-key, on every route.",
    why="OpenAI's clients send one, Anthropic's the other.",
    level=Level.RECOMMENDED,
)
def either(target: Target) -> None:
    _needs_key(target)
    assert target.api_key is not None
    for headers in (
        {"authorization": f"Bearer {target.api_key}"},
        {"x-api-key": target.api_key},
    ):
        exchange = target.post(CHAT, target.chat_body(max_tokens=1), headers=headers, keyed=False)
        expect(exchange.status == 200, f"{next(iter(headers))}: {exchange.status}")


@check(
    "keys.not-echoed",
    "A wrong key is not repeated in the error.",
    why="It may be a typing error away from a right one, and errors are logged.",
)
def not_echoed(target: Target) -> None:
    _needs_key(target)
    wrong_key = "sk-wrong-4711-0815"
    exchange = target.post(
        CHAT, target.chat_body(), headers={"authorization": f"Bearer {wrong_key}"}, keyed=False
    )
    expect(wrong_key not in exchange.body.decode("utf-8", "replace"), "the error repeats the key")
