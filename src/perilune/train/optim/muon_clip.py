"""One optimiser step: clip, Muon or AdamW by label, QK-Clip (arXiv 2507.20534, 2.1; 2502.16982).

Muon: M <- mu M + (1 - mu) G; O = orthogonal factor of the Nesterov look-ahead;
W <- W - lr * (0.2 * sqrt(max(A, B)) * O + decay * W), with A x B the shape of the matrix that is
orthogonalised (one head, one expert), so that an update has the root mean square 0.2 of AdamW's.
Matrices of one shape are orthogonalised together, in one batched product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from perilune.model.layer import DecoderLayer
from perilune.model.model import KimiK2Model
from perilune.train.config import OptimConfig
from perilune.train.optim.newton_schulz import orthogonalise
from perilune.train.optim.parameters import parameter_table
from perilune.train.optim.qk_clip import clip_attention
from perilune.train.parallel import cut_like, local, whole

MATCHED_RMS = 0.2  # root mean square of a Muon update, as AdamW's is in practice

STACK_VALUES = 2**19  # values that a CPU thread orthogonalises at a time


@dataclass(slots=True)
class StepReport:
    """What a step did."""

    grad_norm: float = 0.0
    update_rms: dict[str, float] = field(default_factory=dict)
    """Root mean square of the update of each Muon parameter before the learning rate."""
    clipped_heads: int = 0
    max_logit: list[float] = field(default_factory=list)
    """Largest attention score of each layer."""


class MuonClip:
    """Steps the masters of `parameters`, then copies them to the values of the network."""

    def __init__(self, model: KimiK2Model, config: OptimConfig) -> None:
        self.model, self.config = model, config
        self.parameters = parameter_table(model)
        self.steps = 0
        self.state: dict[str, Tensor] = {}
        for p in self.parameters:
            for kind in ("momentum",) if p.label.muon else ("exp_avg", "exp_avg_sq"):
                self.state[f"{kind}.{p.name}"] = torch.zeros_like(p.master)
        shapes: dict[tuple[int, int], list[int]] = {}
        for i, p in enumerate(self.parameters):
            if p.label.muon:
                shapes.setdefault(p.block_shape, []).append(i)
        self._stacks = [part for stack in shapes.values() for part in self._parts(stack)]
        self._adamw = [i for i, p in enumerate(self.parameters) if not p.label.muon]

    def _parts(self, indices: Sequence[int]) -> Iterator[list[int]]:
        """Cut a stack into parts that stay in a CPU's cache and keep all threads busy."""
        if self.parameters[0].master.device.type != "cpu":
            yield list(indices)
            return
        part: list[int] = []
        values = 0
        for i in indices:
            part.append(i)
            values += self.parameters[i].master.numel()
            if values >= STACK_VALUES:
                yield part
                part, values = [], 0
        if part:
            yield part

    @torch.no_grad()
    def step(
        self,
        gradients: Sequence[Tensor],
        scale: float,
        max_logit_LH: Sequence[Tensor] = (),
        executor: Executor | None = None,
    ) -> StepReport:
        """One step at `scale` times the configured learning rates.

        `gradients` are raw, in the order of `parameters`, and are overwritten. `max_logit_LH` is
        the largest attention score since the last step, [H] a layer. Nothing is changed where a
        gradient is not finite: the norm in the report says so.
        """
        norms = [whole(g.norm()) for g in gradients]
        norm = float(torch.linalg.vector_norm(torch.stack(norms)))
        report = StepReport(grad_norm=norm)
        if not math.isfinite(norm):
            return report
        if norm > self.config.clip_norm:
            torch._foreach_mul_(list(gradients), self.config.clip_norm / norm)
        self.steps += 1
        jobs = [(self._muon, stack) for stack in self._stacks] + [(self._adam, self._adamw)]
        run = map if executor is None else executor.map
        for rms in run(lambda job: job[0](job[1], gradients, scale), jobs):
            report.update_rms.update(rms)
        report.max_logit = [float(m.max()) for m in max_logit_LH]
        if self.config.qk_clip is not None and max_logit_LH:
            for layer, max_H in zip(self.model.model.layers, max_logit_LH, strict=True):
                assert isinstance(layer, DecoderLayer)
                report.clipped_heads += clip_attention(layer.self_attn, max_H, self.config.qk_clip)
        self.publish()
        return report

    @torch.no_grad()
    def publish(self) -> None:
        """Make the network's rounded copies from their masters."""
        for p in self.parameters:
            if p.rounding is not None:
                local(p.value).copy_(p.rounding(local(p.master)))

    def _muon(
        self, indices: Sequence[int], gradients: Sequence[Tensor], scale: float
    ) -> dict[str, float]:
        config, lr = self.config, self.config.lr * scale
        look_ahead = []
        for i in indices:
            p, gradient = self.parameters[i], gradients[i]
            momentum = self.state[f"momentum.{p.name}"]
            momentum.lerp_(gradient, 1 - config.momentum)
            look_ahead.append(p.as_blocks(whole(gradient.lerp_(momentum, config.momentum))))
        orthogonal = orthogonalise(
            torch.cat(look_ahead), method=config.method, steps=config.steps, snap=config.snap
        )
        rms, begin = {}, 0
        for i in indices:
            p = self.parameters[i]
            update = orthogonal[begin : begin + p.blocks]
            begin += p.blocks
            factor = MATCHED_RMS * math.sqrt(max(p.block_shape))
            rms[p.name] = factor * float(update.norm()) / math.sqrt(p.master.numel())
            step = cut_like(update.reshape(p.master.shape), p.master)
            p.master.mul_(1 - lr * config.weight_decay).add_(step, alpha=-lr * factor)
        return rms

    def _adam(
        self, indices: Sequence[int], gradients: Sequence[Tensor], scale: float
    ) -> dict[str, float]:
        config, lr = self.config, self.config.adamw_lr * scale
        beta1, beta2 = config.adamw_betas
        correction1, correction2 = 1 - beta1**self.steps, 1 - beta2**self.steps
        for i in indices:
            p, gradient = self.parameters[i], gradients[i]
            average = self.state[f"exp_avg.{p.name}"].lerp_(gradient, 1 - beta1)
            square = self.state[f"exp_avg_sq.{p.name}"]
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            if p.master.dim() > 1:  # norms are not decayed
                p.master.mul_(1 - lr * config.weight_decay)
            denominator = (square / correction2).sqrt_().add_(config.adamw_eps)
            p.master.addcdiv_(average, denominator, value=-lr / correction1)
        return {}
