"""What each way to compute does to the logits of the tiny K2, against float32 in torch.

    python benchmarks/engine_logits.py [--tokens 256] [--json]

Prints the largest difference of a logit, the mean and largest KL divergence (nats) of the next
token's distribution, and how often the likeliest token is the same. The model is random: its logits
are flatter, and its choice of experts is closer, than in a trained one, so all figures overstate.
Read them beside the row of torch in bfloat16, which is what everybody takes for granted.
"""

from __future__ import annotations

import argparse
import json
import random

import torch
from torch import Tensor

from perilune.engine.bench import small_model
from perilune.runner.batch import SequenceRows, build_batch
from perilune.runner.cache import PagedLatentCache, pages_for
from perilune.runner.cpu.runner import CpuRunner
from perilune.runner.runner import ModelRunner
from perilune.runner.torch_runner import TorchRunner


def logits(runner: ModelRunner, ids: list[int], dtype: torch.dtype) -> Tensor:
    cache = PagedLatentCache.for_model(small_model().config, pages_for(len(ids)), dtype=dtype)
    rows = SequenceRows(ids, 0, list(range(pages_for(len(ids)))), wanted=len(ids))
    return runner.execute(build_batch([rows]), cache)


def compare(found: Tensor, expected: Tensor) -> dict[str, float]:
    ours, theirs = found.log_softmax(-1), expected.log_softmax(-1)
    divergence = (theirs.exp() * (theirs - ours)).sum(-1)
    return {
        "largest difference": float((found - expected).abs().max()),
        "mean KL": float(divergence.mean()),
        "largest KL": float(divergence.max()),
        "same likeliest": float((found.argmax(-1) == expected.argmax(-1)).float().mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    pick = random.Random(1)
    ids = [pick.randrange(36_864) for _ in range(arguments.tokens)]
    expected = logits(TorchRunner(small_model().float()), ids, torch.float32)
    forwards = {
        "C exact": (CpuRunner(small_model(), exact=True), torch.float32),
        "C default (int8 and bf16)": (CpuRunner(small_model()), torch.bfloat16),
        "C dense int8": (CpuRunner(small_model(), dense_format="int8"), torch.bfloat16),
        "C dense int4": (CpuRunner(small_model(), dense_format="int4"), torch.bfloat16),
        "torch bf16": (TorchRunner(small_model()), torch.bfloat16),
    }
    figures = {
        name: compare(logits(runner, ids, dtype), expected)
        for name, (runner, dtype) in forwards.items()
    }
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    print(f"{'':26}" + "".join(f"{column:>20}" for column in next(iter(figures.values()))))
    for name, row in figures.items():
        print(f"{name:26}" + "".join(f"{value:20.2e}" for value in row.values()))


if __name__ == "__main__":
    main()
