"""The training forward of `KimiK2Model`: the same function and parameters, over ragged batches.

Every linear map, the router and the experts work on the flat rows of all documents; attention
alone knows where a document begins. Parity with `KimiK2Model.forward` is tested to 1e-5.

Shape suffixes: N rows (tokens), D hidden, H heads, Q query and key width, P position-free part of
it, R rotary part, V value width, E experts, K chosen experts, G sequences, M trained rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perilune.model.attention import LatentAttention, Rotation
from perilune.model.experts import Experts
from perilune.model.layer import DecoderLayer
from perilune.model.mlp import MLP
from perilune.model.model import KimiK2Model
from perilune.model.moe import MixtureOfExperts
from perilune.model.rotary import rotate
from perilune.model.router import Router
from perilune.train.batch import RaggedBatch
from perilune.train.functions import Span, attention, experts, head_loss, rms_norm, swiglu


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


def hidden_states(model: KimiK2Model, batch: RaggedBatch, measured: Measured) -> Tensor:
    """Normed hidden states [N, D] of all rows."""
    decoder = model.model
    x_ND = F.embedding(batch.ids_N, decoder.embed_tokens.weight).to(measured.dtype)
    rotation = decoder.rotary(batch.positions_N)
    for layer in decoder.layers:
        assert isinstance(layer, DecoderLayer)
        run = layer if hasattr(layer, CALLED) else partial(_layer, layer)
        x_ND, balance = run(x_ND, rotation, batch, measured)
        if balance is not None:
            before = measured.balance_loss
            measured.balance_loss = balance if before is None else before + balance
    return rms_norm(x_ND, decoder.norm.weight, decoder.norm.eps)


def token_losses(
    model: KimiK2Model, batch: RaggedBatch, measured: Measured
) -> tuple[Tensor, Tensor]:
    """-> negative log likelihood of every trained token [M], and whether it had the top logit."""
    run = model if hasattr(model, CALLED) else partial(_token_losses, model)
    nll_M, right_M = run(batch, measured)
    return nll_M, right_M


CALLED = "calls_training_forward"


def call_as_trained(model: KimiK2Model) -> None:
    """Let `model(batch, measured)` and its layers compute the training forward.

    For what hooks into calls of modules, as FSDP does. Plain training does without.
    """
    model.forward = partial(_token_losses, model)  # type: ignore[method-assign, assignment]
    setattr(model, CALLED, True)
    for layer in model.model.layers:
        assert isinstance(layer, DecoderLayer)
        layer.forward = partial(_layer, layer)  # type: ignore[method-assign, assignment]
        setattr(layer, CALLED, True)


def _token_losses(
    model: KimiK2Model, batch: RaggedBatch, measured: Measured
) -> tuple[Tensor, Tensor]:
    x_ND = hidden_states(model, batch, measured)
    x_MD = x_ND.index_select(0, batch.rows_M)
    return head_loss(x_MD, model.lm_head.weight.to(x_MD.dtype), batch.labels_M)


def _layer(
    layer: DecoderLayer, x_ND: Tensor, rotation: Rotation, batch: RaggedBatch, measured: Measured
) -> tuple[Tensor, Tensor | None]:
    """-> hidden states and, of a mixture layer, the balance loss."""
    norm = layer.input_layernorm
    h_ND = rms_norm(x_ND, norm.weight, norm.eps)
    x_ND = x_ND + _attention(layer.self_attn, h_ND, rotation, batch.spans, measured)
    norm = layer.post_attention_layernorm
    h_ND = rms_norm(x_ND, norm.weight, norm.eps)
    if isinstance(layer.mlp, MixtureOfExperts):
        y_ND, balance = _mixture(layer.mlp, h_ND, batch, measured)
        return x_ND + y_ND, balance
    assert isinstance(layer.mlp, MLP)
    return x_ND + _mlp(layer.mlp, h_ND), None


def _attention(
    module: LatentAttention,
    x_ND: Tensor,
    rotation: Rotation,
    spans: tuple[Span, ...],
    measured: Measured,
) -> Tensor:
    if module.low_rank_query:
        norm = module.q_a_layernorm
        rank = rms_norm(_linear(module.q_a_proj, x_ND), norm.weight, norm.eps)
        q = _linear(module.q_b_proj, rank)
    else:
        q = _linear(module.q_proj, x_ND)
    heads, nope = module.num_heads, module.nope_dim
    cos, sin = rotation
    q_NHP, q_NHR = torch.split(torch.unflatten(q, -1, (heads, -1)), [nope, module.rope_dim], -1)
    both = _linear(module.kv_a_proj_with_mqa, x_ND)
    latent, key_NR = torch.split(both, [module.rank, module.rope_dim], -1)
    norm = module.kv_a_layernorm
    up = _linear(module.kv_b_proj, rms_norm(latent, norm.weight, norm.eps))
    k_NHP, v_NHV = torch.split(torch.unflatten(up, -1, (heads, -1)), [nope, module.value_dim], -1)
    k_NHR = rotate(key_NR, cos, sin).unsqueeze(1).expand(-1, heads, -1)
    q_NHQ = torch.cat((q_NHP, rotate(q_NHR, cos.unsqueeze(1), sin.unsqueeze(1))), dim=-1)
    k_NHQ = torch.cat((k_NHP, k_NHR), dim=-1)
    max_H = torch.full((heads,), -torch.inf, device=x_ND.device)
    out_NHV = attention(q_NHQ, k_NHQ, v_NHV.contiguous(), spans, module.softmax_scale, max_H)
    measured.max_logit_LH.append(max_H)
    return _linear(module.o_proj, out_NHV.flatten(1))


def _linear(module: nn.Linear, x_ND: Tensor) -> Tensor:
    return F.linear(x_ND, module.weight.to(x_ND.dtype))


def _mlp(module: MLP, x_ND: Tensor) -> Tensor:
    gate = _linear(module.gate_proj, x_ND)
    hidden = swiglu(gate, _linear(module.up_proj, x_ND))
    return _linear(module.down_proj, hidden)


def _mixture(
    module: MixtureOfExperts, x_ND: Tensor, batch: RaggedBatch, measured: Measured
) -> tuple[Tensor, Tensor]:
    router, stack = module.gate, module.experts
    assert isinstance(router, Router) and isinstance(stack, Experts)
    scores_NE = F.linear(x_ND.float(), router.weight.float()).sigmoid()
    with torch.no_grad():
        indices_NK = router.choose(scores_NE)
        chosen_NE = torch.zeros_like(scores_NE).scatter_(1, indices_NK, 1.0)
        load_E = batch.multiplicity_N @ chosen_NE
    measured.load_LE.append(load_E)
    weights_NK = scores_NE.gather(1, indices_NK)
    if router.norm_topk_prob:
        weights_NK = weights_NK / (weights_NK.sum(-1, keepdim=True) + 1e-20)
    weights_NK = weights_NK * router.routed_scaling_factor
    balance = _balance_loss(scores_NE, chosen_NE, router.top_k, batch)
    gate, up, down = (w.to(x_ND.dtype) for w in (stack.gate_proj, stack.up_proj, stack.down_proj))
    y_ND = experts(x_ND, weights_NK, indices_NK, gate, up, down)
    return y_ND + _mlp(module.shared_experts, x_ND), balance


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
