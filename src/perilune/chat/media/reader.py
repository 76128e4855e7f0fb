"""Opens the pictures and clips of one request: source, header, size, digest; nothing is decoded.

reader = MediaReader(MediaProcessing.from_pretrained(folder))
prompt = chat.render(messages, media=reader.request())
for span in prompt.spans: ...              # where the pads are, and of which item
for loaded in span.media.load({span.index}): loaded.patches
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from perilune.chat.media import exif
from perilune.chat.media.containers import sniff_clip
from perilune.chat.media.headers import Header, read_header, sniff
from perilune.chat.media.items import MediaItem, MediaKind, OpenMedia
from perilune.chat.media.limits import MediaLimits
from perilune.chat.media.processing import MediaProcessing
from perilune.chat.media.sizes import Fit, fit_frame, fit_image
from perilune.chat.media.sources import Resolve, read_part
from perilune.chat.media.timestamps import sampled_frames, timestamp
from perilune.errors import MediaError, MediaFault

if TYPE_CHECKING:  # Pillow, numpy and PyAV are loaded by who decodes: headers need none of them
    from perilune.chat.media.patches import Patches

RULE = b"perilune pictures 1"
"""Goes into every digest; raised when the same bytes would give other patches."""


class MediaReader:
    """The rule of a checkpoint, the bounds of a server, and where bytes may come from."""

    def __init__(
        self,
        processing: MediaProcessing | None = None,
        limits: MediaLimits | None = None,
        *,
        resolve: Resolve | None = None,
    ) -> None:
        """`resolve` reads what is not a data URI; without one such a part is refused."""
        self.processing = processing or MediaProcessing()
        self.limits = limits or MediaLimits()
        self.resolve = resolve

    def request(self) -> MediaRequest:
        """The opener of one request, which counts its pictures and clips."""
        return MediaRequest(self)

    def open(self, data: bytes, kind: MediaKind) -> OpenMedia:
        """A picture's or a clip's bytes, opened. Raises MediaError."""
        if not data:
            raise MediaError(MediaFault.EMPTY, f"the {kind} has no bytes", remedy="Send its bytes")
        self.limits.check_bytes(len(data), kind)
        return self._picture(data) if kind == "image" else self._clip(data)

    def _picture(self, data: bytes) -> OpenMedia:
        if sniff(data) is None and sniff_clip(data) is not None:
            raise MediaError(
                MediaFault.WRONG_TYPE,
                "the image part holds a clip",
                remedy="Send it as a video_url part",
            )
        header = read_header(data)
        limits, processing = self.limits, self.processing
        limits.check_size(header.width, header.height, limits.pixels, "picture")
        limits.check_size(*header.largest, limits.pixels, "picture's animation")
        if header.most_pixels is not None and header.width * header.height > header.most_pixels:
            raise MediaError(
                MediaFault.DAMAGED,
                f"the picture claims {header.width:,} x {header.height:,} pixels, more than its "
                "bytes can hold",
                remedy="Send the whole file",
            )
        size = (header.width, header.height)
        if exif.is_turned(header.orientation):
            size = (size[1], size[0])
        fit = fit_image(*size, processing)
        digest = self._digests(data, "image")(())
        item = MediaItem("image", fit.grid, digest, size)

        def load(wanted: Collection[int]) -> Iterator[tuple[int, Patches]]:
            if 0 in wanted:
                yield 0, _picture_patches(header, fit, processing)

        return OpenMedia("image", header.format, size, (item,), load, data)

    def _clip(self, data: bytes) -> OpenMedia:
        from perilune.chat.media import clips
        from perilune.chat.media.patches import to_patches

        limits, processing = self.limits, self.processing
        clip = clips.probe(data, limits)
        sampled = sampled_frames(clip.frames, clip.fps, processing.sample_fps)
        step = processing.chunk_frames
        chunks = [sampled[n : n + step] for n in range(0, len(sampled), step)]
        size = (clip.width, clip.height)
        fits = [fit_frame(*size, len(chunk), len(sampled), processing) for chunk in chunks]
        digest = self._digests(data, "video")
        items = tuple(
            MediaItem("video", fit.grid, digest(chunk), size, chunk, timestamp(chunk[0], clip.fps))
            for chunk, fit in zip(chunks, fits, strict=True)
        )

        def load(wanted: Collection[int]) -> Iterator[tuple[int, Patches]]:
            indices = [n for n in range(len(chunks)) if n in wanted]
            frames = clips.decode(clip, [f for n in indices for f in chunks[n]], limits)
            for n in indices:
                yield n, to_patches(islice(frames, len(chunks[n])), fits[n], processing)

        return OpenMedia("video", clip.format, size, items, load, data)

    def _digests(self, data: bytes, kind: MediaKind) -> Callable[[tuple[int, ...]], str]:
        """Frames -> digest, of this source under this rule."""
        parts = [RULE, self.processing.key, kind.encode(), hashlib.sha256(data).digest()]
        # A length before each part: no two lists of parts are the same bytes.
        base = hashlib.sha256(b"".join(len(p).to_bytes(8, "big") + p for p in parts))

        def digest(frames: tuple[int, ...]) -> str:
            whole = base.copy()
            whole.update(repr(frames).encode())
            return whole.hexdigest()

        return digest


def _picture_patches(header: Header, fit: Fit, processing: MediaProcessing) -> Patches:
    from perilune.chat.media import pictures
    from perilune.chat.media.patches import to_patches

    return to_patches([pictures.decode(header)], fit, processing)


class MediaRequest:
    """Opens the parts of one conversation in order, and no more than the limits allow."""

    def __init__(self, reader: MediaReader) -> None:
        self.reader = reader
        self._opened = {"image": 0, "video": 0}

    def check_count(self, images: int, videos: int) -> None:
        """Raises MediaError for a conversation with too many of them, before one is opened."""
        limits = self.reader.limits
        for kind, count, most in (
            ("pictures", images, limits.images),
            ("clips", videos, limits.videos),
        ):
            if count > most:
                raise MediaError(
                    MediaFault.COUNT,
                    f"the conversation has {count:,} {kind}; at most {most:,} are accepted",
                    limit=most,
                    remedy="Leave out the oldest",
                )

    def open(self, part: Mapping[str, Any], kind: MediaKind, place: str) -> OpenMedia:
        """A part of a message, opened. Raises MediaError with its place."""
        self._opened[kind] += 1
        try:
            self.check_count(self._opened["image"], self._opened["video"])
            reader = self.reader
            return reader.open(read_part(part, kind, reader.limits, reader.resolve), kind)
        except MediaError as error:
            raise error.at(place) from None
