"""Conversations with pictures and clips: where their pads stand, and that text never makes one."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.chat import ChatFormat, Prompt, Tokenizer
from perilune.chat.media import MediaLimits, MediaProcessing
from perilune.chat.media.reader import MediaReader
from perilune.chat.media.template import video_newline
from perilune.config import Family
from perilune.errors import ChatError, MediaError, MediaFault
from tests.chat.media.needs import needs_pyav
from tests.chat.media.samples import clip, picture, saved

Formats = dict[Family, ChatFormat]
SPOOFS = ["<|media_pad|>", "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>\n"]
SPOOFS += ["<|kimi_k25_video_placeholder|>", "<|media_end|>", "image", ""]


def image(width: int = 30, height: int = 20, seed: int = 0) -> dict[str, Any]:
    data = base64.b64encode(saved(picture(width, height, seed=seed), "PNG")).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def video(name: str = "mov") -> dict[str, Any]:
    data = base64.b64encode(clip(name)).decode()
    return {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{data}"}}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def render(chat: ChatFormat, *content: Any, reader: MediaReader | None = None) -> Prompt:
    return chat.render(
        [{"role": "user", "content": list(content)}],
        media=(reader or MediaReader()).request(),
        add_generation_prompt=False,
    )


def check_spans(chat: ChatFormat, prompt: Prompt) -> None:
    """Every pad is in exactly one span, in order, and as many as its item has tokens."""
    pads = [i for i, token in enumerate(prompt.ids) if token == chat.special_ids.media_pad]
    covered = [i for span in prompt.spans for i in range(span.start, span.start + span.length)]
    assert pads == covered
    assert all(span.length == span.item.tokens > 0 for span in prompt.spans)
    assert prompt.media_tokens == len(pads) and not prompt.media


def test_golden_picture(formats: Formats) -> None:
    chat = formats[Family.K25]
    prompt = render(chat, text("the "), image(60, 40), text("in"))
    pads = "<|media_pad|>" * 6
    assert chat.decode(prompt.ids) == (
        f"<|im_user|>user<|im_middle|>the <|media_begin|>image<|media_content|>{pads}<|media_end|>"
        "\nin<|im_end|>"
    )
    check_spans(chat, prompt)
    # The newline and the text after it are encoded in one piece, as the template's text is.
    end = chat.special_ids.media_end
    assert end is not None
    after = prompt.ids[prompt.ids.index(end) + 1 : -1]
    assert after == chat.tokenizer.encode("\nin")


@needs_pyav
def test_golden_clip(formats: Formats) -> None:
    chat = formats[Family.K25]
    prompt = render(chat, text("at "), video(), text("?"))
    pads = "<|media_pad|>" * 42
    body = f"<|media_begin|>video<|media_content|>{pads}<|media_end|>"
    assert chat.decode(prompt.ids) == (
        f"<|im_user|>user<|im_middle|>at 00:00:00.000{body}00:00:02.100{body}?<|im_end|>"
    )
    check_spans(chat, prompt)
    first, second = prompt.spans
    assert first.media is second.media and (first.index, second.index) == (0, 1)
    assert first.item.digest != second.item.digest
    assert second.item.frames == (21, 27, 32)


def test_golden_ids_of_the_published_vocabulary(kimi: Tokenizer) -> None:
    chat = ChatFormat(kimi, Family.K25)
    assert chat.special_ids.media_pad == 163605
    prompt = render(chat, image(29, 28))
    assert prompt.ids == [
        163587, 2482, 163601, 163602, 4017, 163603, 163605, 163605, 163604, 198, 163586
    ]  # fmt: skip
    (span,) = prompt.spans
    assert (span.start, span.length) == (6, 2)


@needs_pyav
def test_golden_ids_of_a_clip(kimi: Tokenizer) -> None:
    chat = ChatFormat(kimi, Family.K25)
    prompt = render(chat, text("Ulm 12"), video("one-frame"))
    before = kimi.encode("Ulm 1200:00:00.000")  # one text: the digits meet
    assert prompt.ids[3 : 3 + len(before)] == before
    assert prompt.ids[3 + len(before) :][:3] == [163602, 22782, 163603]
    check_spans(chat, prompt)


def test_every_turn_may_show_a_picture(formats: Formats) -> None:
    chat = formats[Family.K25]
    call = {"id": "functions.look:0", "type": "function", "function": {"name": "look"}}
    messages = [
        {"role": "system", "content": [text("s"), image(seed=1)]},
        {"role": "user", "content": [image(seed=2)]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "functions.look:0", "content": [text("r"), image(seed=3)]},
    ]
    prompt = chat.render(messages, media=MediaReader().request())
    check_spans(chat, prompt)
    alone = [MediaReader().request().open(image(seed=n), "image", "") for n in (1, 2, 3)]
    assert [s.item.digest for s in prompt.spans] == [m.items[0].digest for m in alone]
    assert "## Return of functions.look:0\nr<|media_begin|>image" in chat.decode(prompt.ids)


@given(st.lists(st.sampled_from([*SPOOFS, None]), max_size=6), st.text(max_size=20))
@settings(max_examples=60)
def test_text_never_makes_a_pad(small_k25: ChatFormat, parts: list[str | None], words: str) -> None:
    content = [image() if part is None else text(part + words) for part in parts]
    prompt = render(small_k25, *content)
    check_spans(small_k25, prompt)
    assert len(prompt.spans) == parts.count(None)


@pytest.fixture(scope="module")
def small_k25(small: Tokenizer) -> ChatFormat:
    return ChatFormat(small, Family.K25)


def test_without_an_opener_there_are_placeholders_and_equal_text(formats: Formats) -> None:
    chat = formats[Family.K25]
    messages = [{"role": "user", "content": [image(28, 28), text("x")]}]
    closed = chat.render(messages)
    opened = chat.render(messages, media=MediaReader().request())
    assert closed.ids == opened.ids  # a picture of one token
    assert len(closed.media) == 1 and not closed.spans and len(opened.spans) == 1


def test_equal_bytes_and_rule_have_equal_digests_and_nothing_else_has() -> None:
    data = saved(picture(40, 30), "PNG")

    def digest(data: bytes, processing: MediaProcessing | None = None) -> str:
        return MediaReader(processing).open(data, "image").items[0].digest

    known = digest(data)
    assert len(known) == 64 and digest(bytes(bytearray(data))) == known
    others = [digest(saved(picture(40, 30, seed=1), "PNG"))]
    for changed in (
        {"max_patches": 100}, {"patch_size": 28}, {"mean": (0.4, 0.5, 0.5)}, {"sample_fps": 1.0}
    ):  # fmt: skip
        others.append(digest(data, MediaProcessing(**changed)))  # type: ignore[arg-type]
    assert len({known, *others}) == 1 + len(others)


@pytest.mark.parametrize("family", [Family.K2, Family.K2_THINKING])
def test_a_model_without_eyes(formats: Formats, family: Family) -> None:
    messages = [{"role": "user", "content": [text("a"), image()]}]
    for media in (None, MediaReader().request()):
        with pytest.raises(MediaError, match=r"messages\[0\]\.content\[1\].*text only") as raised:
            formats[family].render(messages, media=media)
        assert raised.value.kind == MediaFault.NO_VISION


def test_a_k25_loaded_without_its_tower_has_no_vision(small: Tokenizer) -> None:
    chat = ChatFormat(small, Family.K25)
    chat.reads_media = False
    with pytest.raises(MediaError) as raised:
        render(chat, image())
    assert raised.value.kind == MediaFault.NO_VISION


def test_ten_thousand_parts_are_refused_before_one_is_opened(formats: Formats) -> None:
    part = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    for kind, most in (("image", 100), ("video", 10)):
        parts = [{"type": f"{kind}_url", f"{kind}_url": part["image_url"]}] * 10_000
        with pytest.raises(MediaError) as raised:
            render(formats[Family.K25], *parts)
        assert (raised.value.kind, raised.value.limit) == (MediaFault.COUNT, most)


def test_the_count_is_of_the_whole_conversation_and_exact(formats: Formats) -> None:
    reader = MediaReader(limits=MediaLimits(images=2))
    two = [{"role": "user", "content": [image(), image()]}]
    assert len(formats[Family.K25].render(two, media=reader.request()).spans) == 2
    three = [*two, {"role": "assistant", "content": "a"}, {"role": "user", "content": [image()]}]
    with pytest.raises(MediaError) as raised:
        formats[Family.K25].render(three, media=reader.request())
    assert raised.value.kind == MediaFault.COUNT


def test_a_bad_picture_names_its_place_and_is_a_chat_error(formats: Formats) -> None:
    bad = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": [text("b"), bad]}]
    with pytest.raises(ChatError, match=r"^messages\[1\]\.content\[1\]: ") as raised:
        formats[Family.K25].render(messages, media=MediaReader().request())
    assert isinstance(raised.value, MediaError)
    assert (raised.value.kind, raised.value.place) == (MediaFault.FORMAT, "messages[1].content[1]")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% if v -%}\n  <|kimi_k25_video_placeholder|>\n        {% else -%}", True),
        ("{% if v -%}\n  <|kimi_k25_video_placeholder|>\n        {%- else -%}", False),
        ("{% if v -%}<|kimi_k25_video_placeholder|>{% else -%}", False),
        ("{{ '<|kimi_k25_video_placeholder|>' }}\n{% else %}", False),
        ("{% no such thing %}", None),
    ],
)
def test_the_newline_after_a_video_is_the_templates(
    tmp_path: Path, template: str, expected: bool | None
) -> None:
    (tmp_path / "chat_template.jinja").write_text(template)
    assert video_newline(tmp_path) is expected
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    assert video_newline(tmp_path) is expected
