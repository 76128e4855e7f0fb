"""The operations of the training forward whose backward is written out, for speed on a small CPU.

Each is a plain function over an `autograd.Function`; the tests compare every one with autograd
through the readable form in `perilune.model`. They work on flat rows: no batch dimension, no
padding.

Shape suffixes: N rows (tokens), D any width, H heads, Q query and key width, V value width,
T queries of one document, S keys it sees, K chosen experts, E experts, F expert hidden, R = N*K
rows sorted by expert, M trained rows, W vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class Span(NamedTuple):
    """Rows `start..start+length` of one document; it also sees the rows of its header, if any."""

    start: int
    length: int
    header_start: int = 0
    header_length: int = 0


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        x = x_ND.float()
        mean_square = torch.linalg.vecdot(x, x).div_(x.shape[-1])
        inverse_N1 = mean_square.add_(eps).rsqrt_().unsqueeze(-1)
        normed_ND = x * inverse_N1
        ctx.save_for_backward(normed_ND, inverse_N1, weight_D)
        y_ND: Tensor = (normed_ND * weight_D).to(x_ND.dtype)
        return y_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_ND: Tensor) -> tuple[Tensor, Tensor, None]:
        normed_ND, inverse_N1, weight_D = ctx.saved_tensors
        dy = dy_ND.float()
        product_ND = dy * normed_ND
        mean_N1 = torch.mv(product_ND, weight_D).div_(dy.shape[-1]).unsqueeze(-1)
        dweight_D = product_ND.sum(0)
        dx_ND = torch.mul(dy, weight_D).addcmul_(normed_ND, mean_N1, value=-1).mul_(inverse_N1)
        return dx_ND.to(dy_ND.dtype), dweight_D, None


def rms_norm(x_ND: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last dimension of rows [N, D]."""
    y_ND: Tensor = _RMSNorm.apply(x_ND, weight_D, eps)  # type: ignore[no-untyped-call]
    return y_ND


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_NF: Tensor, up_NF: Tensor) -> Tensor:
        ctx.save_for_backward(gate_NF, up_NF)
        return F.silu(gate_NF).mul_(up_NF)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh_NF: Tensor) -> tuple[Tensor, Tensor]:
        return _swiglu_backward(dh_NF, *ctx.saved_tensors)


def _swiglu_backward(dh_NF: Tensor, gate_NF: Tensor, up_NF: Tensor) -> tuple[Tensor, Tensor]:
    dup_NF = dh_NF * F.silu(gate_NF)
    dgate_NF = torch.ops.aten.silu_backward(dh_NF * up_NF, gate_NF)
    return dgate_NF, dup_NF


def swiglu(gate_NF: Tensor, up_NF: Tensor) -> Tensor:
    """silu(gate) * up."""
    h_NF: Tensor = _SwiGLU.apply(gate_NF, up_NF)  # type: ignore[no-untyped-call]
    return h_NF


