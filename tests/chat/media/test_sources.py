"""Where a part's bytes come from: data URIs, bytes, and what a caller resolves."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from perilune.chat.media import MediaKind, MediaLimits
from perilune.chat.media.sources import LocalFiles, read_part
from perilune.errors import MediaError, MediaFault

DATA = bytes(range(256)) * 3
TEXT = base64.b64encode(DATA).decode()
LIMITS = MediaLimits()


def fault(
    part: dict[str, Any], kind: MediaKind = "image", limits: MediaLimits = LIMITS
) -> MediaFault:
    with pytest.raises(MediaError) as raised:
        read_part(part, kind, limits, None)
    assert raised.value.remedy
    return raised.value.kind


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{TEXT}"}},
        {"type": "image_url", "image_url": f"data:image/png;base64,{TEXT}"},
        {"type": "image_url", "image_url": {"url": f"DATA:IMAGE/PNG;BASE64,{TEXT}"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;name=a.png;base64,{TEXT}"}},
        {"type": "image_url", "image_url": {"url": f"data:;base64,{TEXT}"}},
        {"type": "image_url", "image_url": {"url": f"data:application/octet-stream;base64,{TEXT}"}},
        {"type": "image_url", "image_url": f"data:image/png;base64,\n{TEXT[:76]}\r\n{TEXT[76:]}"},
        {"type": "image", "image": f"data:image/png;base64,{TEXT}"},
        {"type": "image", "url": f"data:image/png;base64,{TEXT}"},
        {"type": "image", "image": DATA},
        {"type": "image", "image": bytearray(DATA)},
        {"type": "image", "image": memoryview(DATA)},
    ],
)  # fmt: skip
def test_what_a_part_may_hold(part: dict[str, Any]) -> None:
    assert read_part(part, "image", LIMITS, None) == DATA


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.org/a.png?token=secret", MediaFault.SOURCE),
        ("file:///etc/passwd", MediaFault.SOURCE),
        ("/etc/passwd", MediaFault.SOURCE),
        ("ms://file-1", MediaFault.SOURCE),
        ("http://[::1", MediaFault.SOURCE),
        ("", MediaFault.SOURCE),
        ("data:image/png,rawbytes", MediaFault.ENCODING),
        ("data:image/png;base64", MediaFault.ENCODING),
        ("data:image/png;base64,###", MediaFault.ENCODING),
        ("data:image/png;base64,AAA", MediaFault.ENCODING),
        ("data:image/png;base64,ÄÖÜA", MediaFault.ENCODING),
        ("data:" + "a" * 10_000 + ";base64,AAAA", MediaFault.ENCODING),
        (f"data:text/html;base64,{TEXT}", MediaFault.WRONG_TYPE),
        (f"data:application/pdf;base64,{TEXT}", MediaFault.WRONG_TYPE),
        (f"data:video/mp4;base64,{TEXT}", MediaFault.WRONG_TYPE),
    ],
)
def test_what_is_refused(url: str, expected: MediaFault) -> None:
    assert fault({"type": "image_url", "image_url": {"url": url}}) == expected


@pytest.mark.parametrize("value", [None, 3, [], {}, {"url": None}, {"url": 3}, [TEXT]])
def test_a_part_that_names_nothing(value: object) -> None:
    assert fault({"type": "image_url", "image_url": value}) == MediaFault.SOURCE
    assert fault({"type": "video_url", "video_url": value}, "video") == MediaFault.SOURCE


def test_an_address_is_not_repeated_with_its_secrets() -> None:
    part = {"image_url": {"url": "https://user:pw@example.org/a.png?token=secret"}}
    with pytest.raises(MediaError) as raised:
        read_part(part, "image", LIMITS, None)
    assert "secret" not in str(raised.value) and "pw" not in str(raised.value)


def test_too_many_bytes_are_refused_before_they_are_decoded() -> None:
    limits = MediaLimits(image_bytes=300)
    for part in (
        {"image": b"\0" * 301},
        {"image_url": "data:image/png;base64," + "A" * 404},
        {"image_url": "data:image/png;base64," + "#" * 10_000},
    ):
        assert fault(part, limits=limits) == MediaFault.BYTES
    exact = {"image_url": "data:image/png;base64," + base64.b64encode(b"\0" * 300).decode()}
    assert len(read_part(exact, "image", limits, None)) == 300


def test_a_caller_resolves_what_is_not_data() -> None:
    asked = []

    def resolve(address: str, kind: MediaKind, most: int) -> bytes:
        asked.append((address, kind, most))
        return DATA

    part = {"video_url": {"url": "ms://1"}}
    assert read_part(part, "video", MediaLimits(video_bytes=1000), resolve) == DATA
    assert asked == [("ms://1", "video", 1000)]
    with pytest.raises(MediaError) as raised:  # it is checked all the same
        read_part(part, "video", MediaLimits(video_bytes=10), resolve)
    assert raised.value.kind == MediaFault.BYTES


def test_local_files(tmp_path: Path) -> None:
    root = tmp_path / "run"
    (root / "in").mkdir(parents=True)
    (root / "in" / "a b.png").write_bytes(DATA)
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to(tmp_path)
    (root / "inside").symlink_to(root / "in" / "a b.png")
    os.mkfifo(root / "pipe")
    files = LocalFiles(root)
    good = ["in/a b.png", f"{root}/in/a b.png", f"file://{root}/in/a%20b.png", "inside"]
    for name in good:
        assert files(name, "image", 1000) == DATA
    bad = [
        "../secret",
        "in/..",
        "in/../../secret",
        "out",
        "up/secret",
        str(tmp_path / "secret"),
        "pipe",
    ]
    bad += ["in", "", "none", "a\0b", f"file://host{root}/in/a%20b.png", "http://x/in/a b.png"]
    bad += [f"file://{root}/..%2fsecret", "a" * 5000, "file://[", "/dev/zero", "/dev/stdin"]
    for name in bad:
        with pytest.raises(MediaError) as raised:
            files(name, "image", 1000)
        assert raised.value.kind == MediaFault.SOURCE, name
        assert str(tmp_path) not in str(raised.value)
    with pytest.raises(MediaError) as raised:
        files("in/a b.png", "image", len(DATA) - 1)
    assert raised.value.kind == MediaFault.BYTES
