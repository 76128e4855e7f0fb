"""The training loop of a stage: documents -> gradients -> step -> biases -> metrics -> checkpoint.

It ends when the schedule does, when its minutes are over, or on SIGTERM or SIGINT: each time with
a checkpoint, from which `resume` goes on as if nothing had happened. A loss or gradient that is not
finite stops it without one, so the last checkpoint is from before.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import torch

from perilune.errors import TrainingError, UsageError
from perilune.model.model import KimiK2Model
from perilune.train.balance import dead_experts, max_violation, update_biases
from perilune.train.batch import RaggedBatch, collate, split_documents
from perilune.train.checkpoint import Progress, checkpoints, load_checkpoint, save_checkpoint
from perilune.train.config import DataConfig, StageConfig
from perilune.train.data.document import Document
from perilune.train.data.mixture import Mixture, MixtureSpec
from perilune.train.data.sources import HELD_OUT
from perilune.train.data.stream import DocumentStream
from perilune.train.metrics import MetricsLog, source_metrics
from perilune.train.optim.muon_clip import MuonClip
from perilune.train.replicas import Replicas, StepGradients
from perilune.train.schedule import bias_rate, learning_rate_scale

Observer = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call of `run_stage` ended: `finished`, `time` or `signal`."""

    ended: str
    progress: Progress
    checkpoint: Path


def mixture_spec(data: DataConfig, tokenizer: str | Path | None) -> MixtureSpec:
    """The documents of a stage, as its worker processes are told."""
    return MixtureSpec(
        tuple((s.name, s.weight, s.options) for s in data.sources),
        data.seed,
        None if tokenizer is None else Path(tokenizer),
    )


def run_stage(
    model: KimiK2Model,
    stage: StageConfig,
    folder: Path,
    *,
    replicas: Replicas,
    optimizer: MuonClip,
    tokenizer: str | Path | None = None,
    minutes: float | None = None,
    resume: bool = False,
    observe: Observer = lambda _: None,
) -> Outcome:
    """Train `model` by one stage; checkpoints and metrics go to `folder`.

    Raises UsageError (a run is there and `resume` was not given), TrainingError, DiskFullError.
    """
    started = time.monotonic()
    found = checkpoints(folder)
    if found and not resume:
        raise UsageError(
            f"{folder} holds a run already", remedy="Go on with --resume, or remove the folder"
        )
    progress = load_checkpoint(found[-1], optimizer) if found else Progress()
    log = MetricsLog(folder, steps_done=progress.step)
    spec = mixture_spec(stage.data, tokenizer)
    held_out = _held_out(spec, stage) if stage.eval_every else []
    config = msgspec.to_builtins(stage)

    def save() -> Path:
        return save_checkpoint(
            folder, optimizer, progress, keep=stage.keep_checkpoints, config=config
        )

    last_saved = time.monotonic()
    with (
        _signals() as asked_to_stop,
        DocumentStream(spec, start=progress.position, workers=stage.data.workers) as stream,
    ):
        while True:
            if progress.step >= stage.schedule.total_steps:
                ended, progress.finished = "finished", True
                break
            if asked_to_stop():
                ended = "signal"
                break
            if minutes is not None and time.monotonic() - started >= minutes * 60:
                ended = "time"
                break
            values = _step(stream, stage, optimizer, replicas, progress)
            if held_out and progress.step % stage.eval_every == 0:
                values["eval"] = evaluate(replicas, held_out, stage)
            log.write(values)
            observe(values)
            if time.monotonic() - last_saved >= stage.checkpoint_minutes * 60:
                save()
                last_saved = time.monotonic()
    return Outcome(ended, progress, save())


def _step(
    stream: DocumentStream,
    stage: StageConfig,
    optimizer: MuonClip,
    replicas: Replicas,
    progress: Progress,
) -> dict[str, Any]:
    """One optimiser step; moves `progress` on and returns the metrics."""
    begin = time.monotonic()
    documents, skipped = draw(stream, stage.tokens_per_step, stage.data.max_tokens)
    parts, batches = micro_batches(documents, stage.micro_tokens, replicas.threads)
    drawn = time.monotonic()
    result = replicas.gradients(batches, stage.balance.loss_factor)
    computed = time.monotonic()
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
    tokens, trained = sum(b.tokens for b in batches), sum(b.trained for b in batches)
    progress.step += 1
    progress.position = stream.position
    progress.tokens += tokens
    progress.trained_tokens += trained
    seconds = time.monotonic() - begin
    progress.seconds += seconds
    rms = report.update_rms
    return {
        "step": progress.step,
        "tokens": progress.tokens,
        "documents": len(documents),
        "skipped": skipped,
        "loss": result.loss,
        "accuracy": _mean_right(result),
        "balance_loss": result.balance_loss,
        "lr": stage.optim.lr * scale,
        "grad_norm": report.grad_norm,
        "update_rms_min": min(rms.values(), default=0.0),
        "update_rms_max": max(rms.values(), default=0.0),
        "update_rms_lowest": min(rms, key=lambda name: rms[name], default=""),
        "max_logit": report.max_logit,
        "clipped_heads": report.clipped_heads,
        "max_violation": [max_violation(load) for load in result.load_LE],
        "dead_experts": sum(dead_experts(load) for load in result.load_LE),
        "seconds": seconds,
        "seconds_data": drawn - begin,
        "seconds_optimizer": begin + seconds - computed,
        "tokens_per_second": tokens / seconds,
        "elapsed": progress.seconds,
        "sources": source_metrics(parts, batches, list(zip(result.nll, result.right, strict=True))),
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
    documents: Sequence[Document], micro_tokens: int, threads: int
) -> tuple[list[list[Document]], list[RaggedBatch]]:
    """Documents in parts of about `micro_tokens`, a multiple of `threads` of them, and collated."""
    tokens = sum(len(d.ids) for d in documents)
    count = max(1, round(tokens / (micro_tokens * threads))) * threads
    parts = [part for part in split_documents(documents, count) if part]
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
    right = torch.cat(result.right)
    return float(right.float().mean()) if len(right) else 0.0


def _not_finite(what: str, step: int) -> TrainingError:
    return TrainingError(
        f"{what} of step {step + 1} is not a finite number; nothing was changed by it",
        remedy="Lower the learning rates and go on from the last checkpoint with --resume",
    )


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or SIGINT came; a second SIGINT interrupts at once."""
    asked: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        old = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: the caller has the signals
        old = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
