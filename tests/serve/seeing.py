"""Eyes for a scripted model: real reader, decoder and encoder step; the tower takes notes.

eyes = Eyes(tiny_folder)
engine = scripted_engine(script, chat, eyes=eyes)
assert eyes.seen == [pixels_of(file)]
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from perilune.chat.media import MediaKind, MediaLimits
from perilune.chat.media.reader import MediaReader
from perilune.engine.media_decoder import MediaDecoder
from perilune.engine.media_encoder import EncoderConfig, MediaEncoder
from perilune.model.vision.grids import Grids, patch_counts, token_counts
from perilune.weights.checkpoint import stored_config


def pixels_of(data: bytes, kind: MediaKind = "image") -> str:
    """The digest of a file's patches, decoded here: what a tower must have been given."""
    (loaded,) = MediaReader().open(data, kind).load()
    return _digest(torch.from_numpy(loaded.patches))


def _digest(patches: Tensor) -> str:
    return hashlib.sha256(patches.contiguous().numpy().tobytes()).hexdigest()


class Eyes:
    """What a scripted engine sees with. `seen`: digests of the patches of each item, in order."""

    num_blocks = 1

    def __init__(self, folder: Path, limits: MediaLimits | None = None) -> None:
        vision = stored_config(folder).vision_config
        assert vision is not None
        self.config = EncoderConfig(vision, torch.float32, cache_bytes=1 << 28)
        self.reader = MediaReader(limits=limits)
        self.seen: list[str] = []

    def encoder(self) -> MediaEncoder:
        return MediaEncoder(self, MediaDecoder(self.reader), self.config, model="scripted")

    def start(self, patches: Tensor, grids: Grids) -> _Run:
        counts = patch_counts(grids)
        self.seen += [_digest(item) for item in patches.split(counts)]
        width = self.config.vision.text_hidden_size
        return _Run(sum(counts), torch.zeros(sum(token_counts(grids)), width))


class _Run:
    def __init__(self, patches: int, rows: Tensor) -> None:
        self.patches, self._rows = patches, rows

    def advance(self) -> Tensor:
        return self._rows
