"""From a checkpoint folder and settings to a service."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

from perilune.config import read_config
from perilune.engine.async_engine import AsyncEngine
from perilune.engine.load import checkpoint_identity
from perilune.errors import UsageError
from perilune.runner.cpu.runner import check_dense_format
from perilune.serve.service import Service
from perilune.serve.settings import Settings


def build_service(folder: Path, settings: Settings) -> Service:
    """An engine that is not started yet, and the service over it. Raises PeriluneError."""
    if settings.isolation not in ("process", "thread"):
        raise UsageError(f"isolation must be process or thread, not {settings.isolation!r}")
    check_dense_format(settings.dense_format)
    longest = read_config(folder).text.max_position_embeddings
    options: dict[str, Any] = {
        name: getattr(settings, name)
        for name in (
            "exact", "dense_format", "expanded_prefill", "cache_tokens", "max_context",
            "max_batch_tokens", "max_sequences", "speculative_tokens", "seed",
        )
    }  # fmt: skip
    options["max_batch_tokens"] = max(settings.max_batch_tokens, settings.max_sequences)
    engine = AsyncEngine(
        folder, isolation=cast(Literal["thread", "process"], settings.isolation), **options
    )
    return Service(
        engine,
        settings,
        model_name=folder.resolve().name,
        max_context=min(settings.max_context or longest, longest),
        fingerprint=checkpoint_identity(folder)[:12],
    )
