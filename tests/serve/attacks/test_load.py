"""The short form of `benchmarks/serve_load.py`: no stream lost or mixed, all freed, memory flat."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_streams_for_a_while(tiny_folder: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, str(ROOT / "benchmarks" / "serve_load.py"), "--model", str(tiny_folder),
            "--streams", "64", "--minutes", "1.5", "--tokens", "24", "--rounds", "1",
            "--overhead-tokens", "16", "--side-by-side", "1", "--json",
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    load = result["load"]
    assert load["streams"] > 64 and load["mixed"] == 0 and load["lost"] == {}
    assert load["left"] > 4
    assert load["memory_mean_growth"] <= 0.05
    assert load["seconds_to_free"] is not None
    assert result["kill"]["told"] == 64
