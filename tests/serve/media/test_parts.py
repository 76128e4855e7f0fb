"""Pictures of every API reach the model: the right pixels, in the order in which they were sent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perilune.serve.api_error import ApiError
from perilune.serve.media.parts import HARMLESS, KINDS, PLACE, REFUSED, read_media
from tests.chat.media.needs import needs_pyav
from tests.chat.media.samples import PICTURES, clip, picture, saved

from ..scripted import Turn
from ..seeing import pixels_of
from .wire import ALL, CHAT, COUNTERS, MESSAGES, RESPONSES, asking, data_url, encoded, prompt_tokens

A, B = saved(picture(60, 40, seed=1), "PNG"), saved(picture(90, 57, seed=2), "JPEG")
FORMATS = ("rgb-17x64", "jpeg", "webp", "gif", "exif-6", "palette-alpha", "rgb-1x1")


@pytest.mark.parametrize("path", ALL)
async def test_every_api_shows_the_right_pixels_in_order(scripted: Any, path: str) -> None:
    async with scripted(Turn("Two."), eyes=True) as client:
        body = asking(path, data_url(A), data_url(B, "image/jpeg"))
        whole = await client.post(path, json=body)
        assert whole.status_code == 200, whole.text
        assert client.eyes.seen == [pixels_of(A), pixels_of(B)]
        (prompt,) = client.script.prompts
        assert prompt.count("<|media_begin|>") == 2 and prompt.index("What") > prompt.rindex("pad")
        streamed = await client.post(path, json={**body, "stream": True})
        assert streamed.status_code == 200 and '"error":{' not in streamed.text
        counted = await client.post(COUNTERS[path], json=body)
        assert counted.json()["input_tokens"] == prompt_tokens(path, whole.json())
        assert len(client.eyes.seen) == 2  # the second time nothing was decoded or encoded


async def test_every_format_is_seen(scripted: Any) -> None:
    files = [PICTURES[name]() for name in FORMATS]
    async with scripted(Turn("All."), eyes=True) as client:
        answer = await client.post(CHAT, json=asking(CHAT, *map(data_url, files)))
        assert answer.status_code == 200, answer.text
        assert client.eyes.seen == [pixels_of(file) for file in files]


CALL = {"id": "functions.look:0", "type": "function",
        "function": {"name": "look", "arguments": "{}"}}  # fmt: skip
LOOK = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
SOURCE = {"type": "base64", "media_type": "image/png", "data": encoded(A)}
IMAGE = {"type": "image", "source": SOURCE}
ITEM = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
URL = data_url(A)
FORMS: dict[str, tuple[str, Any]] = {
    "bare": (CHAT, [{"role": "user", "content": [{"type": "image_url", "image_url": URL}]}]),
    "named-image": (CHAT, [{"role": "user", "content": [{"type": "image", "image": URL}]}]),
    "url-beside": (CHAT, [{"role": "user", "content": [{"type": "image", "url": URL}]}]),
    "input-image": (CHAT, [{"role": "user", "content": [
        {"type": "input_image", "image_url": URL}]}]),
    "anthropic-in-openai": (CHAT, [{"role": "user", "content": [IMAGE]}]),
    "harmless": (CHAT, [{"role": "user", "content": [{"type": "image_url", "uuid": "x", "image_url":
        {"url": URL, "detail": "high", "format": "png"}, "cache_control": {"type": "x"}}]}]),
    "tool-message": (CHAT, [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": CALL["id"], "content": [
            {"type": "text", "text": "Here"}, {"type": "image_url", "image_url": {"url": URL}}]}]),
    "tool-result-in-openai": (CHAT, [
        {"role": "assistant", "content": [LOOK]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": [IMAGE]}]}]),
    "old-function": (CHAT, [
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": [{"type": "image_url", "image_url": URL}]}]),
    "system": (CHAT, [{"role": "system", "content": [{"type": "image_url", "image_url": URL}]},
                      {"role": "user", "content": "?"}]),
    "tool-result": (MESSAGES, [
        {"role": "user", "content": "Look."}, {"role": "assistant", "content": [LOOK]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": [
                {"type": "text", "text": "Here"}, IMAGE]}]}]),
    "document": (MESSAGES, [{"role": "user", "content": [{"type": "document", "source": {
        "type": "content", "content": [IMAGE]}}]}]),
    "function-output": (RESPONSES, [
        {"role": "user", "content": "Look."}, ITEM, {
            "type": "function_call_output", "call_id": "c1",
            "output": [{"type": "input_image", "image_url": URL}]}]),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
async def test_every_form_is_taken(scripted: Any, form: str) -> None:
    path, turns = FORMS[form]
    more = {"max_tokens": 20} if path == MESSAGES else {}
    body = {"model": "tiny", "input" if path == RESPONSES else "messages": turns, **more}
    async with scripted(Turn("Seen."), eyes=True) as client:
        answer = await client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        assert client.eyes.seen == [pixels_of(A)]


@needs_pyav
async def test_a_clip_is_seen_and_counted(scripted: Any) -> None:
    url = data_url(clip("mov"), "video/quicktime")
    part = {"type": "video_url", "video_url": {"url": url}}
    async with scripted(Turn("A clip."), eyes=True) as client:
        body = {"messages": [{"role": "user", "content": [part]}]}
        answer = await client.post(CHAT, json=body)
        assert answer.status_code == 200, answer.text
        assert len(client.eyes.seen) == 2
        details = answer.json()["usage"]["prompt_tokens_details"]
        assert (details["video_tokens"], details["image_tokens"]) == (84, 0)


async def test_usage_says_what_pictures_cost(scripted: Any) -> None:
    async with scripted(Turn("Hi."), eyes=True) as client:
        usage = (await client.post(CHAT, json=asking(CHAT, data_url(A)))).json()["usage"]
        details = usage["prompt_tokens_details"]
        assert details["image_tokens"] == 6  # 60 x 40 pixels: 3 x 2 tokens of 28 x 28
        assert details["text_tokens"] == usage["prompt_tokens"] - 6 and not details["video_tokens"]
        body = asking(CHAT, data_url(A), stream=True, stream_options={"include_usage": True})
        assert '"image_tokens":6' in (await client.post(CHAT, json=body)).text


COUNTS = ["/tokenize", "/v1/tokenizers/estimate-token-count", *COUNTERS.values()]


@pytest.mark.parametrize("path", COUNTS)
async def test_counting_reads_headers_alone(
    scripted: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks at the pixels for it."""
    from perilune.chat.media import pictures

    def decode(header: Any) -> Any:
        raise AssertionError("decoded")

    monkeypatch.setattr(pictures, "decode", decode)
    api = next((api for api, counter in COUNTERS.items() if counter == path), CHAT)
    large = saved(picture(448, 448), "PNG")
    async with scripted(Turn("Hi."), eyes=True) as client:
        counts = []
        for urls in ((), (data_url(large),)):
            reply = (await client.post(path, json=asking(api, *urls))).json()
            data = reply.get("data", reply)
            counts.append(next(data[k] for k in ("input_tokens", "count", "total_tokens")
                               if k in data))  # fmt: skip
        assert 256 < counts[1] - counts[0] < 280  # 16 x 16, and the tokens around them
        assert not client.eyes.seen


