"""Several names for one model, names of all kinds, and the choice to take any."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perilune.cli.serve import more_names
from perilune.errors import UsageError
from perilune.serve.model_names import ModelNames
from perilune.serve.settings import Settings

from .contract import URL, ask
from .scripted import Turn

STREAM = pytest.mark.parametrize("stream", [False, True])
NAMES = (
    "kimi-k2",
    "moonshotai/Kimi-K2-Instruct",
    "claude-sonnet-4-20250514",
    "qwen2.5:7b",
    "a name with blanks",
    "月之暗面/模型",
    "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
    "..",
    "a?b#c%d&e=f+g",
    "x" * 512,
)


@STREAM
async def test_every_name_is_answered_and_the_first_is_said(scripted: Any, stream: bool) -> None:
    async with scripted(Turn("Hi"), settings=Settings(served_model_name=NAMES)) as client:
        for name in (*NAMES, "", None, "cafe\N{COMBINING ACUTE ACCENT}"):
            said = await ask(client, {"model": name}, stream=stream)
            assert said.status == 200, name
            frames = [said.body] if not stream else said.frames
            assert {f["model"] for f in frames if isinstance(f, dict)} == {"kimi-k2"}
        said = await ask(client, {"model": "gpt-4o"}, stream=stream)
        assert said.status == 404 and said.error["code"] == "model_not_found"
        assert "'kimi-k2'" in said.error["message"]
        too_long = await ask(client, {"model": "x" * 513}, stream=stream)
        assert too_long.status == 400 and too_long.error["param"] == "model"


async def test_all_names_are_listed(scripted: Any) -> None:
    async with scripted(Turn("Hi"), settings=Settings(served_model_name=NAMES)) as client:
        rows = (await client.get("/v1/models")).json()["data"]
        assert [row["id"] for row in rows] == list(NAMES)
        assert {row["root"] for row in rows} == {"kimi-k2"}
        anthropic = {"anthropic-version": "2023-06-01"}
        listed = (await client.get("/v1/models", headers=anthropic)).json()
        assert [row["id"] for row in listed["data"]] == list(NAMES)
        assert (listed["first_id"], listed["last_id"]) == (NAMES[0], NAMES[-1])
        for name in NAMES:
            if name == "..":  # a client resolves it before it sends
                continue
            for headers in ({}, anthropic):
                reply = await client.get(f"/v1/models/{quote(name, safe='')}", headers=headers)
                assert reply.status_code == 200 and reply.json()["id"] == name
        assert (await client.get("/v1/models/gpt-4o")).status_code == 404


@STREAM
async def test_any_name_is_taken_where_that_is_chosen(scripted: Any, stream: bool) -> None:
    chosen = Settings(served_model_name=("kimi-k2",), any_model_name=True)
    async with scripted(Turn("Hi"), settings=chosen) as client:
        for name in ("gpt-4o", "claude-opus-4-1", "any/thing: at all \N{SNOWMAN}"):
            said = await ask(client, {"model": name}, stream=stream)
            assert said.status == 200
        body = {
            "model": "claude-3",
            "max_tokens": 8,
            "messages": [{"role": "user", "content": "x"}],
        }
        reply = await client.post("/v1/messages", json={**body, "stream": stream})
        assert reply.status_code == 200 and '"kimi-k2"' in reply.text
        assert (await client.get("/v1/models/gpt-4o")).json()["id"] == "kimi-k2"
        text = (await client.get("/metrics")).text
    assert set(_labels(text)) == {"kimi-k2"}  # names of requests are not labels


def _labels(text: str) -> list[str]:
    import re

    return re.findall(r'model_name="([^"]*)"', text)


async def test_every_route_takes_an_alias(scripted: Any) -> None:
    chosen = Settings(served_model_name=("kimi-k2", "claude-x"))
    async with scripted(Turn("Hi"), settings=chosen) as client:
        hi = [{"role": "user", "content": "Hi"}]
        for path, body in (
            (URL, {"messages": hi}),
            (f"{URL}/input_tokens", {"messages": hi}),
            ("/v1/completions", {"prompt": "x", "max_tokens": 2}),
            ("/v1/messages", {"messages": hi, "max_tokens": 4}),
            ("/v1/messages/count_tokens", {"messages": hi}),
            ("/v1/responses", {"input": "Hi"}),
            ("/v1/responses/input_tokens", {"input": "Hi"}),
            ("/tokenize", {"prompt": "x"}),
            ("/detokenize", {"tokens": [1]}),
            ("/v1/tokenizers/estimate-token-count", {"messages": hi}),
        ):
            for name, status in (("claude-x", 200), ("kimi-k2", 200), ("other", 404)):
                reply = await client.post(path, json={**body, "model": name})
                assert reply.status_code == status, (path, name, reply.text)


@pytest.mark.parametrize("name", ["", "  ", "x" * 513, "a\nb", "\x1b[31m", "\ud800"])
def test_names_that_no_request_could_have_are_refused_at_the_start(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        ModelNames(["good", name])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=6), st.text(max_size=30))
def test_a_name_is_served_exactly_when_it_is_given(names: list[str], other: str) -> None:
    try:
        known = ModelNames(names)
    except UsageError:
        assert any(not n.strip() or not n.isprintable() for n in names)
        return
    assert known.first == names[0] and list(known.all) == list(dict.fromkeys(names))
    assert all(known.served(name) for name in names)
    import unicodedata

    forms = {unicodedata.normalize("NFC", n) for n in names}
    assert known.served(other) is (not other or unicodedata.normalize("NFC", other) in forms)
    assert ModelNames(names, any_name=True).served(other)


@pytest.mark.parametrize(
    ("given_args", "spread"),
    [
        ("DIR -N A", "DIR -N A"),
        ("DIR -N A B C", "DIR -N A -N B -N C"),
        ("DIR -N A B --port 1", "DIR -N A -N B --port 1"),
        ("DIR --exact -N A B", "DIR --exact -N A -N B"),
        ("--port 1 DIR -N A B", "--port 1 DIR -N A -N B"),
        ("--exact DIR -N A B", "--exact DIR -N A -N B"),
        ("-N A DIR", "-N A DIR"),
        ("-N A -N B DIR", "-N A -N B DIR"),
        ("DIR -N=A B", "DIR -N=A -N B"),
        ("DIR --port 1 -N A B", "DIR --port 1 -N A -N B"),
        ("--demo", "--demo"),
    ],
)
def test_vllms_form_of_the_flag(given_args: str, spread: str) -> None:
    flag = "--served-model-name"

    def words(text: str) -> list[str]:
        return [word.replace("-N", flag) for word in text.split()]

    assert more_names(words(given_args)) == words(spread)


def test_one_name_as_text_is_one_name() -> None:
    assert Settings(served_model_name="kimi").served_model_name == ("kimi",)  # type: ignore[arg-type]
