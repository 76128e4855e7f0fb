"""The pictures and clips of a request, as they come to an engine core: plain values, no pixels.

What crosses to the core is the source's bytes, as they came, once a request. They are a few times
smaller than the pixels; the core decodes only what none of its caches has, a clip piece by piece;
and a decoder that crashes over a stranger's bytes takes down a process that is started again, not
the one that speaks to clients, which has read headers with our own code alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from perilune.chat.media.items import MediaKind
from perilune.chat.media.limits import MediaLimits
from perilune.chat.media.processing import FILE, MediaProcessing
from perilune.errors import ConfigError, MediaError, MediaFault, RequestError
from perilune.vision_config import MOST_PATCHES_A_SIDE, VisionConfig

if TYPE_CHECKING:
    from perilune.chat.media.reader import MediaReader
    from perilune.chat.prompt import Prompt

MOST_SOURCE_BYTES = 1 << 30  # of all sources of a request: they travel in one message
DIGEST_DIGITS = 64
# Of one item: 16,384 before they are padded, a picture; or four frames of 4,096, padded.
MOST_ITEM_PATCHES = 17_856


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class MediaSource:
    """A picture's or a clip's own bytes."""

    kind: MediaKind
    data: bytes


@dataclass(frozen=True, slots=True)
class MediaFeature:
    """What stands at prompt[start : end]: one pad for each row that the tower gives for an item.

    An item is a picture, or up to four frames of a clip: item `index` of source `source`. `digest`
    and `grid` (frames, rows, columns of patches) are those of `chat.media.MediaItem`.
    """

    start: int
    digest: str
    grid: tuple[int, int, int]
    source: int
    index: int = 0

    @property
    def length(self) -> int:
        """Rows, which are tokens of the prompt."""
        return self.grid[1] // 2 * (self.grid[2] // 2)

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def patches(self) -> int:
        t, h, w = self.grid
        return t * h * w

    @property
    def key(self) -> bytes:
        """Names the content in every cache: the whole digest (256 bits) and the grid."""
        return bytes.fromhex(self.digest) + b"".join(n.to_bytes(2, "big") for n in self.grid)


@dataclass(frozen=True, slots=True)
class RequestMedia:
    """Everything that a prompt shows: sources, and the features in order of their places."""

    sources: tuple[MediaSource, ...]
    features: tuple[MediaFeature, ...]

    @property
    def tokens(self) -> int:
        return sum(feature.length for feature in self.features)

    def behind(self, position: int) -> Sequence[MediaFeature]:
        """The features that end behind `position`, in order."""
        return self.features[bisect_right(self.features, position, key=_end) :]

    def check(self, prompt: Sequence[int], vision: VisionConfig) -> None:
        """Raise RequestError where this is not what stands in the prompt."""
        last = 0
        for feature in self.features:
            where = f"the item at {feature.start}"
            t, h, w = feature.grid
            if (
                not 1 <= t <= vision.init_pos_emb_time
                or any(n % 2 or not 2 <= n <= MOST_PATCHES_A_SIDE for n in (h, w))
            ):  # fmt: skip
                raise _wrong(f"{where} has a grid of {t} x {h} x {w} patches")
            if not last <= feature.start or feature.end > len(prompt):
                raise _wrong(f"{where} overlaps another one, or ends behind the prompt")
            last = feature.end
            if any(prompt[n] != vision.media_token_id for n in range(feature.start, last)):
                raise _wrong(f"{where} does not stand on placeholders alone")
            if not 0 <= feature.source < len(self.sources) or feature.index < 0:
                raise _wrong(f"{where} has no source")
            if len(feature.digest) != DIGEST_DIGITS or set(feature.digest) - set(_HEXADECIMAL):
                raise _wrong(f"{where} has a digest that is none")


_HEXADECIMAL = "0123456789abcdef"


def _end(feature: MediaFeature) -> int:
    return feature.end


def _wrong(what: str) -> RequestError:
    return RequestError(f"the media of the request: {what}", param="media")


def request_media(prompt: Prompt) -> RequestMedia | None:
    """What a rendered conversation shows; None where it is text alone. Raises MediaError.

    A picture that stands in it several times travels once.
    """
    if not prompt.spans:
        return None
    sources: list[MediaSource] = []
    places: dict[str, int] = {}
    features: list[MediaFeature] = []
    for span in prompt.spans:
        opened = span.media
        name = opened.items[0].digest
        if name not in places:
            places[name] = len(sources)
            sources.append(MediaSource(opened.kind, opened.data))
        item = span.item
        grid = (item.grid.t, item.grid.h, item.grid.w)
        features.append(MediaFeature(span.start, item.digest, grid, places[name], span.index))
    total = sum(len(source.data) for source in sources)
    if total > MOST_SOURCE_BYTES:
        raise MediaError(
            MediaFault.BYTES,
            f"the pictures and clips of the conversation have {total:,} bytes together, and at "
            f"most {MOST_SOURCE_BYTES:,} are taken",
            limit=MOST_SOURCE_BYTES,
            remedy="Leave out the oldest",
        )
    return RequestMedia(tuple(sources), tuple(features))


def media_reader(
    vision: VisionConfig, limits: MediaLimits, folder: str | Path | None = None
) -> MediaReader:
    """What opens pictures for a tower, by the rule that the folder says. Raises ConfigError."""
    from perilune.chat.media.reader import MediaReader  # numpy and Pillow, with the first tower

    processing = MediaProcessing()
    if folder is not None and (file := Path(folder) / FILE).is_file():
        processing = MediaProcessing.from_pretrained(folder)
        if processing.patch_size != vision.patch_size:
            raise ConfigError(
                f"patch_size is {processing.patch_size}, and the tower's is {vision.patch_size}",
                file=file,
            )
    frames = min(processing.chunk_frames, vision.init_pos_emb_time)
    processing = replace(processing, patch_size=vision.patch_size, chunk_frames=frames)
    return MediaReader(processing, limits)
