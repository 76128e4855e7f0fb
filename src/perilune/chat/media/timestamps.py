"""Which frames of a clip are looked at, and the time that stands before them in the prompt.

The published rule: `sample_fps` frames per second (never more than there are), spread evenly so
that the first and the last are among them; four in a row are one item.
"""

from __future__ import annotations

import time

import numpy as np


def sampled_frames(count: int, fps: float, sample_fps: float) -> tuple[int, ...]:
    """Indices of the frames to look at, of `count` frames at an average of `fps` a second."""
    wanted = max(round(count * min(sample_fps, fps) / fps), 1)
    return tuple(int(i) for i in np.linspace(0, count - 1, wanted).round())


def timestamp(frame: int, fps: float) -> str:
    """HH:MM:SS.mmm of a frame; milliseconds are cut off, and a day begins again at zero."""
    seconds = frame / fps
    milliseconds = int(seconds % 1 * 1000)
    return time.strftime("%H:%M:%S", time.gmtime(seconds)) + f".{milliseconds:03d}"
