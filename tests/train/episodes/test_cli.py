"""`perilune train episodes`, as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from perilune.train.episodes import read_episodes


def perilune(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perilune", "train", "episodes", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.usefixtures("sandbox")
def test_a_file_of_episodes(tmp_path: Path, checkpoint_folder: Path) -> None:
    out = tmp_path / "episodes.jsonl"
    what = ["--family", "lookup", "--family", "hops", "--count", "3", "--seed", "7"]
    done = perilune(*what, "--out", out, "--tokenizer", checkpoint_folder, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    episodes = list(read_episodes(out))
    assert [(each.family, each.seed) for each in episodes] == [
        (family, seed) for family in ("lookup", "hops") for seed in (7, 8, 9)
    ]
    assert {each.split for each in episodes} == {"train"}
    assert told["episodes"] == {"lookup": 3, "hops": 3} and told["rejected"] == []
    assert told["tokens"] == sum(len(ids) for each in episodes for ids in each.ids)
    assert told["learned_tokens"] == sum(sum(loss) for each in episodes for loss in each.loss) > 0
    words = perilune(*what[:2], "--count", "2", "--out", out)
    assert words.returncode == 0 and "2 of 2 verified" in words.stdout
    assert len(list(read_episodes(out))) == 2


def test_what_makes_no_sense(tmp_path: Path) -> None:
    done = perilune("--family", "riddles", "--out", tmp_path / "x.jsonl")
    assert done.returncode == 2 and "lookup" in done.stderr
    done = perilune("--family", "lookup", "--out", tmp_path / "none" / "x.jsonl")
    assert done.returncode == 2 and "no folder" in done.stderr
    done = perilune("--family", "lookup", "--out", tmp_path / "x.jsonl", "--sandbox", "none")
    assert done.returncode == 2 and "landlock" in done.stderr
    assert not list(tmp_path.iterdir())
