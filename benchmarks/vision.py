"""The vision tower at its real size: our time and transformers', turn by turn, and the limit.

Random weights, CPU, bfloat16 and float32. Two jobs: one picture of 1,024 x 1,024 pixels (74 x 74
patches, 1,369 tokens), and eight mixed ones, the smallest of 224 x 224 and one of 1,280 x 720.
Timed is the whole way from patches to the vectors of the text's width, tower and projector.

Other load moves every absolute figure: so turns alternate, and the limit, the products of a small
matrix that stays in the caches, is measured beside each turn. CPU seconds of the whole process are
printed too; they move less.

    python benchmarks/vision.py [--dtypes float32,bfloat16] [--jobs one,eight] [--blocks 27]
                                [--repeats 1] [--threads N] [--no-peer] [--int8] [--json FILE]

`--blocks` takes fewer of the 27 blocks: each is the same work, so the ratio hardly moves.

share = (multiply-adds of the job * 2 / our seconds) / limit of that type
Bar (the issue of pictures): ratio 1.5 in both types, for both jobs.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perilune.kernels import native
from perilune.kernels.matrix import NativeMatrix
from perilune.model.vision import token_counts
from perilune.model.vision.projector import Projector
from perilune.model.vision.tower import VisionTower
from perilune.runner.vision import VisionEncoder
from perilune.vision_config import VisionConfig

Grid = tuple[int, int, int]
JOBS: dict[str, list[Grid]] = {
    "small": [(1, 16, 16)],  # 224 x 224, to try the script
    "one": [(1, 74, 74)],  # 1,024 x 1,024 pixels, padded to 1,036
    # 1280x720, 640x480, 512x512, 224x224, 800x600, 256x256, 480x640, 1024x256
    "eight": [(1, 52, 92), (1, 36, 46), (1, 38, 38), (1, 16, 16), (1, 44, 58), (1, 20, 20),
              (1, 46, 36), (1, 20, 74)],
}  # fmt: skip
RATIO_BAR = 1.5


@dataclass
class Result:
    """Medians of one job in one type; seconds of the clock, and of all threads' CPU."""

    job: str
    dtype: str
    patches: int
    ours: float
    ours_cpu: float
    theirs: float | None
    theirs_cpu: float | None
    teraflop: float
    limit: float  # GFLOP/s

    @property
    def share(self) -> float:
        return self.teraflop * 1e3 / self.ours / self.limit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--jobs", default="one,eight")
    parser.add_argument("--blocks", type=int, default=27)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, help="of both; default: what each chooses")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--int8", action="store_true", help="our products in int8")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
        native.set_threads(options.threads)
    config = VisionConfig(vt_num_hidden_layers=options.blocks)
    results = []
    for name in options.dtypes.split(","):
        dtype = getattr(torch, name)
        holder = _model(config, dtype)
        peer = None if options.no_peer else _peer(config, holder)
        encoder = VisionEncoder(holder, dense_format="int8" if options.int8 else None)  # type: ignore[arg-type]
        for job in options.jobs.split(","):
            results.append(_measure(config, encoder, peer, job, dtype, options.repeats))
            _print(results[-1])
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in results], indent=2))


class _Holder(nn.Module):
    """What `VisionEncoder` needs of a model: the tower, without a text network."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.vision = config
        self.vision_tower = VisionTower(config)
        self.mm_projector = Projector(config)

    def encode_pictures(self, patches: Tensor, grids: Any, operators: Any) -> Tensor:
        tokens: Tensor = self.mm_projector(self.vision_tower(patches, grids, operators), operators)
        return tokens


def _model(config: VisionConfig, dtype: torch.dtype) -> _Holder:
    torch.manual_seed(0)
    return _Holder(config).to(dtype).eval().requires_grad_(False)


def _peer(config: VisionConfig, holder: _Holder) -> Callable[[Tensor, list[Grid]], Tensor]:
    """transformers' classes at the same size and dtype, attention by SDPA; weights of its own."""
    from transformers.models.kimi_k25.configuration_kimi_k25 import (
        Kimi_K25Config,
        Kimi_K25VisionConfig,
    )
    from transformers.models.kimi_k25.modeling_kimi_k25 import (
        Kimi_K25MultimodalProjection,
        Kimi_K25VisionModel,
    )

    dtype = holder.vision_tower.patch_embed.proj.weight.dtype
    vision = Kimi_K25VisionConfig(num_hidden_layers=config.vt_num_hidden_layers)
    vision._attn_implementation = "sdpa"
    text = {"model_type": "deepseek_v3", "hidden_size": config.text_hidden_size}
    whole = Kimi_K25Config(vision_config=copy.deepcopy(vision), text_config=text)
    tower = Kimi_K25VisionModel(vision).to(dtype).eval()
    projector = Kimi_K25MultimodalProjection(whole).to(dtype).eval()

    @torch.inference_mode()
    def run(patches: Tensor, grids: list[Grid]) -> Tensor:
        pixels = patches.view(-1, 3, 14, 14).to(dtype)
        pooled = tower(pixels, grid_thw=torch.tensor(grids)).pooler_output
        tokens: Tensor = projector(pooled).squeeze(1)
        return tokens

    return run


