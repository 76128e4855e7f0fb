"""A stranger's files: one typed error each, before memory is taken, and nothing of Pillow's."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from perilune.chat.media import MediaLimits
from perilune.chat.media.reader import MediaReader
from perilune.errors import MediaError, MediaFault, UsageError
from tests.chat.media import hostile
from tests.chat.media.needs import HAS_PYAV, needs_pyav
from tests.chat.media.samples import PICTURES, clip, picture, saved

PICTURE_FILES = hostile.pictures()
CLIP_FILES = hostile.clips()
MOST_GROWTH = 200 << 20


@pytest.mark.parametrize("name", PICTURE_FILES)
def test_a_hostile_picture_is_one_typed_error(name: str) -> None:
    data, fault = PICTURE_FILES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(MediaError) as raised:
            list(MediaReader().open(data, "image").load())
    assert raised.value.kind == fault
    assert raised.value.__cause__ is None and raised.value.message


@needs_pyav
@pytest.mark.parametrize("name", CLIP_FILES)
def test_a_hostile_clip_is_one_typed_error(name: str) -> None:
    data, fault = CLIP_FILES[name]
    with pytest.raises(MediaError) as raised:
        list(MediaReader().open(data, "video").load())
    assert raised.value.kind == fault


@needs_pyav
def test_hostile_clips_that_are_made_here() -> None:
    for name, (data, fault) in hostile.made_clips().items():
        with pytest.raises(MediaError) as raised:
            list(MediaReader().open(data, "video").load())
        assert raised.value.kind == fault, name


@needs_pyav
def test_limits_of_clips_say_their_number() -> None:
    data = clip("two-seconds")
    for limits, fault in (
        (MediaLimits(frame_pixels=3071), MediaFault.PIXELS),
        (MediaLimits(side=63), MediaFault.SIDE),
        (MediaLimits(video_frames=59), MediaFault.FRAMES),
        (MediaLimits(video_seconds=1.9), MediaFault.SECONDS),
        (MediaLimits(video_bytes=1000), MediaFault.BYTES),
    ):
        with pytest.raises(MediaError) as raised:
            MediaReader(limits=limits).open(data, "video")
        assert raised.value.kind == fault and raised.value.limit is not None
        assert raised.value.remedy
    exact = MediaLimits(
        frame_pixels=3072, side=64, video_frames=60, video_seconds=2, video_bytes=len(data)
    )
    assert MediaReader(limits=exact).open(data, "video").tokens == 6


def test_limits_of_pictures_hold_exactly() -> None:
    data = saved(picture(60, 40), "PNG")
    exact = MediaLimits(image_bytes=len(data), pixels=2400, side=60)
    assert MediaReader(limits=exact).open(data, "image").size == (60, 40)
    for limits, fault in (
        (MediaLimits(image_bytes=len(data) - 1), MediaFault.BYTES),
        (MediaLimits(pixels=2399), MediaFault.PIXELS),
        (MediaLimits(side=59), MediaFault.SIDE),
    ):
        with pytest.raises(MediaError) as raised:
            MediaReader(limits=limits).open(data, "image")
        assert raised.value.kind == fault and raised.value.limit is not None


def test_limits_that_make_no_sense_are_refused() -> None:
    for bad in ({"pixels": 0}, {"images": -1}, {"video_seconds": float("nan")}):
        with pytest.raises(UsageError):
            MediaLimits(**bad)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="never decoded"):
        MediaLimits(pixels=100_000_000)


def test_whole_pictures_with_what_cameras_add_are_read() -> None:
    jpeg = PICTURES["jpeg"]()
    second = saved(picture(16, 16), "JPEG")
    for data in (
        jpeg + second,  # a gain map or a preview
        jpeg + b"\0" * 4000,
        jpeg + b"\0\0\0\x18ftypmp42" + b"\0" * 64,  # a moving photograph
        hostile.with_segment(jpeg, 0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta></x:xmpmeta>"),
        hostile.with_segment(jpeg, 0xE2, b"MPF\0" + b"\xff" * 40),
        hostile.with_segment(jpeg, 0xE2, b"ICC_PROFILE\0\1\1" + b"\xff" * 400),
        hostile.with_segment(jpeg, 0xE1, b"Exif\0\0" + b"\xff" * 40),
        hostile.many_scans(2),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            (loaded,) = MediaReader().open(data, "image").load()
        assert loaded.patches.shape[0] == loaded.item.grid.patches


def test_memory_grows_little_over_all_hostile_files(tmp_path: Path) -> None:
    files = {name: ("image", *entry) for name, entry in PICTURE_FILES.items()}
    if HAS_PYAV:
        made = CLIP_FILES | hostile.made_clips()
        files |= {name: ("video", *entry) for name, entry in made.items()}
    assert len(files) >= 45
    for name, (_, data, _) in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "good.jpg").write_bytes(saved(picture(300, 200), "JPEG"))
    jobs = {name: kind for name, (kind, _, _) in files.items()}
    worker = Path(__file__).with_name("hostile_worker.py")
    done = subprocess.run(
        [sys.executable, str(worker), str(tmp_path)],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kinds"] == {name: fault for name, (_, _, fault) in files.items()}
    assert found["growth"] < MOST_GROWTH
    assert not done.stderr, "a warning or a log line of a decoder"
