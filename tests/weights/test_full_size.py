"""A full-size folder, its files sparse: every header real, no data. What can be said without it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from perilune.config import Family
from perilune.errors import OutOfMemoryError
from perilune.formats.int4 import INT4
from perilune.weights.header import encode_header
from perilune.weights.load import load_model
from perilune.weights.published_config import config_json, full_size
from perilune.weights.tensor_table import expected_tensors
from perilune.weights.write import SHARD_BYTES, plan_shards


def test_k25_at_full_size(tmp_path: Path) -> None:
    config = full_size(Family.K25, INT4)
    (tmp_path / "config.json").write_text(json.dumps(config_json(config)))
    shards = plan_shards(expected_tensors(config), SHARD_BYTES)
    assert len(shards) == 60
    for shard in shards:
        header = encode_header([(s.name, s.dtype, s.shape) for s in shard.specs])
        file = tmp_path / shard.name
        file.write_bytes(header)
        try:
            os.truncate(file, len(header) + shard.nbytes)
        except OSError as error:
            pytest.skip(f"this file system holds no sparse file of 10 GB: {error}")
    weight_map = {spec.name: shard.name for shard in shards for spec in shard.specs}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    # Every header is read and every tensor found before the memory is asked for.
    assert len(weight_map) == 208_550
    with pytest.raises(OutOfMemoryError, match=r"needs 595\.\d\d GB of memory on cpu, .* free"):
        load_model(tmp_path)
