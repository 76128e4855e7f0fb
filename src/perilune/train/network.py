"""How training computes `KimiK2Model`: the same loop over the layers, over ragged batches.

Every linear map, the router and the experts work on the flat rows of all documents; attention
alone knows where a document begins. The backward passes of the larger operators are written out
(`functions.py`). Parity with the plain context is tested to 1e-5.

Shape suffixes: N rows (tokens), D hidden, H heads, Q query and key width, P position-free part of
it, R rotary part, V value width, E experts, K chosen experts, G sequences, M trained rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perilune.model.attention import LatentAttention
from perilune.model.context import ForwardContext
from perilune.model.experts import Experts, RoutedExperts
from perilune.model.model import KimiK2Model
from perilune.model.norm import RMSNorm
from perilune.model.router import Router
from perilune.train.batch import RaggedBatch
from perilune.train.functions import attention as ragged_attention
from perilune.train.functions import experts, head_loss, rms_norm, swiglu


@dataclass(slots=True)
class Measured:
    """What a forward pass tells about itself, none of it differentiable but `balance_loss`.

    `dtype` is what the pass computes in; norms, router and losses stay float32.
    """

    dtype: torch.dtype = torch.float32

    load_LE: list[Tensor] = field(default_factory=list)
    """Tokens an expert got, float32 [E], one entry a MoE layer."""
    max_logit_LH: list[Tensor] = field(default_factory=list)
    """Largest attention score of each head after scaling, float32 [H], one entry a layer."""
    balance_loss: Tensor | None = None
    """Sum over sequences and layers of the sequence-wise balance loss, before its factor."""


def token_losses(
    model: KimiK2Model, batch: RaggedBatch, measured: Measured
) -> tuple[Tensor, Tensor]:
    """-> negative log likelihood of every trained token [M], and whether it had the top logit."""
    nll_M, right_M = model(batch.ids_N, TrainingContext(model, batch, measured))
    return nll_M, right_M


class TrainingContext(ForwardContext):
    """The rows [N] of a ragged batch; the network gives the losses of its trained rows."""

    def __init__(self, model: KimiK2Model, batch: RaggedBatch, measured: Measured) -> None:
        self.rotation = model.model.rotary(batch.positions_N)
        self._batch, self._measured = batch, measured

    def embed(self, table: nn.Embedding, input_ids: Tensor) -> Tensor:
        return F.embedding(input_ids, table.weight).to(self._measured.dtype)

    def norm(self, module: RMSNorm, x: Tensor) -> Tensor:
        return rms_norm(x, module.weight, module.eps)

    def linear(self, module: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(module, nn.Linear)
        return F.linear(x, module.weight.to(x.dtype))

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        return swiglu(gate, up)

    def experts(
        self, module: RoutedExperts, x_TD: Tensor, weights_TK: Tensor, indices_TK: Tensor
    ) -> Tensor:
        assert isinstance(module, Experts)
        parts = (module.gate_proj, module.up_proj, module.down_proj)
        gate, up, down = (w.to(x_TD.dtype) for w in parts)
        return experts(x_TD, weights_TK, indices_TK, gate, up, down)

    def attend(
        self, attention: LatentAttention, q_THN: Tensor, q_THR: Tensor, latent_TC: Tensor
    ) -> Tensor:
        heads, rope = attention.num_heads, attention.rope_dim
        latent_NL, key_NR = torch.split(latent_TC, [attention.rank, rope], -1)
        up_NHU = torch.unflatten(self.linear(attention.kv_b_proj, latent_NL), -1, (heads, -1))
        k_NHP, v_NHV = torch.split(up_NHU, [attention.nope_dim, attention.value_dim], -1)
        q_NHQ = torch.cat((q_THN, q_THR), dim=-1)
        k_NHQ = torch.cat((k_NHP, key_NR.unsqueeze(1).expand(-1, heads, -1)), dim=-1)
        max_H = torch.full((heads,), -torch.inf, device=q_NHQ.device)
        out_NHV = ragged_attention(
            q_NHQ, k_NHQ, v_NHV.contiguous(), self._batch.spans, attention.softmax_scale, max_H
        )
        self._measured.max_logit_LH.append(max_H)
        return out_NHV

    def routed(self, router: Router, scores_TE: Tensor, indices_TK: Tensor) -> None:
        measured, batch = self._measured, self._batch
        with torch.no_grad():
            chosen_NE = torch.zeros_like(scores_TE).scatter_(1, indices_TK, 1.0)
            measured.load_LE.append(batch.multiplicity_N @ chosen_NE)
        balance = _balance_loss(scores_TE, chosen_NE, router.top_k, batch)
        before = measured.balance_loss
        measured.balance_loss = balance if before is None else before + balance

    def output(self, head: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Losses and top choices of the trained rows, [M] each."""
        assert isinstance(head, nn.Linear)
        x_MD = hidden.index_select(0, self._batch.rows_M)
        return head_loss(x_MD, head.weight.to(x_MD.dtype), self._batch.labels_M)


def _balance_loss(scores_NE: Tensor, chosen_NE: Tensor, top_k: int, batch: RaggedBatch) -> Tensor:
    """Sum over the documents of sum_e f_e * P_e (arXiv 2412.19437, eq. 17 to 20).

    f is the share of a document's choices that an expert got, times E; P its mean normalised
    affinity. The document's header counts as part of it.
    """
    share_NE = scores_NE / scores_NE.sum(-1, keepdim=True)
    f_GE, p_GE = _sums(chosen_NE, batch), _sums(share_NE, batch)
    spans = [batch.spans[g] for g in batch.documents]
    lengths = [s.length + s.header_length for s in spans]
    length_G1 = torch.tensor(lengths, dtype=torch.float32, device=scores_NE.device).unsqueeze(-1)
    factor_G1 = scores_NE.shape[-1] / (top_k * length_G1 * length_G1)
    return (f_GE * p_GE * factor_G1).sum()


def _sums(x_NE: Tensor, batch: RaggedBatch) -> Tensor:
    """Sum over the rows of each document and of its header, [G, E]."""
    spans = batch.spans
    lengths = torch.tensor([s.length for s in spans], device=x_NE.device)
    sums_SE = torch.segment_reduce(x_NE, "sum", lengths=lengths, axis=0)
    index = {span.start: number for number, span in enumerate(spans)}
    own = torch.tensor(batch.documents, device=x_NE.device)
    total: Tensor = sums_SE.index_select(0, own)
    pairs = [
        (g, index[spans[i].header_start])
        for g, i in enumerate(batch.documents)
        if spans[i].header_length
    ]
    if pairs:
        to, come = torch.tensor(pairs, device=x_NE.device).unbind(1)
        total = total.index_add(0, to, sums_SE.index_select(0, come))
    return total
