"""How a checkpoint's pictures are prepared: its `preprocessor_config.json`, typed.

Three layouts are in use: the published one (`media_proc_cfg`), the same keys at the top level, and
that of transformers (`max_patches`, `size`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, NoReturn

from perilune.errors import ConfigError

FILE = "preprocessor_config.json"
_MOST_BYTES = 1 << 20
_MOST_PATCHES = 1 << 18  # far above every published one (K3: 65,536)
_MOST_SIDE = 512  # what the tower's rotary positions reach


@dataclass(frozen=True, slots=True)
class MediaProcessing:
    """The rule from pixels to patches. The defaults are those of K2.5, K2.6 and K2.7."""

    patch_size: int = 14
    merge_size: int = 2  # patches of a token, each way
    max_patches: int = 16_384  # of a picture, before padding
    max_side_patches: int = 512
    max_frame_patches: int | None = 4096  # of a frame of a clip; None: as a picture
    max_video_patches: int | None = None  # of all sampled frames together
    sample_fps: float = 2.0
    chunk_frames: int = 4  # frames that the tower reads together
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @property
    def key(self) -> bytes:
        """What of it decides the patches' bytes; goes into every digest."""
        return repr(astuple(self)).encode()

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> MediaProcessing:
        """What the folder's preprocessor_config.json says, or the published rule without one.

        Raises ConfigError for a file that cannot be read, or that asks for another rule.
        """
        file = Path(folder) / FILE
        if not file.is_file():
            return cls()
        try:
            if file.stat().st_size > _MOST_BYTES:
                raise ConfigError("is too large for a configuration", file=file)
            raw = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"cannot be read: {error}", file=file) from None
        if not isinstance(raw, Mapping):
            raise ConfigError("is not an object", file=file)
        nested = raw.get("media_proc_cfg", raw)
        if not isinstance(nested, Mapping):
            raise ConfigError("media_proc_cfg is not an object", file=file)
        return _Reader(file, nested).read()


class _Reader:
    def __init__(self, file: Path, raw: Mapping[str, Any]) -> None:
        self._file = file
        self._raw = raw

    def read(self) -> MediaProcessing:
        raw = self._raw
        published = MediaProcessing()
        for key in ("fixed_output_tokens", "max_num_frames_each_video"):
            if raw.get(key) is not None:
                self._fail(f"{key} is {raw[key]!r:.40}, and only null is published")
        mode = raw.get("timestamp_mode", "hh:mm:ss.fff")
        if mode != "hh:mm:ss.fff":
            self._fail(f"timestamp_mode {mode!r:.40} is not hh:mm:ss.fff")
        size = raw.get("size")
        sides = size if isinstance(size, Mapping) else {}
        merge = raw.get("merge_kernel_size", raw.get("merge_size", published.merge_size))
        if isinstance(merge, list) and len(merge) == 2 and merge[0] == merge[1]:
            merge = merge[0]
        patches = raw.get("in_patch_limit", raw.get("max_patches", published.max_patches))
        side = raw.get(
            "patch_limit_on_one_side", sides.get("max_height", published.max_side_patches)
        )
        frame = raw.get("in_patch_limit_each_frame", published.max_frame_patches)
        if self._whole("merge_kernel_size", merge, 8) != 2:
            self._fail(f"merge_kernel_size {merge} is not 2, which the tower merges")
        video = raw.get("in_patch_limit_video")
        return MediaProcessing(
            patch_size=self._whole("patch_size", raw.get("patch_size", 14), 128),
            merge_size=2,
            max_patches=self._whole("in_patch_limit", patches, _MOST_PATCHES),
            max_side_patches=self._whole("patch_limit_on_one_side", side, _MOST_SIDE),
            max_frame_patches=self._maybe("in_patch_limit_each_frame", frame),
            max_video_patches=self._maybe("in_patch_limit_video", video),
            sample_fps=self._rate(raw.get("sample_fps", published.sample_fps)),
            chunk_frames=self._whole(
                "temporal_merge_kernel_size", raw.get("temporal_merge_kernel_size", 4), 4
            ),
            mean=self._triple("image_mean", positive=False),
            std=self._triple("image_std", positive=True),
        )

    def _whole(self, key: str, value: Any, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            self._fail(f"{key} is {value!r:.40}, and must be a whole number from 1 to {most}")
        return int(value)

    def _maybe(self, key: str, value: Any) -> int | None:
        return None if value is None else self._whole(key, value, 1 << 30)

    def _rate(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1000:
            self._fail(f"sample_fps is {value!r:.40}, and must be more than 0, at most 1000")
        return float(value)

    def _triple(self, key: str, *, positive: bool) -> tuple[float, float, float]:
        value = self._raw.get(key, [0.5, 0.5, 0.5])
        numbers = value if isinstance(value, list) and len(value) == 3 else [None]
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int | float):
                self._fail(f"{key} is {value!r:.60}, and must be three numbers")
            if not math.isfinite(number) or (positive and number <= 0):
                self._fail(f"{key} holds {number}, which no pixel can be scaled with")
        first, second, third = map(float, numbers)
        return first, second, third

    def _fail(self, what: str) -> NoReturn:
        raise ConfigError(what, file=self._file)
