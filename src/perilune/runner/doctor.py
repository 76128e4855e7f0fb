"""The runner's lines of `perilune doctor`: what computes a step of each storage format here.

Each line asks the chooser that the engine asks, with a tiny model of that format.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch

from perilune.config import CheckpointConfig, Family, ModelConfig, RopeConfig
from perilune.formats import FORMATS
from perilune.formats.bf16 import BF16
from perilune.kernels import native
from perilune.kernels.native import Format
from perilune.model.model import KimiK2Model
from perilune.runner.select import CPU, choose_runner
from perilune.weights.stored import (
    PROJECTIONS,
    StoredExperts,
    StoredLinear,
    apply_format,
    stored_matrix,
)

TINY: Final = ModelConfig(
    vocab_size=32,
    hidden_size=128,
    num_hidden_layers=2,
    first_k_dense_replace=1,
    intermediate_size=128,
    moe_intermediate_size=128,
    n_routed_experts=2,
    num_experts_per_tok=1,
    num_attention_heads=1,
    q_lora_rank=128,
    kv_lora_rank=128,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    rope=RopeConfig(),
)


@dataclass(frozen=True, slots=True)
class RunnerCheck:
    """One line of the table (the fields that `perilune.cli.doctor` reads)."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def doctor_checks() -> Iterator[RunnerCheck]:
    """What the engine would choose for a checkpoint of each storage format."""
    for storage in FORMATS.values():
        model = KimiK2Model(TINY).to(torch.bfloat16)
        apply_format(model, CheckpointConfig(TINY, Family.K2, storage))
        kind, cause = choose_runner(model)
        if kind is CPU:
            detail = f"{kind.name}, {native.isa()}, {_activations(model)}"
        else:
            detail = f"{kind.name}: {cause}" if cause else kind.name
        yield RunnerCheck(f"runs {storage.name}", True, detail)


def _activations(model: KimiK2Model) -> str:
    """How activations are fed to the weights that are in the format, else to all."""
    stored = next(
        (part for part in model.modules() if isinstance(part, StoredLinear | StoredExperts)), None
    )
    if isinstance(stored, StoredExperts):
        tensors = stored.tensors(PROJECTIONS[0])
    else:
        tensors = dict(stored_matrix(stored or model.lm_head)[1])
    described = (BF16 if stored is None else stored.storage).native(tensors)
    assert described is not None  # the chooser has looked
    form = native.form_for(Format[described.format], exact=False)
    return f"{form.name.lower()} activations"
