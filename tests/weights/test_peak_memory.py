"""Peak memory of a load: the stored bytes and small buffers, measured from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.weights.small import FORMATS, tiny_checkpoint

from perilune.config import Family
from perilune.formats import StorageFormat
from perilune.formats.int4 import INT4
from perilune.weights.published_config import config_json
from perilune.weights.random_weights import RandomWeights, random_config
from perilune.weights.tensor_table import expected_tensors
from perilune.weights.write import write_checkpoint

SHARD_BYTES = 64 * 2**20
MEASURE = """
import json, sys, threading, time
import psutil, torch
from perilune.weights import bulk, shard
from perilune.weights.load import load_model
if sys.argv[3] == "past the cache":
    bulk.DIRECT_FROM = 0
    shard._PageCache.holds = lambda *a: False
torch.set_num_threads(1)
load_model(sys.argv[2])  # so that torch has imported whatever it imports late
process = psutil.Process()
before, peak, done = process.memory_info().rss, 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.001)
watcher = threading.Thread(target=watch)
watcher.start()
model = load_model(sys.argv[1], progress=False)
done = True
watcher.join()
stored = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
print(json.dumps({"stored": stored, "peak": peak - before}))
"""


@pytest.mark.parametrize(
    ("storage", "way"),
    [*((storage, "cached") for storage in FORMATS), (INT4, "past the cache")],
)
def test_peak_of_a_load(tmp_path: Path, storage: StorageFormat, way: str) -> None:
    config = random_config(Family.K2, storage, "tiny", layers=2)
    text = replace(
        config.text, vocab_size=32_768, hidden_size=1024, intermediate_size=2048,
        moe_intermediate_size=512, n_routed_experts=48,
    )  # fmt: skip
    config = replace(config, text=text)
    folder = write_checkpoint(
        tmp_path / "m",
        config_json(config),
        expected_tensors(config),
        RandomWeights(0, config),
        identity="peak",
        shard_bytes=SHARD_BYTES,
    )
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, folder, tiny_checkpoint(tmp_path / "tiny", storage), way],
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(run.stdout)
    print(storage, way, seen)
    assert seen["stored"] > 150 * 10**6
    assert seen["peak"] < seen["stored"] + SHARD_BYTES
    assert seen["peak"] > 0.9 * seen["stored"]  # or nothing was measured
