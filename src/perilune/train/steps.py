"""A supervised step: draw documents, compute gradients, step, move the biases, tell.

`apply` is the second half, which reinforcement learning shares.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from perilune.errors import TrainingError
from perilune.train.balance import dead_experts, max_violation, update_biases
from perilune.train.batch import RaggedBatch, collate, split_documents
from perilune.train.checkpoint import Progress
from perilune.train.config import DataConfig, StageConfig
from perilune.train.data.document import Document
from perilune.train.data.mixture import Mixture, MixtureSpec
from perilune.train.data.sources import HELD_OUT
from perilune.train.data.stream import DocumentStream
from perilune.train.loop import Step
from perilune.train.metrics import source_metrics
from perilune.train.optim.muon_clip import MuonClip
from perilune.train.replicas import Replicas, StepGradients
from perilune.train.schedule import bias_rate, learning_rate_scale


def mixture_spec(data: DataConfig, tokenizer: str | Path | None) -> MixtureSpec:
    """The documents of a stage, as its worker processes are told."""
    return MixtureSpec(
        tuple((s.name, s.weight, s.options) for s in data.sources),
        data.seed,
        None if tokenizer is None else Path(tokenizer),
    )


@contextmanager
def supervised_step(
    stage: StageConfig,
    optimizer: MuonClip,
    replicas: Replicas,
    tokenizer: str | Path | None,
    progress: Progress,
) -> Iterator[Step]:
    """Steps over the documents of the stage's mixture, from where `progress` is."""
    spec = mixture_spec(stage.data, tokenizer)
    held_out = _held_out(spec, stage) if stage.eval_every else []
    with DocumentStream(spec, start=progress.position, workers=stage.data.workers) as stream:

        def step() -> dict[str, Any]:
            begin = time.monotonic()
            documents, skipped = draw(stream, stage.tokens_per_step, stage.data.max_tokens)
            parts, batches = micro_batches(documents, stage.micro_tokens, replicas.workers)
            drawn = time.monotonic()
            result = replicas.gradients(batches, stage.balance.loss_factor)
            values = apply(result, stage, optimizer, replicas, progress)
            mine = parts[replicas.world.rank :: replicas.world.size]
            own = batches[replicas.world.rank :: replicas.world.size]
            results = list(zip(result.nll, result.right, strict=True))
            progress.position = stream.position
            values |= count(batches, progress, begin)
            values |= {
                "documents": len(documents),
                "skipped": skipped,
                "seconds_data": drawn - begin,
                "sources": source_metrics(mine, own, results),
            }
            if held_out and progress.step % stage.eval_every == 0:  # each process the same
                values["eval"] = evaluate(replicas, held_out, stage)
            return values

        yield step


def apply(
    result: StepGradients,
    stage: StageConfig,
    optimizer: MuonClip,
    replicas: Replicas,
    progress: Progress,
) -> dict[str, Any]:
    """Step the optimiser by the gradients and the biases by the load; `progress.step` goes on.

    Raises TrainingError where the loss or the gradient is not finite, before anything changed.
    """
    begin = time.monotonic()
    scale = learning_rate_scale(stage.schedule, progress.step)
    rate = bias_rate(stage.balance, progress.step, stage.schedule.total_steps)
    if not math.isfinite(result.loss):
        raise _not_finite("the loss", progress.step)
    report = optimizer.step(
        result.gradients, scale, result.max_logit_LH, executor=replicas.executor
    )
    if not math.isfinite(report.grad_norm):
        raise _not_finite("the gradient", progress.step)
    update_biases(optimizer.model, result.load_LE, rate)
    progress.step += 1
    rms = report.update_rms
    return {
        "step": progress.step,
        "loss": result.loss,
        "accuracy": _mean_right(result),
        "balance_loss": result.balance_loss,
        "lr": stage.optim.lr * scale,
        "bias_rate": rate,
        "grad_norm": report.grad_norm,
        "update_rms_min": min(rms.values(), default=0.0),
        "update_rms_max": max(rms.values(), default=0.0),
        "update_rms_lowest": min(rms, key=lambda name: rms[name], default=""),
        "max_logit": report.max_logit,
        "clipped_heads": report.clipped_heads,
        "max_violation": [max_violation(load) for load in result.load_LE],
        "dead_experts": sum(dead_experts(load) for load in result.load_LE),
        "seconds_optimizer": time.monotonic() - begin,
    }


def count(batches: Sequence[RaggedBatch], progress: Progress, begin: float) -> dict[str, Any]:
    """Move the counters of `progress` on by a step's batches; returns them and the speed."""
    tokens, seconds = sum(b.tokens for b in batches), time.monotonic() - begin
    progress.tokens += tokens
    progress.trained_tokens += sum(b.trained for b in batches)
    progress.seconds += seconds
    return {
        "tokens": progress.tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "elapsed": progress.seconds,
    }


def draw(stream: Iterator[Document], tokens: int, longest: int) -> tuple[list[Document], int]:
    """Documents until `tokens` are to be computed, headers once; how many were too long."""
    documents: list[Document] = []
    headers: set[tuple[int, ...]] = set()
    count = skipped = 0
    while count < tokens:
        document = next(stream)
        if document.length > longest:
            skipped += 1
            if skipped > 1000 and not documents:
                raise TrainingError(
                    f"every document is longer than max_tokens ({longest})",
                    remedy="Raise data.max_tokens, or make shorter documents",
                )
            continue
        header = tuple(document.header)
        count += len(document.ids) + (len(header) if header not in headers else 0)
        headers.add(header)
        documents.append(document)
    return documents, skipped


def micro_batches(
    documents: Sequence[Document], micro_tokens: int, workers: int
) -> tuple[list[list[Document]], list[RaggedBatch]]:
    """Documents in parts of about `micro_tokens`, and collated.

    A multiple of `workers` of them, so that none of those who compute side by side waits, unless
    there are fewer documents than that.
    """
    tokens = sum(len(d.ids) for d in documents)
    count = max(1, round(tokens / (micro_tokens * workers))) * workers
    parts = [part for part in split_documents(documents, count) if part]
    while len(parts) % workers:
        at = max(range(len(parts)), key=lambda i: len(parts[i]))
        middle = len(parts[at]) // 2
        if middle:
            parts[at : at + 1] = [parts[at][:middle], parts[at][middle:]]
        elif len(parts) > workers:  # a document each: some take two
            for i in range(len(parts) % workers):
                parts[i : i + 2] = [[*parts[i], *parts[i + 1]]]
        else:
            break
    return parts, [collate(part) for part in parts]


def evaluate(
    replicas: Replicas, documents: Sequence[Document], stage: StageConfig
) -> dict[str, dict[str, float]]:
    """Teacher-forced metrics by source over documents that are never trained on."""
    parts, batches = micro_batches(documents, stage.micro_tokens, replicas.threads)
    return source_metrics(parts, batches, replicas.losses(batches))


def _held_out(spec: MixtureSpec, stage: StageConfig) -> list[Document]:
    mixture = Mixture(spec)
    drawn = (mixture(HELD_OUT + i) for i in range(stage.eval_documents))
    return [d for d in drawn if d.length <= stage.data.max_tokens]


def _mean_right(result: StepGradients) -> float:
    right = torch.cat(result.right) if result.right else torch.zeros(0)
    return float(right.float().mean()) if len(right) else 0.0


def _not_finite(what: str, step: int) -> TrainingError:
    return TrainingError(
        f"{what} of step {step + 1} is not a finite number; nothing was changed by it",
        remedy="Lower the learning rates and go on from the last checkpoint with --resume",
    )
