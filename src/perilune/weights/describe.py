"""What a checkpoint is, in numbers: parameters, bytes by part, memory. From `config.json` alone."""

from __future__ import annotations

from dataclasses import dataclass

from perilune.config import CheckpointConfig
from perilune.weights.tensor_table import (
    Part,
    active_parameters,
    expected_tensors,
    text_parameters,
)

LATENT_BYTES = 2  # a cached value, bfloat16


@dataclass(frozen=True, slots=True)
class PartBytes:
    """Bytes of one part: in all, and those that one decoded token reads (batch 1)."""

    part: Part
    tensors: int
    stored: int
    per_token: int


@dataclass(frozen=True, slots=True)
class Description:
    """The figures of `perilune models show`; bytes throughout."""

    parameters: int  # of the text network
    active_parameters: int  # a token, both embeddings included
    active_without_lookup: int  # a token, without the embedding table
    parts: tuple[PartBytes, ...]
    context: int  # tokens
    latent_per_token: int  # of the cache, all layers, bfloat16

    @property
    def stored(self) -> int:
        """On disk, vision included."""
        return sum(part.stored for part in self.parts)

    @property
    def per_token(self) -> int:
        """Weights that one decoded token reads."""
        return sum(part.per_token for part in self.parts)

    @property
    def memory(self) -> int:
        """Weights in memory: what is loaded stays as it is stored."""
        return self.stored

    @property
    def latent_full_context(self) -> int:
        """Cache of one conversation of full length."""
        return self.context * self.latent_per_token


def describe(config: CheckpointConfig) -> Description:
    """Raises ConfigError where the sizes do not fit the storage format."""
    text = config.text
    tensors: dict[Part, int] = dict.fromkeys(Part, 0)
    stored: dict[Part, int] = dict.fromkeys(Part, 0)
    for spec in expected_tensors(config):
        tensors[spec.part] += 1
        stored[spec.part] += spec.nbytes
    read = dict(stored)
    read[Part.VISION] = 0
    read[Part.EMBEDDING] //= text.vocab_size  # one row
    if text.n_routed_experts:
        chosen = stored[Part.ROUTED_EXPERTS] * text.num_experts_per_tok
        read[Part.ROUTED_EXPERTS] = chosen // text.n_routed_experts
    if text.tie_word_embeddings:
        read[Part.EMBEDDING] = stored[Part.EMBEDDING]
    active, without_lookup = active_parameters(text)
    return Description(
        parameters=text_parameters(text),
        active_parameters=active,
        active_without_lookup=without_lookup,
        parts=tuple(PartBytes(p, tensors[p], stored[p], read[p]) for p in Part if stored[p]),
        context=text.max_position_embeddings,
        latent_per_token=text.num_hidden_layers * text.latent_dim * LATENT_BYTES,
    )
