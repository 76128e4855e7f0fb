"""What the fast modes of the native forward cost in accuracy.

    python benchmarks/modes.py [--model DIR] [--prompts 4] [--tokens 384] [--json]

Logits of every position of some prompts, teacher-forced, against float32 arithmetic over the same
stored weights (the model's own modules): KL divergence in nats (mean, median, worst position),
largest difference of a logit, share of positions with the same most likely token. Without --model:
the tiny K2 of `tiny_k2.py`, whose random weights are the hard case, because routers without
training choose among near ties. Prompts are drawn from the model (temperature 1), random ids first.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from benchmarks.tiny_k2_contenders import int4_model
from torch import Tensor

from perilune.config import ModelConfig
from perilune.model.model import KimiK2Model
from perilune.runner.batch import SequenceRows, build_batch
from perilune.runner.cache import PagedLatentCache, pages_for
from perilune.runner.cpu.runner import CpuRunner

SEED_TOKENS = 16
MODES: dict[str, tuple[dict[str, Any], torch.dtype]] = {
    "exact, float32 cache": ({"exact": True}, torch.float32),
    "exact, bf16 cache": ({"exact": True}, torch.bfloat16),
    "default": ({}, torch.bfloat16),
    "dense int8": ({"dense_format": "int8"}, torch.bfloat16),
    "dense int4": ({"dense_format": "int4"}, torch.bfloat16),
}


def logits_of(runner: CpuRunner, ids: list[int], dtype: torch.dtype) -> Tensor:
    pages = list(range(pages_for(len(ids))))
    cache = PagedLatentCache.for_model(runner.config, len(pages), dtype=dtype)
    return runner.execute(build_batch([SequenceRows(ids, 0, pages, len(ids))]), cache)


def draw_prompts(model: KimiK2Model, count: int, tokens: int) -> list[list[int]]:
    """Text of the model's own: its distribution is where a mode has to be right."""
    config: ModelConfig = model.config
    generator = torch.Generator().manual_seed(0)
    runner = CpuRunner(model)
    prompts = []
    for _ in range(count):
        ids = torch.randint(config.vocab_size, (SEED_TOKENS,), generator=generator).tolist()
        pages = list(range(pages_for(tokens)))
        cache = PagedLatentCache.for_model(config, len(pages))
        done = 0
        while len(ids) < tokens:
            rows = SequenceRows(ids[done:], done, pages, 1)
            done = len(ids)
            chances = runner.execute(build_batch([rows]), cache)[0].softmax(-1)
            ids.append(int(torch.multinomial(chances, 1, generator=generator)))
        prompts.append(ids)
    runner.restore()
    return prompts


def compare(reference_TV: Tensor, logits_TV: Tensor) -> dict[str, float]:
    p, q = reference_TV.double().log_softmax(-1), logits_TV.double().log_softmax(-1)
    kl_T = (p.exp() * (p - q)).sum(-1)
    return {
        "kl_mean": kl_T.mean().item(),
        "kl_median": kl_T.median().item(),
        "kl_worst": kl_T.max().item(),
        "largest_difference": (reference_TV - logits_TV).abs().max().item(),
        "same_top": (p.argmax(-1) == q.argmax(-1)).double().mean().item(),
    }


@torch.inference_mode()
def measure(model: KimiK2Model, count: int, tokens: int) -> dict[str, Any]:
    prompts = draw_prompts(model, count, tokens)
    wide = copy.deepcopy(model).float()
    reference = torch.cat([wide(torch.tensor([ids]), absorbed=True)[0] for ids in prompts])
    del wide
    figures = {}
    for name, (options, dtype) in MODES.items():
        whole = copy.deepcopy(model) if "dense_format" in options else model
        runner = CpuRunner(whole, **options)
        figures[name] = compare(
            reference, torch.cat([logits_of(runner, ids, dtype) for ids in prompts])
        )
        if whole is model:
            runner.restore()
    return {"positions": len(reference), "modes": figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=384)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.model:
        from perilune.weights.load import load_model

        model = load_model(arguments.model)
    else:
        model = int4_model()
    result = measure(model, arguments.prompts, arguments.tokens)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['positions']} positions; KL in nats")
    print(f"{'':22} {'mean':>9} {'median':>9} {'worst':>9} {'logit':>9} {'same top':>9}")
    for name, figures in result["modes"].items():
        print(f"{name:22}" + "".join(f" {value:9.2e}" for value in list(figures.values())[:4])
              + f" {figures['same_top']:9.1%}")  # fmt: skip


if __name__ == "__main__":
    main()
