"""Sizes, grids, tokens, sampling and time stamps are the published ones."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from perilune.chat.media import MediaProcessing
from perilune.chat.media.sizes import fit_frame, fit_image
from perilune.chat.media.timestamps import sampled_frames, timestamp
from perilune.errors import ConfigError

PUBLISHED = MediaProcessing()
# width, height, resized, grid (rows, columns), tokens of a picture, of a chunk of a clip
GOLDEN = [
    (1, 1, (1, 1), (2, 2), 1, 1),
    (17, 64, (17, 64), (6, 2), 3, 3),
    (28, 28, (28, 28), (2, 2), 1, 1),
    (29, 28, (29, 28), (2, 4), 2, 2),
    (224, 224, (224, 224), (16, 16), 64, 64),
    (256, 256, (256, 256), (20, 20), 100, 100),
    (512, 512, (512, 512), (38, 38), 361, 361),
    (640, 480, (640, 480), (36, 46), 414, 414),
    (1024, 1024, (1024, 1024), (74, 74), 1369, 1089),
    (1280, 720, (1280, 720), (52, 92), 1196, 1075),
    (1920, 1080, (1920, 1080), (78, 138), 2691, 1032),
    (2048, 1365, (2048, 1365), (98, 148), 3626, 1080),
    (3840, 2160, (2392, 1345), (98, 172), 4214, 1032),
    (5000, 6000, (1637, 1964), (142, 118), 4189, 1080),
    (4000, 3000, (2073, 1554), (112, 150), 4200, 1036),
    (8000, 8000, (1793, 1793), (130, 130), 4225, 1024),
    (1792, 1792, (1792, 1792), (128, 128), 4096, 1024),
    (7169, 28, (7168, 27), (2, 512), 256, 256),
    (10_000, 10, (7168, 7), (2, 512), 256, 256),
    (489, 7081, (477, 6917), (496, 36), 4464, 1333),  # the largest of all pictures
]


@pytest.mark.parametrize(("width", "height", "resized", "grid", "image", "video"), GOLDEN)
def test_golden_sizes(
    width: int,
    height: int,
    resized: tuple[int, int],
    grid: tuple[int, int],
    image: int,
    video: int,
) -> None:
    fit = fit_image(width, height, PUBLISHED)
    assert (fit.width, fit.height) == resized
    assert fit.grid == (1, *grid)
    assert fit.grid.tokens == image
    if (width, height) != (489, 7081):
        assert fit_frame(width, height, 4, 8, PUBLISHED).grid.tokens == video


def test_no_size_exceeds_what_the_tower_was_measured_for() -> None:
    rng = random.Random(18)
    for _ in range(20_000):
        width, height = (int(2 ** rng.uniform(0, 15)) for _ in range(2))
        fit = fit_image(width, height, PUBLISHED)
        assert fit.grid.tokens <= 4464 and fit.grid.patches == 4 * fit.grid.tokens
        assert max(fit.grid) <= 512 and fit.width <= width and fit.height <= height
        assert 0 <= fit.grid.w * 14 - fit.width < 28 and 0 <= fit.grid.h * 14 - fit.height < 28
        assert fit_frame(width, height, 4, 8, PUBLISHED).grid.tokens <= 1338


def test_a_limit_on_the_whole_clip_is_shared_by_its_frames() -> None:
    shared = MediaProcessing(max_video_patches=4000)
    assert fit_frame(640, 480, 4, 40, shared) == fit_frame(
        640, 480, 4, 1, MediaProcessing(max_frame_patches=100)
    )
    assert fit_frame(640, 480, 4, 10**9, shared).grid.tokens >= 1


@pytest.mark.parametrize(
    ("count", "fps", "expected"),
    [
        (60, 30, [0, 20, 39, 59]),
        (30, 30, [0, 29]),
        (100, 25, [0, 14, 28, 42, 57, 71, 85, 99]),
        (1, 30, [0]),
        (5, 1, [0, 1, 2, 3, 4]),  # fewer a second than are asked for
    ],
)
def test_golden_sampling(count: int, fps: float, expected: list[int]) -> None:
    assert list(sampled_frames(count, fps, 2.0)) == expected


def test_golden_sampling_of_ntsc() -> None:
    found = sampled_frames(250, 29.97, 2.0)
    assert len(found) == 17 and list(found[:6]) == [0, 16, 31, 47, 62, 78] and found[-1] == 249


@pytest.mark.parametrize(
    ("frame", "fps", "expected"),
    [
        (0, 30, "00:00:00.000"),
        (435, 100, "00:00:04.349"),  # cut off, in double precision
        (61, 30, "00:00:02.033"),
        (3661, 1, "01:01:01.000"),
        (86_400, 1, "00:00:00.000"),
    ],
)
def test_golden_timestamps(frame: int, fps: float, expected: str) -> None:
    assert timestamp(frame, fps) == expected


NESTED = {"in_patch_limit": 900, "patch_limit_on_one_side": 99, "in_patch_limit_each_frame": 77}
NESTED |= {"merge_kernel_size": [2, 2], "sample_fps": 4, "image_mean": [0.1, 0.2, 0.3]}


@pytest.mark.parametrize("layout", [{"media_proc_cfg": NESTED}, NESTED])
def test_the_published_layouts_are_read(tmp_path: Path, layout: dict[str, object]) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(layout))
    assert MediaProcessing.from_pretrained(tmp_path) == MediaProcessing(
        max_patches=900,
        max_side_patches=99,
        max_frame_patches=77,
        sample_fps=4.0,
        mean=(0.1, 0.2, 0.3),
    )


def test_the_layout_of_transformers_is_read(tmp_path: Path) -> None:
    raw = {"max_patches": 800, "merge_size": 2, "size": {"max_height": 64, "max_width": 64}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(raw))
    found = MediaProcessing.from_pretrained(tmp_path)
    assert (found.max_patches, found.max_side_patches) == (800, 64)


def test_a_folder_without_the_file_has_the_published_rule(tmp_path: Path) -> None:
    assert MediaProcessing.from_pretrained(tmp_path) == PUBLISHED


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        "[" * 100_000,
        '{"media_proc_cfg": 3}',
        '{"patch_size": 0}',
        '{"patch_size": true}',
        '{"in_patch_limit": 1e9}',
        '{"in_patch_limit": 99999999999}',
        '{"merge_kernel_size": [2, 3]}',
        '{"merge_kernel_size": 3}',
        '{"sample_fps": 0}',
        '{"sample_fps": NaN}',
        '{"image_std": [0, 1, 1]}',
        '{"image_mean": [0.5, 0.5]}',
        '{"image_mean": [Infinity, 1, 1]}',
        '{"fixed_output_tokens": 64}',
        '{"timestamp_mode": "mm:ss"}',
        '{"temporal_merge_kernel_size": 5}',
    ],
)
def test_a_bad_file_is_a_config_error_that_names_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"^preprocessor_config\.json: "):
        MediaProcessing.from_pretrained(tmp_path)
