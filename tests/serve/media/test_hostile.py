"""A stranger's pictures through every API: one typed refusal each, and nobody else is harmed."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import pytest

from perilune.errors import MediaFault
from perilune.serve.media_faults import CODES
from perilune.serve.settings import Settings
from tests.chat.media import hostile
from tests.chat.media.needs import needs_pyav
from tests.chat.media.samples import picture, saved

from ..scripted import Scripted, Turn
from .wire import ALL, CHAT, MESSAGES, PLACES, asking, data_url

GOOD = saved(picture(40, 30), "PNG")
FILES = hostile.pictures()
MOST_GROWTH = 200 << 20


def check_refusal(path: str, answer: Any, code: str) -> None:
    """400 in the shape of the API, with the word for programs and the place of the part."""
    assert answer.status_code == 400, (answer.status_code, answer.text[:300])
    assert answer.headers["content-type"].startswith("application/json")
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith(PLACES[path]), error["message"]
    if path == MESSAGES:
        assert answer.json()["type"] == "error"
        assert error["details"]["error_code"] == code
    else:
        assert (error["code"], error["param"]) == (code, PLACES[path])
    assert "Traceback" not in answer.text and "PIL" not in answer.text


@pytest.mark.parametrize("path", ALL)
async def test_every_hostile_picture_is_a_typed_refusal(scripted: Any, path: str) -> None:
    """50 files, streamed and not, while another stream goes on."""
    assert len(FILES) >= 30
    script = Scripted(lambda prompt: Turn("again and ", endless=True) if "endless" in prompt
                      else Turn("Fine."), step_seconds=0.001)  # fmt: skip
    async with scripted(script, eyes=True) as client:
        other = asyncio.create_task(
            client.post(CHAT, json=asking(CHAT, words="endless", max_tokens=400, stream=True))
        )
        for data, fault in FILES.values():
            for stream in (False, True):
                answer = await client.post(path, json=asking(path, data_url(data), stream=stream))
                check_refusal(path, answer, CODES[fault])
        good = await client.post(path, json=asking(path, data_url(GOOD)))
        assert good.status_code == 200 and "Fine." in good.text
        text = (await other).text
        assert text.rstrip().endswith("data: [DONE]") and "error" not in text
        assert client.service.open_answers == 0


@pytest.mark.parametrize("path", ALL)
async def test_the_damaged_one_of_several_is_named(scripted: Any, path: str) -> None:
    """Found by decoding alone: also the second time, and beside pictures that are known."""
    damaged = FILES["png-says-little-more"][0]
    async with scripted(Turn("Fine."), eyes=True) as client:
        for _ in range(2):
            body = asking(path, data_url(GOOD), data_url(GOOD), data_url(damaged), stream=True)
            answer = await client.post(path, json=body)
            assert answer.status_code == 400, answer.text
            place = (
                PLACES[path].replace("content[0]", "content[2]").replace("content.0", "content.2")
            )
            assert answer.json()["error"]["message"].startswith(f"{place}: ")
            good = await client.post(path, json=asking(path, data_url(GOOD)))
            assert good.status_code == 200


async def test_memory_grows_little_over_all_of_them(scripted: Any) -> None:
    async with scripted(Turn("Fine."), eyes=True) as client:
        await client.post(CHAT, json=asking(CHAT, data_url(GOOD)))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for data, _ in FILES.values():
            await client.post(CHAT, json=asking(CHAT, data_url(data)))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
        assert grown < MOST_GROWTH, f"{grown >> 20} MiB"


@needs_pyav
async def test_hostile_clips(scripted: Any) -> None:
    async with scripted(Turn("Fine."), eyes=True) as client:
        for name, (data, fault) in {**hostile.clips(), **hostile.made_clips()}.items():
            url = data_url(data, "video/mp4")
            part = {"type": "video_url", "video_url": {"url": url}}
            body = {"messages": [{"role": "user", "content": [part]}]}
            answer = await client.post(CHAT, json=body)
            assert answer.status_code == 400, (name, answer.text[:200])
            error = answer.json()["error"]
            assert error["code"] == CODES[fault].replace("image", "video"), (name, error)
            assert error["param"] == PLACES[CHAT]


@pytest.mark.parametrize("path", ALL)
async def test_ten_thousand_parts_are_refused_before_one_is_opened(
    scripted: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perilune.chat.media import sources

    def opened(*given: Any) -> Any:
        raise AssertionError("opened")

    monkeypatch.setattr(sources.base64, "b64decode", opened)
    async with scripted(Turn("Fine."), eyes=True) as client:
        answer = await client.post(
            path, json=asking(path, *["data:image/png;base64,AA=="] * 10_000)
        )
        assert answer.status_code == 400
        assert "10,000 pictures" in answer.json()["error"]["message"]


async def test_the_settings_bound_what_a_request_brings(scripted: Any) -> None:
    settings = Settings(max_image_bytes=4096, max_image_pixels=5000, max_images=2)
    small, wide = saved(picture(30, 20), "PNG"), saved(picture(100, 51, "1"), "PNG")
    cases = {
        "image_file_too_large": [saved(picture(60, 60), "PNG")],
        "image_too_large": [wide],
        "too_many_images": [small] * 3,
    }
    assert len(cases["image_file_too_large"][0]) > 4096 > len(wide)
    async with scripted(Turn("Fine."), eyes=True, settings=settings) as client:
        for code, files in cases.items():
            answer = await client.post(CHAT, json=asking(CHAT, *map(data_url, files)))
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
        taken = await client.post(CHAT, json=asking(CHAT, data_url(small), data_url(small)))
        assert taken.status_code == 200
    async with scripted(Turn("Fine."), eyes=True, settings=Settings(max_body_bytes=2048)) as client:
        for path in ALL:
            answer = await client.post(path, json=asking(path, data_url(wide * 9)))
            kind = "request_too_large" if path == MESSAGES else "invalid_request_error"
            assert (answer.status_code, answer.json()["error"]["type"]) == (413, kind)


@pytest.mark.parametrize("path", ALL)
async def test_a_model_without_eyes_says_so(scripted: Any, path: str) -> None:
    async with scripted(Turn("Fine.")) as client:
        for url in (data_url(GOOD), data_url(b"no picture"), data_url(GOOD, "image/jpeg")):
            answer = await client.post(path, json=asking(path, url))
            check_refusal(path, answer, "unsupported_media")
            assert "reads text only" in answer.json()["error"]["message"]
        assert (await client.post(path, json=asking(path))).status_code == 200


def test_every_fault_has_a_code() -> None:
    assert set(CODES) == set(MediaFault)
