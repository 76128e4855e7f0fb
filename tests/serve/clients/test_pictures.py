"""The SDKs of OpenAI and Anthropic, unmodified, send pictures: the model gets the right pixels."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.chat.media.samples import picture, saved

from ..seeing import Eyes, pixels_of
from .conftest import GREETING

ASKED: Any = {"type": "text", "text": "Hi"}


def shot(seed: int, form: str = "PNG") -> bytes:
    """A picture that no other test sends: one that is known is not looked at again."""
    return saved(picture(64 + seed, 48, seed=seed), form)


def url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@pytest.fixture
def chat(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(server: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server, api_key="none", max_retries=0) as client:
        yield client


def test_chat_completions(chat: openai.OpenAI, eyes: Eyes) -> None:
    first, second = shot(101), shot(102, "JPEG")
    content: Any = [
        {"type": "image_url", "image_url": {"url": url(first), "detail": "high"}},
        {"type": "image_url", "image_url": {"url": url(second, "jpeg")}},
        ASKED,
    ]
    messages: Any = [{"role": "user", "content": content}]
    reply = chat.chat.completions.create(model="tiny", messages=messages)
    assert reply.choices[0].message.content == GREETING
    assert eyes.seen[-2:] == [pixels_of(first), pixels_of(second)]
    usage = reply.usage
    assert usage is not None and usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.image_tokens == 24  # type: ignore[attr-defined]
    text = ""
    for chunk in chat.chat.completions.create(model="tiny", messages=messages, stream=True):
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
    assert text == GREETING


def test_responses(chat: openai.OpenAI, eyes: Eyes) -> None:
    data = shot(103, "WEBP")
    content: Any = [
        {"type": "input_text", "text": "Hi"},
        {"type": "input_image", "image_url": url(data, "webp"), "detail": "auto"},
    ]
    items: Any = [{"role": "user", "content": content}]
    reply = chat.responses.create(model="tiny", input=items)
    assert reply.output_text == GREETING and eyes.seen[-1] == pixels_of(data)
    count = chat.responses.input_tokens.count(model="tiny", input=items)
    assert reply.usage is not None and count.input_tokens == reply.usage.input_tokens


def test_a_refused_picture_is_the_sdks_bad_request(chat: openai.OpenAI, eyes: Eyes) -> None:
    part: Any = {"type": "image_url", "image_url": {"url": url(b"no picture")}}
    with pytest.raises(openai.BadRequestError) as bad:
        chat.chat.completions.create(model="tiny", messages=[{"role": "user", "content": [part]}])
    assert bad.value.code == "invalid_image_format"
    assert bad.value.param == "messages[0].content[0]"
    file: Any = {"type": "input_image", "file_id": "file-1", "detail": "auto"}
    with pytest.raises(openai.BadRequestError) as unknown:
        chat.responses.create(model="tiny", input=[{"role": "user", "content": [file]}])
    assert "nothing is stored" in unknown.value.message


def source(data: bytes) -> Any:
    encoded = base64.b64encode(data).decode()
    return {"type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": encoded}}  # fmt: skip


def test_messages(claude: anthropic.Anthropic, eyes: Eyes) -> None:
    data = shot(104)
    messages: Any = [{"role": "user", "content": [source(data), ASKED]}]
    reply = claude.messages.create(model="tiny", max_tokens=500, messages=messages)
    assert reply.content[0].text == GREETING  # type: ignore[union-attr]
    assert eyes.seen[-1] == pixels_of(data)
    count = claude.messages.count_tokens(model="tiny", messages=messages)
    usage = reply.usage
    assert count.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    with pytest.raises(anthropic.BadRequestError) as bad:
        broken: Any = [{"role": "user", "content": [source(b"no picture")]}]
        claude.messages.create(model="tiny", max_tokens=5, messages=broken)
    body: Any = bad.value.body
    assert body["error"]["type"] == "invalid_request_error"


def test_a_screenshot_in_a_tool_result(claude: anthropic.Anthropic, eyes: Eyes) -> None:
    data = shot(105)
    call: Any = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}
    result: Any = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [source(data)]}
    messages: Any = [
        {"role": "user", "content": "Look"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    tools: Any = [{"name": "get_weather", "input_schema": {"type": "object"}}]
    reply = claude.messages.create(model="tiny", max_tokens=500, messages=messages, tools=tools)
    assert reply.stop_reason == "end_turn" and eyes.seen[-1] == pixels_of(data)


def test_the_sdk_reads_a_file(chat: openai.OpenAI, eyes: Eyes, tmp_path: Path) -> None:
    """As its documentation has it: a file, base64, a data URL."""
    file = tmp_path / "moon.png"
    file.write_bytes(shot(106))
    content: Any = [{"type": "image_url", "image_url": {"url": url(file.read_bytes())}}, ASKED]
    chat.chat.completions.create(model="tiny", messages=[{"role": "user", "content": content}])
    assert eyes.seen[-1] == pixels_of(file.read_bytes())
