"""A step of the engine computed with the model's own modules: the reference for every other way.

Works for every storage format and device that the modules work for. The rows of a step go through
the linears together; attention goes sequence by sequence over the latents of its pages.

Shape suffixes: T rows of the step, N rows of one sequence, S tokens of its context, D hidden,
C cached values per token, P pages, H heads, R wanted rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from perilune.model.context import ForwardContext
from perilune.runner.cache import PAGE_SIZE, PagedLatentCache

if TYPE_CHECKING:
    from perilune.model.attention import LatentAttention
    from perilune.model.model import Decoder, KimiK2Model
    from perilune.runner.batch import ForwardBatch

# Attention scores held at once, in values: bounds the memory of a long prompt's chunk.
MAX_SCORES = 2**25


class TorchRunner:
    """`ModelRunner` from the modules of a `KimiK2Model`."""

    def __init__(self, model: KimiK2Model) -> None:
        self.model = model

    @torch.inference_mode()
    def execute(self, batch: ForwardBatch, cache: PagedLatentCache) -> Tensor:
        device = self.model.model.embed_tokens.weight.device
        context = PagedContext(self.model.model, batch, cache, device)
        logits_RV: Tensor = self.model(batch.input_ids.to(device), context)
        return logits_RV.float().cpu()


class PagedContext(ForwardContext):
    """The rows [T] of a step: their latents are written to pages, and read from there."""

    def __init__(
        self, decoder: Decoder, batch: ForwardBatch, cache: PagedLatentCache, device: torch.device
    ) -> None:
        self.rotation = decoder.rotary(batch.positions.to(device))
        self._batch, self._cache = batch, cache
        self._slots_T = _slots(batch).to(device)

    def wanted(self, x: Tensor) -> Tensor:
        return x[self._batch.logits_rows.to(x.device)]

    def attend(
        self, attention: LatentAttention, q_THN: Tensor, q_THR: Tensor, latent_TC: Tensor
    ) -> Tensor:
        batch, storage = self._batch, self._cache.storage[attention.layer]
        storage.flatten(0, 1)[self._slots_T] = latent_TC.to(storage.dtype)
        outputs = []
        starts = batch.query_starts.tolist()
        for s, length in enumerate(batch.context_lengths.tolist()):
            pages_P = batch.page_tables[s, : -(-length // PAGE_SIZE)].to(storage.device)
            latent_BSC = storage[pages_P].flatten(0, 1)[None, :length].to(latent_TC.dtype)
            seen_S = torch.arange(length, device=storage.device)
            absorbed = _absorbed_is_cheaper(attention, starts[s + 1] - starts[s], length)
            form = attention.absorbed if absorbed else attention.expanded
            at_once = max(1, MAX_SCORES // (length * attention.num_heads))
            for start in range(starts[s], starts[s + 1], at_once):
                end = min(start + at_once, starts[s + 1])
                positions_N = batch.positions[start:end].to(storage.device)
                mask_NS = seen_S <= positions_N[:, None]
                rows = (q_THN[None, start:end], q_THR[None, start:end])
                outputs.append(form(*rows, latent_BSC, mask_NS)[0])
        return torch.cat(outputs)


def _slots(batch: ForwardBatch) -> Tensor:
    """Where each row's latent goes: page * 64 + slot, int64 [T]."""
    rows_S = batch.query_starts.diff()
    sequence_T = torch.arange(batch.num_sequences).repeat_interleave(rows_S)
    page_T = batch.page_tables[sequence_T, batch.positions // PAGE_SIZE]
    return (page_T * PAGE_SIZE + batch.positions % PAGE_SIZE).long()


def _absorbed_is_cheaper(attention: LatentAttention, rows: int, length: int) -> bool:
    """Both forms give the same values; compare their multiplications for one cached token."""
    rank, rope = attention.rank, attention.rope_dim
    head = attention.nope_dim + attention.value_dim
    absorbed = rows * (2 * rank + rope)
    expanded = rank * head + rows * (head + rope)
    return absorbed <= expanded or length * attention.num_heads * head > MAX_SCORES
