from __future__ import annotations

import torch
import torch.nn.functional as F

from perilune.train.balance import dead_experts, max_violation, routers_of, update_biases
from perilune.train.batch import collate
from perilune.train.network import Measured, token_losses
from tests.train.shared import documents, small_model


def test_biases_bring_an_unbalanced_layer_into_balance() -> None:
    """Nothing but the biases moves, and the load of every layer evens out."""
    model = small_model()
    with torch.no_grad():
        for block in routers_of(model):
            block.gate.weight.mul_(0.1)
            block.gate.e_score_correction_bias.copy_(torch.tensor([0.3, 0, 0, 0, 0, -0.3]))
    batch = collate(documents(40, longest=20))

    def load() -> list[torch.Tensor]:
        measured = Measured()
        with torch.no_grad():
            token_losses(model, batch, measured)
        return measured.load_LE

    first = load()
    assert all(dead_experts(one) for one in first)
    assert all(max_violation(one) > 1.5 for one in first)
    for step in range(60):
        update_biases(model, load(), 0.02 if step < 30 else 0.004)
    assert all(max_violation(one) < 0.5 for one in load())
    assert not any(dead_experts(one) for one in load())
    for block in routers_of(model):
        assert abs(float(block.gate.e_score_correction_bias.mean())) < 1e-6


def test_the_balance_loss_is_the_published_sum() -> None:
    """Against the formula written out for one document of one layer."""
    model = small_model()
    listed = documents(1, headers=0)
    measured = Measured()
    token_losses(model, collate(listed), measured)
    expected = 0.0
    for block in routers_of(model):
        seen: list[torch.Tensor] = []
        hook = block.register_forward_pre_hook(lambda _m, inputs, seen=seen: seen.append(inputs[0]))
        with torch.no_grad():
            model(torch.tensor([listed[0].ids]))
        hook.remove()
        x = seen[0].flatten(0, -2)
        scores = F.linear(x, block.gate.weight).sigmoid()
        _, indices = block.gate(x)
        experts, top_k, tokens = 6, 2, len(x)
        f = torch.stack([(indices == e).sum() * experts / (top_k * tokens) for e in range(experts)])
        p = (scores / scores.sum(-1, keepdim=True)).mean(0)
        expected += float((f * p).sum().detach())
    assert measured.balance_loss is not None
    torch.testing.assert_close(float(measured.balance_loss.detach()), expected)
