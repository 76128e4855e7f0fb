"""Bodies made to hurt: absurd numbers, endless lists, hostile schemas, templates, deep JSON.

Each is answered with a 4xx in the shape of its API, and afterwards the server serves as before.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from perilune.engine.options import EngineOptions
from perilune.serve.routes import all_routes
from perilune.serve.settings import Settings

from ..scripted import Scripted, Turn

CHAT, PLAIN, MESSAGES, RESPONSES = (
    "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
)  # fmt: skip
USER = [{"role": "user", "content": "x"}]
_BASE: dict[str, dict[str, Any]] = {
    CHAT: {"model": "tiny", "messages": USER, "max_tokens": 8},
    PLAIN: {"model": "tiny", "prompt": "x", "max_tokens": 8},
    MESSAGES: {"model": "tiny", "messages": USER, "max_tokens": 8},
    RESPONSES: {"model": "tiny", "input": "x", "max_output_tokens": 16, "store": False},
}
BASE = {path: _BASE[path] for path in _BASE if path in {route.path for route in all_routes()}}
ABSURD = [-1, -(2**31), 2**31, 2**63, 2**64, 10**40, -(10**40), 1e308, -1e308, 0.5, "1", True, [],
          {}]  # fmt: skip
COUNTS = {
    CHAT: ["n", "max_tokens", "max_completion_tokens", "top_logprobs", "min_tokens",
           "thinking_token_budget", "seed", "priority", "top_k"],
    PLAIN: ["n", "max_tokens", "logprobs", "seed", "best_of"],
    MESSAGES: ["max_tokens", "top_k"],
    RESPONSES: ["max_output_tokens", "top_logprobs", "max_tool_calls"],
}  # fmt: skip


async def refused(client: httpx.AsyncClient, path: str, body: Any) -> httpx.Response:
    answer = await client.post(path, json=body)
    assert 400 <= answer.status_code < 500, (body, answer.status_code, answer.text[:200])
    error = answer.json()["error"]
    assert error["message"] and error["type"]
    assert (answer.json().get("type") == "error") == (path == MESSAGES)
    return answer


async def alive(client: httpx.AsyncClient) -> None:
    answer = await client.post(CHAT, json=BASE[CHAT])
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", BASE)
async def test_the_plain_requests_are_good(scripted: Any, path: str) -> None:
    """Else what is refused below would be refused for another reason."""
    async with scripted(Turn("Hi")) as client:
        answer = await client.post(path, json=BASE[path])
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", BASE)
async def test_absurd_numbers_never_reach_the_engine(scripted: Any, path: str) -> None:
    """CVE-2026-21869: a negative count was an index into memory."""
    async with scripted(Turn("Hi")) as client:
        for field in COUNTS[path]:
            for value in ABSURD:
                answer = await client.post(path, json=BASE[path] | {field: value})
                assert answer.status_code in (200, 400), (field, value, answer.text[:200])
                if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**64:
                    assert answer.status_code == 400, (field, value)
        await alive(client)


@pytest.mark.parametrize("path", BASE)
async def test_numbers_that_json_does_not_have(scripted: Any, path: str) -> None:
    async with scripted(Turn("Hi")) as client:
        for number in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999"):
            text = json.dumps(BASE[path])[:-1] + f', "temperature": {number}}}'
            headers = {"content-type": "application/json"}
            answer = await client.post(path, content=text.encode(), headers=headers)
            assert answer.status_code == 400, (number, answer.text[:200])
        await alive(client)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"n": 9}),
        (CHAT, {"n": 128}),
        (CHAT, {"stop": ["x"] * 17}),
        (CHAT, {"stop": "x" * 1025}),
        (CHAT, {"logit_bias": {str(i): 1 for i in range(1025)}}),
        (CHAT, {"logit_bias": {"0": float(10**30)}}),
        (CHAT, {"logit_bias": {"-1": 1}}),
        (CHAT, {"logit_bias": {"999999999": 1}}),
        (CHAT, {"stop_token_ids": [2**40]}),
        (CHAT, {"stop_token_ids": [-1]}),
        (CHAT, {"metadata": {f"k{i}": "v" for i in range(17)}}),
        (CHAT, {"user": "x" * 513}),
        (CHAT, {"logprobs": True, "top_logprobs": 21}),
        (CHAT, {"tools": [{"type": "function", "function": {"name": f"f{i}"}}
                          for i in range(1025)]}),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "x" * 4096}}]}),
        (CHAT, {"model": "x" * 513}),
        (PLAIN, {"prompt": ["x"] * 4096}),
        (PLAIN, {"prompt": [10**9]}),
        (PLAIN, {"logprobs": 10**6}),
        (PLAIN, {"best_of": 10**6}),
    ],
)  # fmt: skip
async def test_what_multiplies_work_has_a_bound(
    scripted: Any, path: str, fields: dict[str, Any]
) -> None:
    """CVE-2026-34756: `n` without a bound ended the process."""
    async with scripted(Turn("Hi")) as client:
        await refused(client, path, BASE[path] | fields)
        await alive(client)


DEEP: Any = {"type": "string"}
for _ in range(200):
    DEEP = {"type": "object", "properties": {"a": DEEP}}
WIDE = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(3001)}}
HOSTILE_SCHEMAS: dict[str, Any] = {
    "a type that is none (CVE-2025-48942)": {"type": "something"},
    "a type that is a number": {"type": 7},
    "a pattern that does not compile (CVE-2025-48943)": {
        "type": "object", "properties": {"a": {"type": "string", "pattern": "(" * 50}}
    },
    "properties that are a list": {"type": "object", "properties": ["a"]},
    "required that is a text": {"type": "object", "required": "a"},
    "an enum that is a text": {"type": "object", "properties": {"a": {"enum": "abc"}}},
    "a reference to nothing": {"$ref": "#/$defs/nothing"},
    "a reference to an address": {"$ref": "http://169.254.169.254/latest/meta-data"},
    "a reference to a file": {"$ref": "file:///etc/passwd"},
    "200 deep": DEEP,
    "3,001 properties": WIDE,
    "a text of 200,000 characters": {"type": "object", "description": "x" * 200_000},
    "an endless repeat": {
        "type": "object", "properties": {"a": {"type": "string", "maxLength": 2**31}}
    },
    "a negative length": {"type": "object", "properties": {"a": {"minLength": -1}}},
    "a false list": {"type": "object", "anyOf": []},
}  # fmt: skip
# These may be taken or refused, but in little time.
EXPENSIVE_SCHEMAS: dict[str, Any] = {
    "nested repeats": {"type": "string", "pattern": "((((a{1,50}){1,50}){1,50}){1,50}){1,50}"},
    "a classic of backtracking": {"type": "string", "pattern": "^(a+)+$"},
    "another": {"type": "string", "pattern": "^(a|aa|aaa)*b{0,9999}$"},
    "alternatives of repeats": {"type": "string", "pattern": "(x{0,999}|y{0,999}){0,999}"},
    "unicode classes": {"type": "string", "pattern": "(\\w{1,200}\\W{1,200}){1,200}"},
    "a long text": {"type": "string", "minLength": 99_999, "maxLength": 100_000},
    "a long list": {"type": "array", "minItems": 99_999, "items": {"type": "integer"}},
    "branches of branches": {
        "anyOf": [{"anyOf": [{"type": "string", "pattern": f"a{{{i},{j}}}"} for j in range(i, 20)]}
                  for i in range(1, 20)]
    },
    "a reference to itself": {"$ref": "#"},
    "itself in everything": {"type": "object", "properties": {f"p{i}": {"$ref": "#"}
                             for i in range(200)}},
    "itself as an alternative": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
    "fine numbers": {"type": "number", "minimum": 1e-300, "maximum": 1.0000000001e300},
    "multiples": {"type": "integer", "multipleOf": 1000003, "minimum": 10**15},
    "a large enum": {"enum": [f"{'v' * 70}{i}" for i in range(900)]},
}  # fmt: skip
SECONDS = 15.0  # for the answer to a hostile schema, on a loaded machine; each takes well below one


def with_tool(schema: Any) -> dict[str, Any]:
    function = {"name": "f", "parameters": schema}
    return BASE[CHAT] | {"tools": [{"type": "function", "function": function}],
                         "tool_choice": "required"}  # fmt: skip


def with_format(schema: Any) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    return BASE[CHAT] | {"response_format": form}


@pytest.mark.parametrize("name", HOSTILE_SCHEMAS)
async def test_hostile_schemas_are_refused(scripted: Any, name: str) -> None:
    """CVE-2025-48944: one bad schema ended the worker of everybody."""
    async with scripted(Turn("Hi")) as client:
        for body in (with_tool(HOSTILE_SCHEMAS[name]), with_format(HOSTILE_SCHEMAS[name])):
            answer = await refused(client, CHAT, body)
            assert answer.status_code == 400
            streamed = await refused(client, CHAT, body | {"stream": True})
            assert streamed.headers["content-type"].startswith("application/json")
        await alive(client)


@pytest.mark.parametrize("name", EXPENSIVE_SCHEMAS)
async def test_expensive_schemas_stop_nobody(random_like: Any, name: str) -> None:
    schema = EXPENSIVE_SCHEMAS[name]
    wrapped = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    client = random_like
    for body in (with_tool(wrapped), with_format(schema)):
        started = time.monotonic()
        other = asyncio.create_task(client.post(CHAT, json=BASE[CHAT]))
        answer = await client.post(CHAT, json=body)
        assert answer.status_code in (200, 400), answer.text[:200]
        assert (await other).status_code == 200
        assert time.monotonic() - started < SECONDS
    await alive(client)


@pytest.fixture
async def random_like(tiny_folder: Any) -> Any:
    """A server over the tiny random model: the grammar really decides what it says."""
    from perilune.engine.async_engine import AsyncEngine

    from ..servers import asgi_client, make_service

    async with AsyncEngine(tiny_folder, cache_tokens=16_384, max_sequences=4, seed=1) as engine:
        async with asgi_client(make_service(engine, max_context=4096)) as client:
            yield client


@pytest.mark.parametrize(
    "fields",
    [
        {"chat_template": "{{ ''.__class__.__mro__ }}"},
        {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}},
        {"chat_template_kwargs": {"tokenize": False}},
        {"chat_template_kwargs": {"tools": []}},
        {"chat_template_kwargs": {"__class__": 1}},
        {"chat_template_kwargs": {"thinking": "{{ 7 * 7 }}"}},
        {"chat_template_kwargs": ["thinking"]},
        {"prompt_embeds": "gASV"},
        {"prompt_embeds": [[0.1, 0.2]]},
    ],
)
async def test_templates_and_tensors_are_not_taken(scripted: Any, fields: Any) -> None:
    """CVE-2024-34359, CVE-2026-5760, CVE-2025-61620, CVE-2025-62426, CVE-2025-62164."""
    async with scripted(Turn("Hi")) as client:
        await refused(client, CHAT, BASE[CHAT] | fields)
        await alive(client)


@pytest.mark.parametrize(
    "text",
    ["{{ 7 * 7 }}", "{% for i in range(10**9) %}x{% endfor %}", "${7*7}", "#{7*7}", "<%= 7*7 %>",
     "{{ cycler.__init__.__globals__.os.popen('id').read() }}", "{0.__class__}", "%(x)s", "$(id)"],
)  # fmt: skip
async def test_text_is_never_a_template(scripted: Any, text: str) -> None:
    script = Scripted([Turn("Hi")])
    async with scripted(script) as client:
        tools = [{"type": "function", "function": {"name": "f", "description": text}}]
        body = {"messages": [{"role": "system", "content": text},
                             {"role": "user", "content": text}], "tools": tools}  # fmt: skip
        answer = await client.post(CHAT, json=body)
        assert answer.status_code == 200
        (prompt,) = script.prompts
        assert prompt.count(text) >= 2 and "49" not in prompt and "uid=" not in prompt


async def test_a_long_prompt_does_not_hold_up_the_others(scripted: Any) -> None:
    """CVE-2025-62426: rendering and encoding ran on the event loop."""
    async with scripted(
        Turn("Hi"), settings=Settings(engine=EngineOptions(max_context=200_000))
    ) as client:
        long = {"messages": [{"role": "user", "content": "moon and tide " * 60_000}]}
        work = asyncio.create_task(client.post(CHAT, json=long))
        looked, longest = 0, 0.0
        while not work.done():
            started = time.perf_counter()
            assert (await client.get("/health")).status_code == 200
            longest = max(longest, time.perf_counter() - started)
            looked += 1
            await asyncio.sleep(0)
        assert (await work).status_code == 400  # longer than the context
        assert looked > 3, "the loop was held all the time"


@pytest.mark.parametrize("path", BASE)
@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"7", b'"x"', b"\xff\xfe\x00", b"{}", b'{"messages": null}',
        b"[" * 100_000, b'{"a":' * 100_000, b"[" * 50_000 + b"]" * 50_000,
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b"\x1f\x8b\x08\x00",
        b"\x00" * 64,
    ],
    ids=lambda content: repr(content[:24]),
)  # fmt: skip
async def test_bodies_that_are_no_request(scripted: Any, path: str, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    async with scripted(Turn("Hi")) as client:
        answer = await client.post(path, content=content, headers=headers)
        fine = b"ud800" in content and path == CHAT  # a lone surrogate may be replaced
        assert answer.status_code == 400 or (fine and answer.status_code == 200)
        await alive(client)


async def test_other_kinds_of_body_are_not_read(scripted: Any) -> None:
    async with scripted(Turn("Hi")) as client:
        text = json.dumps(BASE[CHAT]).encode()
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data",
                     "application/x-pickle", "application/octet-stream", ""):  # fmt: skip
            answer = await client.post(CHAT, content=text, headers={"content-type": kind})
            assert answer.status_code == 415, kind
        for coding in ("gzip", "deflate", "br", "zstd", "gzip, identity"):
            headers = {"content-type": "application/json", "content-encoding": coding}
            answer = await client.post(CHAT, content=text, headers=headers)
            assert answer.status_code == 415, coding


async def test_a_body_above_the_limit_is_413(scripted: Any) -> None:
    async with scripted(Turn("Hi"), settings=Settings(max_body_bytes=2048)) as client:
        for path, shape in ((CHAT, "openai"), (MESSAGES, "anthropic")):
            answer = await client.post(path, json=BASE[path] | {"user": "x" * 4096})
            assert answer.status_code == 413
            if shape == "anthropic":
                assert answer.json()["error"]["type"] == "request_too_large"

        async def endless() -> Any:  # without a content-length
            for _ in range(1000):
                yield b"x" * 1024

        headers = {"content-type": "application/json"}
        answer = await client.post(CHAT, content=endless(), headers=headers)
        assert answer.status_code == 413
        await alive(client)
