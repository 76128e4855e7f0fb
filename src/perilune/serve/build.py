"""From a checkpoint folder and settings to a service."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Literal, cast

from perilune.config import read_config
from perilune.engine.async_engine import AsyncEngine
from perilune.engine.load import check_options, checkpoint_identity
from perilune.errors import UsageError
from perilune.serve.media.admission import limits_of
from perilune.serve.service import Service
from perilune.serve.settings import Settings


def build_service(folder: Path, settings: Settings) -> Service:
    """An engine that is not started yet, and the service over it. Raises PeriluneError."""
    if settings.isolation not in ("process", "thread"):
        raise UsageError(f"isolation must be process or thread, not {settings.isolation!r}")
    options = settings.engine
    rows = max(options.max_batch_tokens, options.max_sequences)  # one for each answer at least
    options = replace(options, max_batch_tokens=rows, media=limits_of(settings))
    check_options(options)
    longest = read_config(folder).text.max_position_embeddings
    given = {each.name: getattr(options, each.name) for each in fields(options)}
    engine = AsyncEngine(
        folder, isolation=cast(Literal["thread", "process"], settings.isolation), **given
    )
    return Service(
        engine,
        settings,
        model_name=folder.resolve().name,
        max_context=min(options.max_context or longest, longest),
        fingerprint=checkpoint_identity(folder)[:12],
    )
