"""Gradients of one step's micro-batches, on several threads of a CPU or one device.

On a small CPU two threads that each compute a micro-batch with single-threaded products are faster
than one that splits every product: there is one meeting a step instead of thousands, and a busy
neighbour costs one thread a moment, not both. Which thread computes what, and the order of the
sums, are fixed, so a step is reproducible.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from perilune.model.model import KimiK2Model
from perilune.train.batch import RaggedBatch
from perilune.train.network import Measured, token_losses
from perilune.train.optim.parameters import Parameter

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
    ) -> None:
        self.model, self.dtype = model, dtype
        self.device = model.lm_head.weight.device
        self.threads = threads if self.device.type == "cpu" else 1
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
        jobs = list(zip(batches, losses, strict=True))
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
        gradients = done[0][0].gradients
        for other in done[1:]:
            torch._foreach_add_(gradients, other[0].gradients)
        # Back in the order of the batches.
        flat = [done[i % len(done)][i // len(done)] for i in range(len(batches))]
        measured = [one.measured for one in flat]
        return StepGradients(
            gradients=gradients,
            loss=sum(float(one.nll.sum()) for one in flat) / trained,
            balance_loss=sum(_number(m.balance_loss) for m in measured) / documents,
            load_LE=[sum(ls[1:], ls[0]) for ls in zip(*(m.load_LE for m in measured), strict=True)],
            max_logit_LH=[
                torch.stack(ms).amax(0)
                for ms in zip(*(m.max_logit_LH for m in measured), strict=True)
            ],
            nll=[one.nll for one in flat],
            right=[one.right for one in flat],
        )

    def _one(self, batch: RaggedBatch, token_loss: TokenLoss, balance_factor: float) -> _Part:
        measured = Measured(self.dtype)
        nll_M, right_M = token_losses(self.model, batch, measured)
        loss = token_loss(nll_M)
        if measured.balance_loss is not None:
            loss = loss + balance_factor * measured.balance_loss
        gradients = list(torch.autograd.grad(loss, self._values))
        return _Part(gradients, measured, nll_M.detach(), right_M)

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
