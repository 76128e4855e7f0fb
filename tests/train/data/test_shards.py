from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from perilune.errors import DataError
from perilune.train.data.mixture import MixtureSpec
from perilune.train.data.shards import shards_source, write_shards
from perilune.train.data.stream import DocumentStream
from tests.train.shared import documents


def test_documents_come_back_by_index(tmp_path: Path) -> None:
    listed = documents(23)
    assert write_shards(listed, tmp_path, per_shard=10) == 23
    source = shards_source(0, None, folder=str(tmp_path))
    for i in (0, 9, 10, 22, 23, 40):
        expected, got = listed[i % 23], source(i)
        assert list(got.ids) == list(expected.ids)
        assert list(got.trained) == list(expected.trained)
        assert list(got.header) == list(expected.header)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "index"])
def test_a_damaged_shard_stops_the_run_and_is_named(tmp_path: Path, damage: str) -> None:
    write_shards(documents(30), tmp_path, per_shard=10)
    file = tmp_path / ("shards.json" if damage == "index" else "shard-00001.safetensors")
    data = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data[:50] if damage in ("cut", "index") else data)
    spec = MixtureSpec((("shards", 1.0, {"folder": str(tmp_path)}),), 0, None)
    with pytest.raises(DataError, match=file.name):
        with DocumentStream(spec) as stream:
            list(islice(stream, 30))
