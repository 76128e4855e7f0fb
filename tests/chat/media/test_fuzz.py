"""Random damage to valid files, and random bytes: a result or one MediaError, nothing else."""

from __future__ import annotations

import io
import random
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from perilune.chat.media import MediaKind, MediaLimits, exif
from perilune.chat.media.containers import is_cut, mov_quarter_turns, sniff_clip
from perilune.chat.media.headers import describe, read_header
from perilune.chat.media.reader import MediaReader
from perilune.errors import MediaError
from tests.chat.media.needs import needs_pyav
from tests.chat.media.samples import PICTURES, clip

LIMITS = MediaLimits(pixels=200_000, frame_pixels=100_000, video_frames=500)
NAMES = """rgb-29x28 rgba palette-alpha grey-index grey-16 apng jpeg-grey jpeg-cmyk jpeg-progressive
exif-5 exif-8 webp webp-alpha webp-animated gif gif-animated"""
SEEDS = [PICTURES[name]() for name in NAMES.split()]
MAGIC = [b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", b"\xff\xd8\xff", b"GIF89a", b"RIFF\x40\0\0\0WEBP"]
CLIP_MAGIC = [b"\0\0\0\x18ftypisom", b"\x1a\x45\xdf\xa3", b"RIFF\x40\0\0\0AVI ", b"FLV\x01"]
CLIP_MAGIC += [b"\0\0\x01\xba", b"\0\0\x01\xb3", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"G" * 600]


@pytest.fixture
def seed(pytestconfig: pytest.Config) -> int:
    """The run's own, which it says at its end; in CI always the same."""
    return int(pytestconfig.getoption("hypothesis_seed") or 18)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, a piece cut out or doubled, or the end lost; headers most often."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        where = rng.randrange(min(len(out), rng.choice([32, 200, len(out)])))
        match rng.randrange(5):
            case 0 | 1:
                out[where] = rng.choice([0, 1, 0x7F, 0xFF, rng.randrange(256)])
            case 2:
                out[where : where + 4] = rng.choice([b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff"])
            case 3:
                end = where + rng.randrange(1, 40)
                out[where:end] = out[where:end] * rng.choice([0, 2, 3])
            case 4:
                del out[where + rng.randrange(len(out)) :]
        if not out:
            return b""
    return bytes(out)


def read(data: bytes, kind: MediaKind) -> bool:
    """Whether it is taken. Everything but a result or a MediaError fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            media = MediaReader(limits=LIMITS).open(data, kind)
            for loaded in media.load():
                assert loaded.patches.shape == (loaded.item.grid.patches, 3, 14, 14)
        except MediaError as error:
            assert error.kind and error.message and error.__cause__ is None
            return False
    return True


def check_damaged(count: int, seed: int) -> None:
    rng = random.Random(seed)
    taken = sum(read(damaged(rng.choice(SEEDS), rng), "image") for _ in range(count))
    assert 0 < taken < count  # the damage is neither always fatal nor never


def test_damaged_pictures(seed: int) -> None:
    check_damaged(1500, seed)


@pytest.mark.slow
def test_many_damaged_pictures(seed: int) -> None:
    check_damaged(40_000, seed)


@given(st.sampled_from(MAGIC), st.binary(max_size=300))
def test_random_bytes_behind_a_magic_number(magic: bytes, rest: bytes) -> None:
    read(magic + rest, "image")


@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    read(data, "image")
    read(data, "video")
    assert isinstance(describe(data), str)


@given(st.sampled_from(CLIP_MAGIC), st.binary(max_size=300))
def test_random_bytes_as_containers(magic: bytes, rest: bytes) -> None:
    data = magic + rest
    name = sniff_clip(data)
    if name is not None:
        is_cut(data, name)
    mov_quarter_turns(data)


@needs_pyav
@given(st.sampled_from(CLIP_MAGIC), st.binary(max_size=300))
@settings(max_examples=60)
def test_random_bytes_as_clips(magic: bytes, rest: bytes) -> None:
    read(magic + rest, "video")


def check_damaged_clips(count: int, seed: int) -> None:
    rng = random.Random(seed)
    seeds = [clip(name) for name in ("slow", "webm-vp8", "avi", "mpeg", "flv", "one-frame")]
    for _ in range(count):
        read(damaged(rng.choice(seeds), rng), "video")


@needs_pyav
def test_damaged_clips(seed: int) -> None:
    check_damaged_clips(60, seed)


@needs_pyav
@pytest.mark.slow
def test_many_damaged_clips(seed: int) -> None:
    check_damaged_clips(3000, seed)


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"II*\0", b"MM\0*", b"Exif\0\0II*\0\x08\0\0\0"])
)
def test_exif_never_raises(data: bytes, magic: bytes) -> None:
    assert 1 <= exif.orientation(magic + data) <= 8


@given(
    st.integers(1, 8),
    st.sampled_from(["JPEG", "PNG", "WEBP"]),
    st.integers(1, 60),
    st.integers(1, 60),
)
@settings(max_examples=60)
def test_headers_agree_with_pillow(turned: int, kind: str, width: int, height: int) -> None:
    notes = Image.Exif()
    notes[0x0112] = turned
    out = io.BytesIO()
    Image.new("RGB", (width, height)).save(out, kind, exif=notes)
    found = read_header(out.getvalue())
    image = Image.open(out)
    assert (found.width, found.height) == image.size
    assert found.orientation == image.getexif()[0x0112] == turned
    assert found.format == kind.lower()