def _measure(
    config: VisionConfig,
    encoder: VisionEncoder,
    peer: Callable[[Tensor, list[Grid]], Tensor] | None,
    job: str,
    dtype: torch.dtype,
    repeats: int,
) -> Result:
    grids = JOBS[job]
    patches = torch.rand(sum(t * h * w for t, h, w in grids), config.patch_values) * 2 - 1
    encoder.encode(patches[:64], [(1, 8, 8)])  # threads and pages are there from here on
    ours, theirs, limits = [], [], []
    for _ in range(repeats):
        limits.append(_limit(dtype))
        ours.append(_timed(lambda: encoder.encode(patches, grids)))
        limits.append(_limit(dtype))
        if peer is not None:
            theirs.append(_timed(lambda: peer(patches, grids)))
    middle = [statistics.median(each) for each in zip(*ours, strict=True)]
    other = [statistics.median(each) for each in zip(*theirs, strict=True)] or [None, None]
    return Result(
        job, str(dtype).removeprefix("torch."), len(patches), middle[0], middle[1], other[0],
        other[1], _teraflop(config, grids), statistics.median(limits),
    )  # fmt: skip


def _timed(run: Callable[[], Tensor]) -> tuple[float, float]:
    started, cpu = time.perf_counter(), time.process_time()
    tokens = run()
    took = time.perf_counter() - started, time.process_time() - cpu
    assert bool(tokens.isfinite().all())
    return took


def _limit(dtype: torch.dtype) -> float:
    """GFLOP/s of the best product here of 384 x 1,152 by 1,152 x 1,152, ours or torch's."""
    x, weight = torch.randn(384, 1152), torch.randn(1152, 1152)
    matrix = NativeMatrix.from_plain_(weight.to(dtype).clone())
    x_typed, w_typed = x.to(dtype), weight.to(dtype)
    wide = torch.nn.functional.linear
    runs = [lambda: matrix.linear(x), lambda: wide(x_typed, w_typed), lambda: wide(x, weight)]
    best = float("inf")
    for run in runs[: 2 if dtype is torch.float32 else 3]:
        for _ in range(3):
            started = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - started)
    return 2 * 384 * 1152 * 1152 / best / 1e9


def _teraflop(config: VisionConfig, grids: list[Grid]) -> float:
    """Two for each multiply-add of the products and of attention."""
    width, inner = config.vt_hidden_size, config.vt_intermediate_size
    merged, blocks = config.merged_size, config.vt_num_hidden_layers
    counts = [t * h * w for t, h, w in grids]
    patch = config.patch_values * width + blocks * (4 * width * width + 2 * width * inner)
    token = merged * merged + merged * config.text_hidden_size
    attention = 2 * blocks * width * sum(n * n for n in counts)
    return 2 * (sum(counts) * patch + attention + sum(token_counts(grids)) * token) / 1e12


def _print(r: Result) -> None:
    line = (
        f"{r.job:<6}{r.dtype:<9}{r.patches:>6} patches  ours {r.ours:7.2f} s "
        f"(cpu {r.ours_cpu:.2f})  {r.share:4.0%} of {r.limit:.0f} GFLOP/s"
    )
    if r.theirs is not None and r.theirs_cpu is not None:
        good = "" if r.theirs / r.ours >= RATIO_BAR else f"  below {RATIO_BAR}"
        line += (
            f"  transformers {r.theirs:7.2f} s (cpu {r.theirs_cpu:.2f})  "
            f"ratio {r.theirs / r.ours:.2f} (cpu {r.theirs_cpu / r.ours_cpu:.2f}){good}"
        )
    print(line, flush=True)


if __name__ == "__main__":
    main()
