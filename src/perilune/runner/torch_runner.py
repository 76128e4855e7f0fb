"""A step of the engine computed with the model's own modules: the reference for every other way.

Works for every storage format and device that the modules work for. The rows of a step go through
the linears together; attention goes sequence by sequence over the latents of its pages. That loop
stays: one product over sequences of different length rounds differently, and would pad.

Shape suffixes: T rows of the step, N rows of one sequence, S tokens of its context, D hidden,
C cached values per token, P pages, H heads, R wanted rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from perilune.errors import UsageError
from perilune.model.context import ForwardContext
from perilune.runner.cache import PAGE_SIZE, PagedLatentCache
from perilune.runner.expert_store import ExpertStore, store_errors
from perilune.runner.pages import pages_for

if TYPE_CHECKING:
    from perilune.model.attention import LatentAttention
    from perilune.model.experts import RoutedExperts
    from perilune.model.model import Decoder, KimiK2Model
    from perilune.runner.batch import ForwardBatch

# Attention scores held at once, in values: bounds the memory of a long prompt's chunk.
MAX_SCORES = 2**25

Stores = Mapping["RoutedExperts", tuple[int, ExpertStore]]  # layer and store of an experts module


class TorchRunner:
    """`ModelRunner` from the modules of a `KimiK2Model`."""

    def __init__(self, model: KimiK2Model) -> None:
        self.model = model
        self._experts = _experts_by_layer(model)
        self._stores: dict[RoutedExperts, tuple[int, ExpertStore]] = {}

    @torch.inference_mode()
    def execute(self, batch: ForwardBatch, cache: PagedLatentCache) -> Tensor:
        """-> float32 logits [R, V]. Raises UsageError for wrong vectors, ExpertStoreError."""
        table = self.model.model.embed_tokens.weight
        if batch.vectors is not None:
            batch.vectors.check(batch.num_rows, table.shape[1], table.dtype)
        context = PagedContext(self.model.model, batch, cache, table.device, self._stores)
        logits_RV: Tensor = self.model(batch.input_ids.to(table.device), context)
        return logits_RV.float().cpu()

    def set_expert_store(
        self, store: ExpertStore | None, layers: Iterable[int] | None = None
    ) -> None:
        """Have `store` bring the experts of `layers` (None: of all that have any), by writing into
        their experts modules, from the next step on. None: they all lie there.

        Raises UsageError for a layer without experts.
        """
        for layer in self._experts if layers is None else layers:
            if layer not in self._experts:
                raise UsageError(f"layer {layer} has no routed experts")
            self._stores.pop(self._experts[layer], None)
            if store is not None:
                self._stores[self._experts[layer]] = (layer, store)


def _experts_by_layer(model: KimiK2Model) -> dict[int, RoutedExperts]:
    found = ((i, getattr(layer.mlp, "experts", None)) for i, layer in enumerate(model.model.layers))
    return {index: experts for index, experts in found if experts is not None}


@dataclass(frozen=True, slots=True)
class _Part:
    """One sequence of a step: its rows, the tokens it sees, and the pages that they are in."""

    start: int
    end: int
    length: int
    pages_P: Tensor


class PagedContext(ForwardContext):
    """The rows [T] of a step: their latents are written to pages, and read from there.

    Whatever the layers need on the device is put there once, before the first of them.
    """

    def __init__(
        self,
        decoder: Decoder,
        batch: ForwardBatch,
        cache: PagedLatentCache,
        device: torch.device,
        stores: Stores | None = None,
    ) -> None:
        self._positions_T = batch.positions.to(device)
        self.rotation = decoder.rotary(self._positions_T)
        self._cache, self._stores = cache, stores or {}
        self._slots_T = _slots(batch).to(device)
        self._wanted_R = batch.logits_rows.to(device)
        self._vectors = batch.vectors
        starts, lengths = batch.query_starts.tolist(), batch.context_lengths.tolist()
        tables_SP = batch.page_tables.to(device)
        self._parts = [
            _Part(starts[s], starts[s + 1], length, tables_SP[s, : pages_for(length)])
            for s, length in enumerate(lengths)
        ]
        self._order_S = torch.arange(max(lengths, default=0), device=device)

    def embed(self, table: nn.Embedding, input_ids: Tensor) -> Tensor:
        x_TD: Tensor = table(input_ids)
        if self._vectors is not None:
            rows_N = self._vectors.rows.to(x_TD.device)
            x_TD[rows_N] = self._vectors.values.to(x_TD.device, x_TD.dtype)
        return x_TD

    def wanted(self, x: Tensor) -> Tensor:
        return x[self._wanted_R]

    def attend(
        self, attention: LatentAttention, q_THN: Tensor, q_THR: Tensor, latent_TC: Tensor
    ) -> Tensor:
        storage = self._cache.storage[attention.layer]
        storage.flatten(0, 1)[self._slots_T] = latent_TC.to(storage.dtype)
        outputs = []
        for part in self._parts:
            length = part.length
            latent_BSC = storage[part.pages_P].flatten(0, 1)[None, :length].to(latent_TC.dtype)
            absorbed = _absorbed_is_cheaper(attention, part.end - part.start, length)
            form = attention.absorbed if absorbed else attention.expanded
            at_once = max(1, MAX_SCORES // (length * attention.num_heads))
            for start in range(part.start, part.end, at_once):
                end = min(start + at_once, part.end)
                mask_NS = self._order_S[:length] <= self._positions_T[start:end, None]
                rows = (q_THN[None, start:end], q_THR[None, start:end])
                outputs.append(form(*rows, latent_BSC, mask_NS)[0])
        return torch.cat(outputs)

    def experts(
        self, module: RoutedExperts, x_TD: Tensor, weights_TK: Tensor, indices_TK: Tensor
    ) -> Tensor:
        if module not in self._stores:
            return super().experts(module, x_TD, weights_TK, indices_TK)
        layer, store = self._stores[module]
        with store_errors(layer):
            store.acquire(layer, indices_TK.to("cpu", torch.int32))
        y_TD = super().experts(module, x_TD, weights_TK, indices_TK)
        with store_errors(layer):
            store.release(layer)
        return y_TD


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
