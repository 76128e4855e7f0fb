"""Tiny checkpoints on disk, and the reference that the engine is held against."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from perilune.cli.models import new
from perilune.config import Family
from perilune.formats import StorageFormat
from perilune.formats.bf16 import BF16
from perilune.kernels import native
from perilune.model.model import KimiK2Model

VOCAB = 768

# Ways to compute a step; the C kernels only where they are there.
FORWARDS = ["torch", "native"] if native.available() else ["torch"]


def write_tiny(folder: Path, storage: StorageFormat = BF16) -> Path:
    """A K2.5 of toy width with random weights and a tokenizer, 262,144 tokens of context."""
    with contextlib.redirect_stdout(io.StringIO()):
        new(folder, like=Family.K25, storage=storage)
    return folder


@torch.inference_mode()
def reference_logprobs(model: KimiK2Model, prompt: Sequence[int], output: Sequence[int]) -> Tensor:
    """Log probabilities [tokens of output, V] at the place of each output token, in one pass."""
    tokens = torch.tensor([[*prompt, *output][:-1]])
    logits = model(tokens)[0, len(prompt) - 1 :].float()
    return logits.log_softmax(dim=-1)
