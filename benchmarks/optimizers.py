"""MuonClip against AdamW, QK-Clip on and off, INT4 training against rounding afterwards.

Same model, data, order and tokens for all. The data are those of a run's configuration
(`--config run.toml --stage pretrain`) or, without one, the copy task. Each optimiser takes the
best of its learning rates by the mean training loss of the last tenth of the steps.

    python benchmarks/optimizers.py --steps 300 --json > optimizers.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch

from perilune.model import KimiK2Model
from perilune.train.balance import update_biases
from perilune.train.batch import RaggedBatch
from perilune.train.config import (
    DataConfig,
    ModelShape,
    OptimConfig,
    ScheduleConfig,
    SourceConfig,
    read_run_config,
)
from perilune.train.data.sources import HELD_OUT
from perilune.train.data.stream import DocumentStream
from perilune.train.initialise import initialise
from perilune.train.metrics import source_metrics
from perilune.train.optim.muon_clip import MuonClip
from perilune.train.qat import start_qat
from perilune.train.replicas import Replicas
from perilune.train.schedule import learning_rate_scale
from perilune.train.steps import draw, micro_batches, mixture_spec

SMALL = ModelShape(
    vocab_size=320, hidden_size=96, num_hidden_layers=3, intermediate_size=192,
    moe_intermediate_size=32, n_routed_experts=8, num_experts_per_tok=2, num_attention_heads=4,
    q_lora_rank=48, kv_lora_rank=48, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=24,
)  # fmt: skip
COPY = DataConfig(
    workers=0,
    sources=[SourceConfig(name="copy", options={"vocabulary": 64, "longest": 16, "header": 8})],
)
LAST = 0.1  # share of the steps whose mean loss counts
MUON_RATES = (1e-3, 3e-3, 1e-2)
ADAMW_RATES = (5e-4, 2e-3, 6e-3)


class Trial:
    """One training run from the same weights over the same documents."""

    def __init__(self, options: argparse.Namespace, shape: ModelShape, data: DataConfig) -> None:
        self._options, self._shape, self._data = options, shape, data
        self._schedule = ScheduleConfig(
            total_steps=options.steps, warmup_steps=max(1, options.steps // 20),
            decay_steps=options.steps // 2,
        )  # fmt: skip

    def __call__(self, config: OptimConfig, *, muon: bool = True, qat_from: float = 2.0) -> dict:
        """Losses of all steps, seconds, largest score, and the held-out metrics at the end.

        `qat_from`: the fraction of the steps after which experts are rounded to INT4.
        """
        options = self._options
        model = KimiK2Model(self._shape.model_config())
        initialise(model, 0)
        optimizer = MuonClip(model, config)
        adamw = torch.optim.AdamW(
            [p.value for p in optimizer.parameters], lr=config.lr, betas=(0.9, 0.95),
            weight_decay=config.weight_decay,
        )  # fmt: skip
        replicas = Replicas(model, optimizer.parameters, threads=options.threads)
        losses: list[float] = []
        clipped, largest, began = 0, 0.0, time.process_time()
        spec = mixture_spec(self._data, options.tokenizer)
        with DocumentStream(spec, workers=self._data.workers) as stream:
            for step in range(options.steps):
                if step == int(qat_from * options.steps):
                    start_qat(optimizer)
                documents, _ = draw(stream, options.tokens, self._data.max_tokens)
                _, batches = micro_batches(documents, 2048, replicas.workers)
                result = replicas.gradients(batches, 1e-4)
                scale = learning_rate_scale(self._schedule, step)
                if muon:
                    report = optimizer.step(result.gradients, scale, result.max_logit_LH)
                    clipped += report.clipped_heads
                else:
                    self._adamw(adamw, result.gradients, config.lr * scale)
                update_biases(model, result.load_LE, 3e-3)
                losses.append(result.loss)
                largest = max(largest, *(float(m.max()) for m in result.max_logit_LH))
        seconds = time.process_time() - began
        out = {
            "losses": losses, "last": _last(losses), "cpu_seconds": seconds,
            "largest_score": largest, "clipped_heads": clipped,
            "held_out": self._held_out(replicas),
        }  # fmt: skip
        with torch.no_grad():
            start_qat(optimizer)
        out["held_out_int4"] = self._held_out(replicas)
        replicas.close()
        return out

    def _adamw(
        self, adamw: torch.optim.Optimizer, gradients: Sequence[torch.Tensor], rate: float
    ) -> None:
        for group in adamw.param_groups:
            group["lr"] = rate
            for value, gradient in zip(group["params"], gradients, strict=True):
                value.grad = gradient
        torch.nn.utils.clip_grad_norm_(adamw.param_groups[0]["params"], 1.0)
        adamw.step()
        adamw.zero_grad()

    def _held_out(self, replicas: Replicas) -> dict[str, dict[str, float]]:
        spec = mixture_spec(self._data, self._options.tokenizer)
        with DocumentStream(spec, start=HELD_OUT) as stream:
            documents = list(islice(stream, self._options.held_out))
        parts, batches = micro_batches(documents, 2048, replicas.workers)
        batches_: list[RaggedBatch] = batches
        return source_metrics(parts, batches_, replicas.losses(batches_))


def _last(losses: Sequence[float]) -> float:
    count = max(1, int(len(losses) * LAST))
    return sum(losses[-count:]) / count


def _steps_to(losses: Sequence[float], target: float) -> int | None:
    """The first step from which the mean of ten is at or below `target`."""
    for end in range(10, len(losses) + 1):
        if sum(losses[end - 10 : end]) / 10 <= target:
            return end
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, help="a run's TOML file; default: the copy task")
    parser.add_argument("--stage", default="pretrain")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=4096, help="a step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--held-out", type=int, default=200)
    parser.add_argument("--qk-clip", type=float, default=10.0, help="the low threshold")
    parser.add_argument("--rates", type=int, default=3, help="learning rates an optimiser")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shape, data, options.tokenizer = SMALL, COPY, None
    if options.config:
        run = read_run_config(options.config)
        shape, data = run.model, run.stages[options.stage].data
        options.tokenizer = run.tokenizer
    trial = Trial(options, shape, data)

    results: dict[str, dict] = {}
    for rate in MUON_RATES[: options.rates]:
        results[f"muonclip {rate:g}"] = trial(OptimConfig(lr=rate, adamw_lr=rate))
    for rate in ADAMW_RATES[: options.rates]:
        results[f"adamw {rate:g}"] = trial(OptimConfig(lr=rate), muon=False)
    best = {
        kind: min((n for n in results if n.startswith(kind)), key=lambda n: results[n]["last"])
        for kind in ("muonclip", "adamw")
    }
    rate = float(best["muonclip"].split()[1])
    low = OptimConfig(lr=rate, adamw_lr=rate, qk_clip=options.qk_clip)
    results[f"muonclip {rate:g}, qk_clip {options.qk_clip:g}"] = trial(low)
    off = OptimConfig(lr=rate, adamw_lr=rate, qk_clip=None)
    results[f"muonclip {rate:g}, no clip"] = trial(off)
    results[f"muonclip {rate:g}, INT4 from 80 %"] = trial(
        OptimConfig(lr=rate, adamw_lr=rate), qat_from=0.8
    )
    target = results[best["adamw"]]["last"]
    reached = _steps_to(results[best["muonclip"]]["losses"], target)
    if options.json:
        print(json.dumps({"best": best, "steps_to_adamw": reached, "results": results}))
        return
    print(f"{options.steps} steps of {options.tokens} tokens")
    for name, one in results.items():
        exact, exact4 = (
            sum(m["exact"] for m in one[key].values()) / len(one[key])
            for key in ("held_out", "held_out_int4")
        )
        print(
            f"{name:<34} loss {one['last']:.4f}  exact {exact:6.1%}  INT4 {exact4:6.1%}  "
            f"largest score {one['largest_score']:6.1f}  clipped {one['clipped_heads']:>5}  "
            f"{one['cpu_seconds']:.0f} s"
        )
    print(f"best: {best['muonclip']} and {best['adamw']}; the first is at the second's last loss")
    print(f"after {reached} of {options.steps} steps")


if __name__ == "__main__":
    main()