class _Attention(torch.autograd.Function):
    """Causal attention inside each span, and from a span to its header, head by head.

    The scores of a document are a plain matrix a head, so the row maxima that QK-Clip needs are
    at hand, and nothing is computed for padding. Long documents go in blocks of queries that leave
    out the keys after them. Bias and row sums ride along in `baddbmm`: a pass over the scores costs
    as much as a product.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q_NHQ: Tensor,
        k_NHQ: Tensor,
        v_NHV: Tensor,
        spans: Sequence[Span],
        scale: float,
        max_H: Tensor | None,
    ) -> Tensor:
        q_NHQ = q_NHQ * scale
        out_NHV = torch.empty_like(v_NHV)
        weights = []
        bias = _Bias(spans, q_NHQ)
        for span in spans:
            k_HSQ, v_HSV = _keys(k_NHQ, span), _keys(v_NHV, span)
            for block in _blocks(span):
                seen = slice(0, block.header_length)
                scores_HTS = torch.baddbmm(bias(block), _rows(q_NHQ, block), k_HSQ[:, seen].mT)
                if max_H is not None:
                    torch.maximum(max_H, scores_HTS.flatten(1).amax(-1), out=max_H)
                weights_HTS = torch.softmax(scores_HTS, dim=-1)
                _rows(out_NHV, block).copy_(torch.bmm(weights_HTS, v_HSV[:, seen]))
                weights.append(weights_HTS)
        ctx.save_for_backward(q_NHQ, k_NHQ, v_NHV, out_NHV, *weights)
        ctx.spans, ctx.scale = spans, scale
        return out_NHV

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_NHV: Tensor) -> tuple[Tensor | None, ...]:
        q_NHQ, k_NHQ, v_NHV, out_NHV, *weights = ctx.saved_tensors
        dq_NHQ, dk_NHQ, dv_NHV = (torch.empty_like(t) for t in (q_NHQ, k_NHQ, v_NHV))
        minus_NH1 = -torch.linalg.vecdot(dout_NHV, out_NHV).unsqueeze(-1)
        queue = iter(weights)
        # Headers come first: their rows are written before the documents add to them.
        for span in ctx.spans:
            k_HSQ, v_HSV = _keys(k_NHQ, span), _keys(v_NHV, span)
            dk_HSQ = dv_HSV = None
            blocks = _blocks(span)
            kept = [next(queue) for _ in blocks]
            # The last block sees every key, so it is the one to start the sums with.
            for block, weights_HTS in zip(reversed(blocks), reversed(kept), strict=True):
                seen = slice(0, block.header_length)
                dout_HTV, q_HTQ = _rows(dout_NHV, block), _rows(q_NHQ, block)
                dscores_HTS = torch.baddbmm(
                    _rows(minus_NH1, block), dout_HTV, v_HSV[:, seen].mT
                ).mul_(weights_HTS)
                _rows(dq_NHQ, block).copy_(torch.bmm(dscores_HTS, k_HSQ[:, seen]))
                if dk_HSQ is None or dv_HSV is None:
                    dk_HSQ = torch.bmm(dscores_HTS.mT, q_HTQ)
                    dv_HSV = torch.bmm(weights_HTS.mT, dout_HTV)
                else:
                    dk_HSQ[:, seen].baddbmm_(dscores_HTS.mT, q_HTQ)
                    dv_HSV[:, seen].baddbmm_(weights_HTS.mT, dout_HTV)
            assert dk_HSQ is not None and dv_HSV is not None
            for d_HS, d_NH in ((dk_HSQ, dk_NHQ), (dv_HSV, dv_NHV)):
                if span.header_length:
                    header = Span(span.header_start, span.header_length)
                    _rows(d_NH, header).add_(d_HS[:, : span.header_length])
                _rows(d_NH, span).copy_(d_HS[:, span.header_length :])
        return dq_NHQ.mul_(ctx.scale), dk_NHQ, dv_NHV, None, None, None


QUERY_BLOCK = 128  # queries at a time: half of the keys of a long document lie after a query


def _blocks(span: Span) -> list[Span]:
    """A span's queries in blocks; `header_length` counts the keys that a block sees at most."""
    count = max(1, round(span.length / QUERY_BLOCK))
    ends = [span.length * (i + 1) // count for i in range(count)]
    return [
        Span(span.start + begin, end - begin, span.header_start, span.header_length + end)
        for begin, end in zip([0, *ends], ends, strict=False)
    ]


class _Bias:
    """What is added to the scores of a block: 0 where a query may look, -inf after it.

    All blocks are views of one matrix: the last `length` columns are causal, all before are 0.
    """

    def __init__(self, spans: Sequence[Span], like: Tensor) -> None:
        blocks = [block for span in spans for block in _blocks(span)]
        rows = max(block.length for block in blocks)
        self._columns = max(block.header_length for block in blocks) + rows
        causal = torch.full((rows, rows), -torch.inf, dtype=like.dtype, device=like.device)
        zeros = causal.new_zeros(rows, self._columns - rows)
        self._matrix = torch.cat((zeros, causal.triu_(1)), dim=1)
        self._rows = rows

    def __call__(self, block: Span) -> Tensor:
        first = self._columns - self._rows - (block.header_length - block.length)
        return self._matrix[: block.length, first : first + block.header_length]


def _rows(x_NH: Tensor, span: Span) -> Tensor:
    """A span's rows, heads first, as a view."""
    return x_NH[span.start : span.start + span.length].transpose(0, 1)


def _keys(x_NH: Tensor, span: Span) -> Tensor:
    """Header rows, then a span's own, heads first."""
    own = _rows(x_NH, span)
    if not span.header_length:
        return own
    return torch.cat((_rows(x_NH, Span(span.header_start, span.header_length)), own), dim=1)


def attention(
    q_NHQ: Tensor,
    k_NHQ: Tensor,
    v_NHV: Tensor,
    spans: Sequence[Span],
    scale: float,
    max_H: Tensor | None = None,
) -> Tensor:
    """Attention of the documents in `spans`, headers before the documents that see them.

    Every row is in exactly one span. `max_H` takes up the largest scaled score of each head.
    """
    out_NHV: Tensor = _Attention.apply(q_NHQ, k_NHQ, v_NHV, spans, scale, max_H)  # type: ignore[no-untyped-call]
    return out_NHV


class _Experts(torch.autograd.Function):
    """The routed experts as a loop over the rows of each: no row is dropped, none is padded.

    The weight of a choice is applied to the hidden values, which are fewer than the outputs.
    Sums over a token's K choices are gathers through the inverse order, never scattered adds.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        weights_NK: Tensor,
        indices_NK: Tensor,
        gate_EFD: Tensor,
        up_EFD: Tensor,
        down_EDF: Tensor,
    ) -> Tensor:
        top_k = indices_NK.shape[1]
        order_R = indices_NK.flatten().argsort(stable=True)
        inverse_R = torch.empty_like(order_R)
        inverse_R[order_R] = torch.arange(len(order_R), device=order_R.device)
        counts = torch.bincount(indices_NK.flatten(), minlength=gate_EFD.shape[0]).tolist()
        x_RD = x_ND.index_select(0, order_R // top_k)
        gate_RF, up_RF = (x_ND.new_empty(len(order_R), gate_EFD.shape[1]) for _ in range(2))
        y_RD = torch.empty_like(x_RD)
        parts = _parts(counts)
        for e, begin, end in parts:
            x = x_RD[begin:end]
            torch.mm(x, gate_EFD[e].T, out=gate_RF[begin:end])
            torch.mm(x, up_EFD[e].T, out=up_RF[begin:end])
        weight_R1 = weights_NK.flatten().index_select(0, order_R).unsqueeze(-1).to(x_ND.dtype)
        h_RF = F.silu(gate_RF).mul_(up_RF)
        weighted_RF = h_RF * weight_R1
        for e, begin, end in parts:
            torch.mm(weighted_RF[begin:end], down_EDF[e].T, out=y_RD[begin:end])
        ctx.save_for_backward(
            x_RD, gate_RF, up_RF, h_RF, weighted_RF, weight_R1, order_R, inverse_R,
            gate_EFD, up_EFD, down_EDF,
        )  # fmt: skip
        ctx.parts, ctx.top_k = parts, top_k
        return y_RD.index_select(0, inverse_R).view(len(x_ND), top_k, -1).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_ND: Tensor) -> tuple[Tensor | None, ...]:
        (
            x_RD, gate_RF, up_RF, h_RF, weighted_RF, weight_R1, order_R, inverse_R,
            gate_EFD, up_EFD, down_EDF,
        ) = ctx.saved_tensors  # fmt: skip
        dy_RD = dy_ND.index_select(0, order_R // ctx.top_k)
        dweighted_RF = torch.empty_like(h_RF)
        dgate_EFD, dup_EFD, ddown_EDF = (torch.zeros_like(w) for w in (gate_EFD, up_EFD, down_EDF))
        for e, begin, end in ctx.parts:
            dy = dy_RD[begin:end]
            torch.mm(dy, down_EDF[e], out=dweighted_RF[begin:end])
            torch.mm(dy.T, weighted_RF[begin:end], out=ddown_EDF[e])
        dweight_R = torch.linalg.vecdot(dweighted_RF, h_RF)
        dgate_RF, dup_RF = _swiglu_backward(dweighted_RF.mul_(weight_R1), gate_RF, up_RF)
        dx_RD = dy_RD  # its values are no longer needed
        for e, begin, end in ctx.parts:
            dgate, dup, x = dgate_RF[begin:end], dup_RF[begin:end], x_RD[begin:end]
            torch.mm(dgate.T, x, out=dgate_EFD[e])
            torch.mm(dup.T, x, out=dup_EFD[e])
            torch.mm(dgate, gate_EFD[e], out=dx_RD[begin:end])
            dx_RD[begin:end].addmm_(dup, up_EFD[e])
        dx_ND = dx_RD.index_select(0, inverse_R).view(len(dy_ND), ctx.top_k, -1).sum(1)
        dweights_NK = dweight_R.index_select(0, inverse_R).view(-1, ctx.top_k)
        return dx_ND, dweights_NK.float(), None, dgate_EFD, dup_EFD, ddown_EDF


def _parts(counts: Sequence[int]) -> list[tuple[int, int, int]]:
    """(expert, first row, end) of every expert that has rows."""
    parts, begin = [], 0
    for e, count in enumerate(counts):
        if count:
            parts.append((e, begin, begin + count))
        begin += count
    return parts


def experts(
    x_ND: Tensor,
    weights_NK: Tensor,
    indices_NK: Tensor,
    gate_EFD: Tensor,
    up_EFD: Tensor,
    down_EDF: Tensor,
) -> Tensor:
    """Weighted sum of the chosen experts' answers to each row, [N, D]."""
    y_ND: Tensor = _Experts.apply(x_ND, weights_NK, indices_NK, gate_EFD, up_EFD, down_EDF)  # type: ignore[no-untyped-call]
    return y_ND


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MD: Tensor, head_WD: Tensor, labels_M: Tensor) -> tuple[Tensor, Tensor]:
        logits_MW = torch.mm(x_MD, head_WD.T).float()
        top_M1 = logits_MW.amax(-1, keepdim=True)
        label_M1 = logits_MW.gather(1, labels_M.unsqueeze(-1))
        right_M = (label_M1 >= top_M1).squeeze(-1)
        exp_MW = logits_MW.sub_(top_M1).exp_()
        total_M1 = exp_MW.sum(-1, keepdim=True)
        nll_M = (total_M1.log() + top_M1 - label_M1).squeeze(-1)
        ctx.save_for_backward(x_MD, head_WD, labels_M, exp_MW, total_M1)
        ctx.mark_non_differentiable(right_M)
        return nll_M, right_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dnll_M: Tensor, _right: Tensor) -> tuple[Tensor, Tensor, None]:
        x_MD, head_WD, labels_M, exp_MW, total_M1 = ctx.saved_tensors
        dnll_M1 = dnll_M.unsqueeze(-1)
        dlogits_MW = exp_MW.mul_(dnll_M1 / total_M1)
        dlogits_MW.scatter_add_(1, labels_M.unsqueeze(-1), -dnll_M1)
        dlogits_MW = dlogits_MW.to(x_MD.dtype)
        return torch.mm(dlogits_MW, head_WD), torch.mm(dlogits_MW.T, x_MD), None


def head_loss(x_MD: Tensor, head_WD: Tensor, labels_M: Tensor) -> tuple[Tensor, Tensor]:
    """-> negative log likelihood of each label, float32 [M], and whether it had the top logit.

    May be differentiated once: the backward pass overwrites what the forward pass kept.
    """
    nll_M, right_M = _HeadLoss.apply(x_MD, head_WD, labels_M)  # type: ignore[no-untyped-call]
    return nll_M, right_M
