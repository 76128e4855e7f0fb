"""The training forward against the plain model: same losses, same gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.model import KimiK2Model
from perilune.train.batch import collate, split_documents
from perilune.train.data.document import Document
from perilune.train.network import Measured, token_losses
from tests.train.shared import documents, small_model


def plain_losses(model: KimiK2Model, listed: list[Document]) -> torch.Tensor:
    """Losses of the trained tokens, each document with its header written out, by autograd."""
    losses = []
    for d in listed:
        ids = torch.tensor([[*d.header, *d.ids]])
        trained = torch.tensor([*[False] * len(d.header), *d.trained])
        trained[0] = False
        logits = model(ids)[0]
        nll = F.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
        losses.append(nll[trained[1:]])
    return torch.cat(losses)


@pytest.mark.parametrize("q_lora_rank", [24, None])
def test_losses_and_gradients_are_those_of_the_plain_model(q_lora_rank: int | None) -> None:
    model = small_model(q_lora_rank=q_lora_rank)
    listed = documents(9)
    parameters = [p for p in model.parameters() if p.requires_grad]
    nll_M, right_M = token_losses(model, collate(listed), Measured())
    expected = plain_losses(model, listed)
    torch.testing.assert_close(nll_M, expected, atol=1e-5, rtol=1e-5)
    weight_M = torch.rand(len(nll_M), generator=torch.Generator().manual_seed(1))
    got = torch.autograd.grad((nll_M * weight_M).sum(), parameters)
    want = torch.autograd.grad((expected * weight_M).sum(), parameters)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)
    assert right_M.dtype == torch.bool


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**16), st.integers(0, 3))
def test_sharing_headers_changes_nothing(count: int, seed: int, headers: int) -> None:
    """The batch with headers shared and the one with headers written out: loss, balance, load."""
    model = small_model()
    listed = documents(count, seed=seed, headers=headers)
    written = [
        Document([*d.header, *d.ids], [*[False] * len(d.header), *d.trained]) for d in listed
    ]
    parameters = [p for p in model.parameters() if p.requires_grad]
    results = []
    for version in (listed, written):
        measured = Measured()
        nll_M, right_M = token_losses(model, collate(version), measured)
        assert measured.balance_loss is not None
        loss = nll_M.sum() + measured.balance_loss
        results.append((nll_M, right_M, torch.autograd.grad(loss, parameters), measured))
    (nll, right, gradients, measured), (nll2, right2, gradients2, measured2) = results
    torch.testing.assert_close(nll, nll2, atol=1e-5, rtol=1e-5)
    assert right.equal(right2)
    for a, b in zip(gradients, gradients2, strict=True):
        torch.testing.assert_close(a, b, atol=3e-5, rtol=1e-4)
    torch.testing.assert_close(measured.balance_loss, measured2.balance_loss)
    for a, b in zip(measured.load_LE, measured2.load_LE, strict=True):
        assert a.equal(b)
    for a, b in zip(measured.max_logit_LH, measured2.max_logit_LH, strict=True):
        torch.testing.assert_close(a, b)


def test_a_header_is_computed_once() -> None:
    header = list(range(20))
    listed = [Document([1, 2, 3], [True] * 3, header) for _ in range(5)]
    batch = collate(listed)
    assert batch.tokens == 20 + 5 * 3
    assert batch.trained == 15  # the first token too: the header's end predicts it
    assert batch.multiplicity_N.sum() == 5 * 23


def test_the_first_token_of_all_is_not_trained() -> None:
    batch = collate([Document([1, 2], [True, True])])
    assert batch.labels_M.tolist() == [2]


def test_maxima_are_those_of_the_scores() -> None:
    """The largest score that QK-Clip sees is the largest of the plain attention's."""
    model = small_model()
    listed = documents(4, headers=1)
    measured = Measured()
    token_losses(model, collate(listed), measured)
    seen: list[torch.Tensor] = []
    attention = model.model.layers[0].self_attn
    softmax = attention._softmax

    def spy(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scaled = (scores * attention.softmax_scale).masked_fill(~mask, -torch.inf)
        seen.append(scaled.amax(dim=(0, 2, 3)))
        return softmax(scores, mask)

    attention._softmax = spy  # type: ignore[method-assign]
    plain_losses(model, listed)
    torch.testing.assert_close(measured.max_logit_LH[0], torch.stack(seen).amax(0))


@given(st.integers(1, 30), st.integers(1, 7), st.integers(0, 99))
def test_splitting_keeps_every_document(count: int, parts: int, seed: int) -> None:
    listed = documents(count, seed=seed)
    split = split_documents(listed, parts)
    assert len(split) == parts

    def key(d: Document) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return tuple(d.header), tuple(d.ids)

    assert sorted(key(d) for part in split for d in part) == sorted(map(key, listed))
