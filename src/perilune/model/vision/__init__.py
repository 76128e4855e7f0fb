"""The tower of K2.5: patches of pictures -> vectors that stand among the tokens' embeddings."""

from __future__ import annotations

from perilune.model.vision.grids import patch_counts, read_grids, token_counts
from perilune.model.vision.placing import placed
from perilune.model.vision.projector import Projector
from perilune.model.vision.tower import VisionTower

__all__ = ["Projector", "VisionTower", "patch_counts", "placed", "read_grids", "token_counts"]
