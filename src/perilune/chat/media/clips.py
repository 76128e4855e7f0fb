"""A clip's bytes -> its frames. PyAV (the extra `video`) demuxes and decodes.

`probe` counts the frames by walking through the packets, without decoding one; `decode` gives the
sampled frames in order and keeps none. FFmpeg is told the container, reads from memory, may open
nothing else, decodes in one thread, and refuses larger frames than the limit by itself.
"""

from __future__ import annotations

import io
import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image

from perilune.chat.media.containers import is_cut, mov_quarter_turns, sniff_clip
from perilune.chat.media.headers import describe, sniff
from perilune.chat.media.limits import MediaLimits
from perilune.errors import MediaError, MediaFault

CODECS = frozenset(
    {"av1", "flv", "h263", "h264", "hevc", "libdav1d", "libvpx", "libvpx-vp9", "mjpeg"}
    | {"mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "theora"}
    | {"vc1", "vp8", "vp9", "wmv1", "wmv2", "wmv3"}
)
"""Decoders that are used; the hundreds of others are not."""
_FASTEST = 1000.0  # frames per second; more is a damaged header
_SLOWEST = 1 / 3600
_TURNS = {
    1: Image.Transpose.ROTATE_270,
    2: Image.Transpose.ROTATE_180,
    3: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class Clip:
    """What is known of a clip before a frame is decoded. `width` and `height` are upright."""

    data: bytes
    format: str  # of FFmpeg's demuxer
    width: int
    height: int
    frames: int
    fps: float  # on average
    quarter_turns: int  # clockwise


def probe(data: bytes, limits: MediaLimits) -> Clip:
    """Raises MediaError; nothing is decoded."""
    name = sniff_clip(data)
    if name is None:
        raise _not_a_clip(data)
    if is_cut(data, name):
        raise _truncated()
    with _opened(data, name, limits) as (container, stream):
        context = stream.codec_context
        width, height = context.width, context.height
        limits.check_size(width, height, limits.frame_pixels, "clip's frame")
        if context.name not in CODECS:
            raise MediaError(
                MediaFault.FORMAT,
                f"the clip is coded with {context.name}, which is not supported",
                remedy="Convert it to H.264 in an MP4",
            )
        frames, seconds = _count(container, stream, limits)
        if not frames:
            raise _no_frames("holds no frame")
        fps = _rate(stream, frames, seconds)
    if frames / fps > limits.video_seconds:
        raise MediaError(
            MediaFault.SECONDS,
            f"the clip lasts {frames / fps:,.0f} seconds, and at most "
            f"{limits.video_seconds:,.0f} are accepted",
            limit=limits.video_seconds,
            remedy="Cut it, or send a part of it",
        )
    turns = mov_quarter_turns(data) if name == "mov" else 0
    if turns % 2:
        width, height = height, width
    return Clip(data, name, width, height, frames, fps, turns)


def decode(clip: Clip, wanted: Sequence[int], limits: MediaLimits) -> Iterator[Image.Image]:
    """The frames of these indices (rising, repeats allowed), upright, RGB; one in memory.

    Raises MediaError for a clip that has fewer frames than its packets say.
    """
    left = deque(wanted)
    with _opened(clip.data, clip.format, limits) as (container, stream):
        for index, frame in enumerate(container.decode(stream)):
            if not left:
                return
            if index != left[0]:
                continue
            image = Image.fromarray(frame.to_ndarray(format="rgb24"))
            turn = _TURNS.get(clip.quarter_turns)
            image = image if turn is None else image.transpose(turn)
            while left and left[0] == index:
                left.popleft()
                yield image
        if left:
            raise _damaged(f"the clip has {clip.frames} frames, and not all can be decoded")


@contextmanager
def _opened(data: bytes, name: str, limits: MediaLimits) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream. FFmpeg's errors come out as MediaError."""
    av = _pyav()
    options = {
        "max_pixels": str(limits.frame_pixels),
        "protocol_whitelist": "none",
        "enable_drefs": "0",
        "probesize": str(1 << 20),
        "max_streams": "32",
    }
    try:
        with av.open(io.BytesIO(data), format=name, options=options) as container:
            stream = next((s for s in container.streams.video if not _is_cover(s)), None)
            if stream is None:
                raise _no_frames("holds no video")
            context = stream.codec_context
            context.thread_count = 1
            context.options = {"max_pixels": str(limits.frame_pixels)}
            yield container, stream
    except (MediaError, MemoryError):
        raise
    except Exception:  # FFmpeg's own kinds, and what its binding makes of bad data
        raise _damaged("the clip cannot be decoded") from None


def _count(container: Any, stream: Any, limits: MediaLimits) -> tuple[int, float]:
    """Frames that are shown, by their packets, and the seconds from the first to the last."""
    shown = packets = 0
    times: list[int] = []
    is_vp8 = stream.codec_context.name in ("vp8", "libvpx")
    for packet in container.demux(stream):
        if not packet.size:
            continue
        packets += 1
        if packets > limits.video_frames:
            raise MediaError(
                MediaFault.FRAMES,
                f"the clip has more than {limits.video_frames:,} frames",
                limit=limits.video_frames,
                remedy="Cut it, or send it with fewer frames per second",
            )
        if packet.is_corrupt:
            raise _truncated()
        if packet.is_discard or (is_vp8 and not bytes(packet)[0] & 0x10):
            continue  # not shown: before the clip's edit, or a reference that VP8 hides
        shown += 1
        if packet.pts is not None:
            times = [min([*times[:1], packet.pts]), max([*times[1:], packet.pts])]
    if packets < _said_frames(container, stream):
        raise _truncated()
    span = float((times[1] - times[0]) * stream.time_base) if len(times) == 2 else 0.0
    return shown, span


def _said_frames(container: Any, stream: Any) -> int:
    """What an MP4's own table says; other containers only guess."""
    return int(stream.frames) if container.format.name.startswith("mov") else 0


def _rate(stream: Any, frames: int, seconds: float) -> float:
    measured = (frames - 1) / seconds if seconds > 0 else None
    for rate in (stream.average_rate, stream.guessed_rate, measured):
        if rate and math.isfinite(rate) and _SLOWEST <= rate <= _FASTEST:
            return float(rate)
    raise _damaged("the clip does not say how many frames per second it has")


def _is_cover(stream: Any) -> bool:
    """A picture of an album, which containers hold as a video of one frame."""
    return "attached_pic" in str(stream.disposition)


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        raise MediaError(
            MediaFault.PACKAGE,
            "clips are read with PyAV, which is not installed",
            remedy="pip install 'perilune[video]'",
        ) from None
    return av


def _not_a_clip(data: bytes) -> MediaError:
    picture = sniff(data)
    if picture is not None:
        return MediaError(
            MediaFault.WRONG_TYPE,
            f"the video part holds a picture ({picture})",
            remedy="Send it as an image_url part",
        )
    seems = describe(data)
    return MediaError(
        MediaFault.FORMAT,
        "the clip is not MP4, MOV, WebM, Matroska, AVI, MPEG, FLV, WMV or 3GP"
        f"{seems and f', but {seems}'}",
        remedy="Convert it to H.264 in an MP4",
    )


def _no_frames(what: str) -> MediaError:
    return MediaError(
        MediaFault.NO_FRAMES, f"the clip {what}", remedy="Send a clip that shows something"
    )


def _truncated() -> MediaError:
    return MediaError(MediaFault.TRUNCATED, "the clip is cut off", remedy="Send the whole file")


def _damaged(what: str) -> MediaError:
    return MediaError(MediaFault.DAMAGED, what, remedy="Convert it to H.264 in an MP4")
