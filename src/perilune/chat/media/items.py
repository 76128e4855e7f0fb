"""What a conversation holds once its pictures are opened: items, and where they stand.

Opening reads headers only. Size, tokens and digest are known then; pixels are decoded by
`OpenMedia.load`, by whoever has no cached result for the digest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from perilune.chat.media.sizes import Grid

if TYPE_CHECKING:  # numpy is loaded with the first picture
    from perilune.chat.media.patches import Patches

MediaKind = Literal["image", "video"]


@dataclass(frozen=True, slots=True)
class MediaItem:
    """What the tower reads as a whole: one picture, or up to four frames of a clip.

    `digest` (64 hexadecimal digits) is of the source's bytes, the processing rule and the frames:
    equal digests give equal patches, so it keys every cache. It needs no decoding. `size` is the
    width and height of the source, upright, in pixels.
    """

    kind: MediaKind
    grid: Grid
    digest: str
    size: tuple[int, int]
    frames: tuple[int, ...] = ()  # indices in the clip; none of a picture
    timestamp: str = ""  # of the first frame, HH:MM:SS.mmm; none of a picture

    @property
    def tokens(self) -> int:
        return self.grid.tokens


@dataclass(frozen=True, slots=True)
class LoadedItem:
    """An item and its pixels: `patches` are uint8 [t * h * w, 3, 14, 14], see `patches`."""

    item: MediaItem
    patches: Patches


@dataclass(frozen=True, slots=True)
class OpenMedia:
    """A picture or a clip whose header is read. `format` as `sniff` names it.

    A picture is one item; a clip has one for every four sampled frames. `data`: the source's bytes,
    for who decodes in another process.
    """

    kind: MediaKind
    format: str
    size: tuple[int, int]
    items: tuple[MediaItem, ...]
    _load: Callable[[Collection[int]], Iterator[tuple[int, Patches]]] = field(
        repr=False, compare=False
    )
    data: bytes = field(default=b"", repr=False, compare=False)

    @property
    def tokens(self) -> int:
        """Rows that the tower gives for all items."""
        return sum(item.tokens for item in self.items)

    def load(self, wanted: Collection[int] | None = None) -> Iterator[LoadedItem]:
        """Decode the items of these indices (all), in order, one at a time in memory.

        Raises MediaError (`truncated`, `damaged`) where the pixels are not what the header says.
        """
        indices = range(len(self.items)) if wanted is None else wanted
        for index, patches in self._load(indices):
            yield LoadedItem(self.items[index], patches)


@dataclass(frozen=True, slots=True)
class MediaSpan:
    """ids[start : start + length] are the pads of `media.items[index]`, one for each token.

    Two spans never touch, and a pad outside of all spans does not exist: text never makes one.
    """

    start: int
    length: int
    media: OpenMedia
    index: int

    @property
    def item(self) -> MediaItem:
        return self.media.items[self.index]


class MediaOpener(Protocol):
    """What a chat format asks of `reader.MediaRequest`: opens the parts of one conversation."""

    def check_count(self, images: int, videos: int) -> None:
        """Raises MediaError for more of them than are taken."""

    def open(self, part: Mapping[str, Any], kind: MediaKind, place: str) -> OpenMedia:
        """A part of a message, opened. Raises MediaError with its place."""
