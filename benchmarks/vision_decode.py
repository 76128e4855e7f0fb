"""Pictures to patches against Pillow alone: what checking, hashing and cutting up cost.

    python benchmarks/vision_decode.py [--repeats 9]

Ours is the whole way of a picture that no cache knows: header walked and checked, digest, pixels
decoded by Pillow without metadata, resized, padded, cut into patches. The peer is Pillow alone:
open, decode, convert to RGB, resize by the same filter to the same size, bytes out. Both in turns,
one thread, the median of the processor's time, which others on the machine do not change much. The
limit is the peer's time and 20 %, over all pictures. The last column is what a request pays for a
picture that a cache knows: opening, which decodes nothing.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

from perilune.chat.media import MediaProcessing
from perilune.chat.media.reader import MediaReader
from perilune.chat.media.sizes import fit_image

LIMIT = 1.20
SIZES = [(224, 224), (640, 480), (1024, 1024), (1920, 1080), (4000, 3000)]
FORMATS = {"JPEG": {"quality": 85}, "PNG": {"compress_level": 6}, "WEBP": {"quality": 85}}


def picture(width: int, height: int) -> Image.Image:
    """Waves, with noise of a few levels: compresses about as a photograph does."""
    rng = np.random.default_rng([width, height])
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    planes = [127 + 80 * np.sin(x / (20 + 9 * c)) * np.cos(y / (31 + 7 * c)) for c in range(3)]
    noisy = np.stack(planes, axis=-1) + rng.normal(0, 4, (height, width, 1))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def pillow_alone(data: bytes, size: tuple[int, int]) -> None:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def ours(reader: MediaReader, data: bytes) -> None:
    for _ in reader.open(data, "image").load():
        pass


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    reader = MediaReader()
    print(
        f"{'picture':>18} {'KB':>6} {'tokens':>6} {'Pillow ms':>10} {'ours ms':>8} {'ratio':>6}",
        end="",
    )
    print(f" {'known ms':>9}")
    sums = [0.0, 0.0]
    for width, height in SIZES:
        for kind, options in FORMATS.items():
            out = io.BytesIO()
            picture(width, height).save(out, kind, **options)
            data = out.getvalue()
            fit = fit_image(width, height, MediaProcessing())
            theirs, mine, known = [], [], []
            for _ in range(repeats):
                theirs.append(seconds(partial(pillow_alone, data, (fit.width, fit.height))))
                mine.append(seconds(partial(ours, reader, data)))
                known.append(seconds(partial(reader.open, data, "image")))
            a, b, c = (1000 * statistics.median(times) for times in (theirs, mine, known))
            sums[0] += a
            sums[1] += b
            name = f"{kind} {width}x{height}"
            print(
                f"{name:>18} {len(data) >> 10:>6} {fit.grid.tokens:>6} {a:>10.2f} {b:>8.2f}", end=""
            )
            print(f" {b / a:>6.2f} {c:>9.3f}")
    ratio = sums[1] / sums[0]
    verdict = "within" if ratio <= LIMIT else "OVER"
    print(f"all: {ratio:.3f} of Pillow alone, {verdict} the limit of {LIMIT}")


if __name__ == "__main__":
    main()
