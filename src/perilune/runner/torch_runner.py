"""A step of the engine computed with the model's own modules: the reference for every other way.

Works for every storage format and device that the modules work for. The rows of a step go through
the linears together; attention goes sequence by sequence over the latents of its pages.

Shape suffixes: T rows of the step, N rows of one sequence, S tokens of its context, D hidden,
C cached values a token, P pages.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from perilune.model.attention import LatentAttention, Rotation
from perilune.model.layer import DecoderLayer
from perilune.model.model import KimiK2Model
from perilune.runner.batch import ForwardBatch
from perilune.runner.cache import PAGE_SIZE, PagedLatentCache

# Attention scores held at once, in values: bounds the memory of a long prompt's chunk.
MAX_SCORES = 2**25


class TorchRunner:
    """`ModelRunner` from the modules of a `KimiK2Model`."""

    def __init__(self, model: KimiK2Model) -> None:
        self.model = model

    @torch.inference_mode()
    def execute(self, batch: ForwardBatch, cache: PagedLatentCache) -> Tensor:
        decoder = self.model.model
        device = decoder.embed_tokens.weight.device
        positions_T = batch.positions.to(device)
        rotation = decoder.rotary(positions_T)
        slots_T = _slots(batch).to(device)
        x_TD: Tensor = decoder.embed_tokens(batch.input_ids.to(device))
        for module, storage in zip(decoder.layers, cache.storage, strict=True):
            layer = cast(DecoderLayer, module)
            h_TD = layer.input_layernorm(x_TD)
            x_TD = x_TD + _attention(layer.self_attn, h_TD, rotation, slots_T, batch, storage)
            x_TD = x_TD + layer.mlp(layer.post_attention_layernorm(x_TD))
        wanted_RD = decoder.norm(x_TD[batch.logits_rows.to(device)])
        logits_RV: Tensor = self.model.lm_head(wanted_RD)
        return logits_RV.float().cpu()


def _slots(step: ForwardBatch) -> Tensor:
    """Where each row's latent goes: page * 64 + slot, int64 [T]."""
    rows_S = step.query_starts.diff()
    sequence_T = torch.arange(step.num_sequences).repeat_interleave(rows_S)
    page_T = step.page_tables[sequence_T, step.positions // PAGE_SIZE]
    return (page_T * PAGE_SIZE + step.positions % PAGE_SIZE).long()


def _attention(
    attention: LatentAttention,
    h_TD: Tensor,
    rotation: Rotation,
    slots_T: Tensor,
    step: ForwardBatch,
    storage: Tensor,
) -> Tensor:
    """One layer's attention for all rows; `storage` is that layer's pages [P, 64, C]."""
    q_BTHN, q_BTHR = attention.queries(h_TD[None], rotation)
    storage.flatten(0, 1)[slots_T] = attention.latents(h_TD, rotation).to(storage.dtype)
    outputs = []
    starts = step.query_starts.tolist()
    for s, length in enumerate(step.context_lengths.tolist()):
        pages_P = step.page_tables[s, : -(-length // PAGE_SIZE)].to(storage.device)
        latent_BSC = storage[pages_P].flatten(0, 1)[None, :length].to(h_TD.dtype)
        seen_S = torch.arange(length, device=storage.device)
        absorbed = _absorbed_is_cheaper(attention, starts[s + 1] - starts[s], length)
        attend = attention.absorbed if absorbed else attention.expanded
        at_once = max(1, MAX_SCORES // (length * attention.num_heads))
        for start in range(starts[s], starts[s + 1], at_once):
            end = min(start + at_once, starts[s + 1])
            positions_N = step.positions[start:end].to(storage.device)
            mask_NS = seen_S <= positions_N[:, None]
            rows = (q_BTHN[:, start:end], q_BTHR[:, start:end])
            outputs.append(attend(*rows, latent_BSC, mask_NS).flatten(-2))
    y_BTD: Tensor = attention.o_proj(torch.cat(outputs, dim=1))
    return y_BTD[0]


def _absorbed_is_cheaper(attention: LatentAttention, rows: int, length: int) -> bool:
    """Both forms give the same values; compare their multiplications for one cached token."""
    rank, rope = attention.rank, attention.rope_dim
    head = attention.nope_dim + attention.value_dim
    absorbed = rows * (2 * rank + rope)
    expanded = rank * head + rows * (head + rope)
    return absorbed <= expanded or length * attention.num_heads * head > MAX_SCORES
