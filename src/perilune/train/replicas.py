"""Gradients of one step's micro-batches, on several threads of a CPU or one device.

On a small CPU two threads that each compute a micro-batch with single-threaded products are faster
than one that splits every product: there is one meeting a step instead of thousands, and a busy
busy process costs one thread a moment, not both. Which thread computes what, and the order of the
sums, are fixed, so a step is reproducible.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from perilune.errors import UsageError
from perilune.model.model import KimiK2Model
from perilune.train.balance import routers_of
from perilune.train.batch import RaggedBatch
from perilune.train.network import Measured, token_losses
from perilune.train.optim.parameters import Parameter
from perilune.train.parallel import World

TokenLoss = Callable[[Tensor], Tensor]


@dataclass(slots=True)
class StepGradients:
    """Sums over the micro-batches of a step."""

    gradients: list[Tensor]
    loss: float
    """Mean negative log likelihood of the trained tokens, in nats."""
    balance_loss: float
    load_LE: list[Tensor]
    max_logit_LH: list[Tensor]
    nll: list[Tensor] = field(default_factory=list)
    """A micro-batch's trained tokens, in order of `RaggedBatch.rows_M`."""
    right: list[Tensor] = field(default_factory=list)


class Replicas:
    """Computes gradients; `executor` runs other work on the same threads (None: one thread)."""

    def __init__(
        self,
        model: KimiK2Model,
        parameters: Sequence[Parameter],
        *,
        threads: int = 1,
        dtype: torch.dtype = torch.float32,
        world: World | None = None,
    ) -> None:
        self.model, self.dtype, self.world = model, dtype, world or World()
        self.device = model.lm_head.weight.device
        one = self.device.type != "cpu" or self.world.sharded
        self.threads = 1 if one else threads
        self._values = [p.value for p in parameters]
        self.executor: Executor | None = None
        if self.threads > 1:
            torch.set_num_threads(1)
            self.executor = ThreadPoolExecutor(self.threads, "replica", _single_threaded)

    def gradients(
        self,
        batches: Sequence[RaggedBatch],
        balance_factor: float = 0.0,
        losses: Sequence[TokenLoss] | None = None,
    ) -> StepGradients:
        """Gradients of mean loss over all trained tokens plus the balance loss of the documents.

        `losses` gives each batch another loss than that: negative log likelihoods [M] -> scalar.
        """
        trained = max(sum(b.trained for b in batches), 1)
        documents = max(sum(len(b.documents) for b in batches), 1)
        if losses is None:
            losses = [lambda nll_M: nll_M.sum() / trained] * len(batches)
        if self.world.sharded and len(batches) % self.world.size:
            raise UsageError(
                f"{len(batches)} micro-batches do not divide among {self.world.size} processes, "
                "which sharded parameters need",
                remedy="Raise tokens_per_step, so that a step has enough documents",
            )
        jobs = list(zip(batches, losses, strict=True))
        jobs = jobs[self.world.rank :: self.world.size]
        parts = [jobs[r :: self.threads] for r in range(self.threads)]

        def work(part: Sequence[tuple[RaggedBatch, TokenLoss]]) -> list[_Part]:
            out: list[_Part] = []
            for batch, loss in part:
                one = self._one(batch.to(self.device), loss, balance_factor / documents)
                if out:  # the sum stays in the first one's tensors
                    torch._foreach_add_(out[0].gradients, one.gradients)
                    one.gradients = []
                out.append(one)
            return out

        run = map if self.executor is None else self.executor.map
        done = list(run(work, [part for part in parts if part]))
        if done:
            gradients = done[0][0].gradients
            for other in done[1:]:
                torch._foreach_add_(gradients, other[0].gradients)
        else:  # fewer micro-batches than processes
            gradients = [torch.zeros_like(value) for value in self._values]
        # Back in the order of the batches.
        flat = [done[i % len(done)][i // len(done)] for i in range(len(jobs))]
        return self._exchanged(gradients, flat, trained, documents)

    def _exchanged(
        self, gradients: list[Tensor], flat: Sequence[_Part], trained: int, documents: int
    ) -> StepGradients:
        """Sums over all processes; `nll` and `right` stay those of this one's micro-batches."""
        blocks, layers = len(routers_of(self.model)), len(self.model.model.layers)
        config = self.model.config
        load_LE = [torch.zeros(config.n_routed_experts, device=self.device) for _ in range(blocks)]
        max_logit_LH = [
            torch.full((config.num_attention_heads,), -torch.inf, device=self.device)
            for _ in range(layers)
        ]
        sums = torch.zeros(2, dtype=torch.float64)
        for one in flat:
            for load, more in zip(load_LE, one.measured.load_LE, strict=True):
                load += more
            for logit, other in zip(max_logit_LH, one.measured.max_logit_LH, strict=True):
                torch.maximum(logit, other, out=logit)
            sums += torch.tensor([float(one.nll.sum()), _number(one.measured.balance_loss)])
        totals = sums.float().to(self.device) if self.world.size > 1 else sums
        if not self.world.sharded:  # FSDP has added the gradients up already
            self.world.sum(gradients)
        self.world.sum([totals, *load_LE])
        self.world.maximum(max_logit_LH)
        return StepGradients(
            gradients=gradients,
            loss=float(totals[0]) / trained,
            balance_loss=float(totals[1]) / documents,
            load_LE=load_LE,
            max_logit_LH=max_logit_LH,
            nll=[one.nll for one in flat],
            right=[one.right for one in flat],
        )

    def _one(self, batch: RaggedBatch, token_loss: TokenLoss, balance_factor: float) -> _Part:
        measured = Measured(self.dtype)
        nll_M, right_M = token_losses(self.model, batch, measured)
        loss = token_loss(nll_M)
        if measured.balance_loss is not None:
            loss = loss + balance_factor * measured.balance_loss
        if self.world.sharded:
            # FSDP divides the sum over the processes by their number.
            (loss * self.world.size).backward()  # type: ignore[no-untyped-call]
            gradients = []
            for value in self._values:
                assert value.grad is not None
                gradients.append(value.grad)
                value.grad = None
        else:
            gradients = list(torch.autograd.grad(loss, self._values))
        return _Part(gradients, measured, nll_M.detach(), right_M)

    @property
    def workers(self) -> int:
        """Micro-batches that are computed side by side, over all processes."""
        return self.threads * self.world.size

    @torch.no_grad()
    def losses(self, batches: Sequence[RaggedBatch]) -> list[tuple[Tensor, Tensor]]:
        """(negative log likelihoods, right or not) of each batch's trained tokens."""

        def work(batch: RaggedBatch) -> tuple[Tensor, Tensor]:
            with torch.no_grad():  # it is set for each thread of its own
                return token_losses(self.model, batch.to(self.device), Measured(self.dtype))

        run = map if self.executor is None else self.executor.map
        return list(run(work, batches))

    def close(self) -> None:
        if self.executor is not None:
            self.executor.shutdown()


@dataclass(slots=True)
class _Part:
    gradients: list[Tensor]
    measured: Measured
    nll: Tensor
    right: Tensor


def _number(x: Tensor | None) -> float:
    return 0.0 if x is None else float(x.detach())


def _single_threaded() -> None:
    torch.set_num_threads(1)
