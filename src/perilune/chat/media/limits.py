"""What a request may bring: the bounds that are checked before memory is taken."""

from __future__ import annotations

from dataclasses import dataclass, fields

from perilune.errors import MediaError, MediaFault, UsageError

PILLOW_PIXELS = 89_478_485
"""Beyond this Pillow warns by itself (`Image.MAX_IMAGE_PIXELS`)."""


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """Bounds of pictures and clips. Each passed one is a `MediaError` with the number in `limit`.

    A picture takes about 8 bytes of memory a pixel while it is decoded, a WebP about 20; what stays
    is at most 17,856 patches of 588 bytes.
    """

    image_bytes: int = 20 << 20
    video_bytes: int = 100 << 20
    pixels: int = 50_000_000  # of a picture, as decoded
    side: int = 32_768  # of a picture or a frame, in pixels
    images: int = 100  # of a request
    videos: int = 10  # of a request
    frame_pixels: int = 4096 * 2304  # of a clip
    video_seconds: float = 300.0
    video_frames: int = 36_000  # that have to be decoded: the clip's, not the sampled ones

    def __post_init__(self) -> None:
        """Raises UsageError for a bound below one, and for more pixels than Pillow takes."""
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise UsageError(f"MediaLimits.{field.name} must be above 0")
        if max(self.pixels, self.frame_pixels) > PILLOW_PIXELS:
            raise UsageError(f"MediaLimits: more than {PILLOW_PIXELS:,} pixels are never decoded")

    def check_size(self, width: int, height: int, pixels: int, what: str) -> None:
        """Raises MediaError for a size of nothing, a side too long, too many pixels."""
        if width < 1 or height < 1:
            raise MediaError(
                MediaFault.ZERO_SIZE,
                f"the {what} is {width} x {height} pixels",
                remedy="Send one that shows something",
            )
        if max(width, height) > self.side:
            raise MediaError(
                MediaFault.SIDE,
                f"the {what} is {width:,} x {height:,} pixels, and a side has at most "
                f"{self.side:,}",
                limit=self.side,
                remedy="Crop it or make it smaller",
            )
        if width * height > pixels:
            raise MediaError(
                MediaFault.PIXELS,
                f"the {what} has {width:,} x {height:,} pixels, and at most {pixels:,} are decoded",
                limit=pixels,
                remedy="Make it smaller; more than 1,800 x 1,800 is scaled down anyway",
            )

    def check_bytes(self, count: int, kind: str) -> None:
        """Raises MediaError for more bytes than a picture or a clip may have."""
        most = self.image_bytes if kind == "image" else self.video_bytes
        if count > most:
            raise MediaError(
                MediaFault.BYTES,
                f"the {kind} has {count:,} bytes; at most {most:,} are accepted",
                limit=most,
                remedy="Make it smaller or compress it more",
            )