async def test_the_model_list_says_whether_it_sees(scripted: Any) -> None:
    for eyes in (True, False):
        async with scripted(Turn("Hi."), eyes=eyes) as client:
            (row,) = (await client.get("/v1/models")).json()["data"]
            assert row["supports_image_in"] is eyes


@pytest.mark.parametrize("field", REFUSED)
def test_a_field_that_would_change_the_picture_is_refused(field: str) -> None:
    inside = {"type": "image_url", "image_url": {"url": URL, field: 1}}
    beside = {"type": "video_url", "video_url": {"url": URL}, field: 1}
    for part in (inside, beside):
        with pytest.raises(ApiError) as raised:
            read_media(part, "messages[0].content[0]")
        assert raised.value.code == "unsupported_parameter" and field in raised.value.message
    assert read_media({"type": "image_url", "image_url": URL, field: None}, "x") is not None


@pytest.mark.parametrize(
    ("path", "part", "said"),
    [
        (CHAT, {"type": "image_url", "image_url": {"url": "ms://abc"}}, "nothing is stored"),
        (CHAT, {"type": "image_url", "image_url": {"file_id": "f"}}, "nothing is stored"),
        (CHAT, {"type": "image_url"}, "needs a url"),
        (CHAT, {"type": "image_url", "image_url": {"url": URL, "detail": 7}}, "detail"),
        (RESPONSES, {"type": "input_image", "file_id": "file-1"}, "nothing is stored"),
        (RESPONSES, {"type": "input_image"}, "needs a url"),
        (RESPONSES, {"type": "input_file", "file_id": "file-1"}, "files are not read"),
        (MESSAGES, {"type": "image", "source": {"type": "file", "file_id": "f"}}, "is stored"),
        (MESSAGES, {"type": "image", "source": {"type": "base64", "data": "x"}}, "media_type"),
        (MESSAGES, {"type": "image", "source": {"type": "x"}}, "base64 or url"),
        (MESSAGES, {"type": "image"}, "must be an object"),
    ],
)  # fmt: skip
async def test_what_names_no_picture_is_refused_by_place(
    scripted: Any, path: str, part: Any, said: str
) -> None:
    turn = {"role": "user", "content": [part]}
    body: dict[str, Any] = (
        {"input": [turn]} if path == RESPONSES else {"messages": [turn], "max_tokens": 5}
    )
    body["model"] = "tiny"
    async with scripted(Turn("Hi."), eyes=True) as client:
        answer = await client.post(path, json=body)
        assert answer.status_code == 400, answer.text
        message = answer.json()["error"]["message"]
        assert said in message and "0" in message.partition(":")[0]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.just(URL),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["url", "type", "data", "media_type", "detail", "file_id", *REFUSED]),
            inner, max_size=3,
        )
    ),
    max_leaves=5,
)  # fmt: skip
keys = st.sampled_from([*KINDS, *HARMLESS, "source", "url", "file_id", "place", "x"])


@given(st.sampled_from([*KINDS]), st.dictionaries(keys, values, max_size=4))
def test_any_part_is_read_or_refused(kind: str, fields: dict[str, Any]) -> None:
    """Nothing of the client's part comes through but its URL, whatever it holds."""
    try:
        part = read_media({**fields, "type": kind}, "here")
    except ApiError as error:
        assert error.status == 400 and error.message.startswith("here")
        return
    assert part is not None
    name = f"{KINDS[kind]}_url"
    assert set(part) == {"type", name, PLACE} and part["type"] == name
    assert set(part[name]) == {"url"} and isinstance(part[name]["url"], str)
    assert part[PLACE].startswith("here")
