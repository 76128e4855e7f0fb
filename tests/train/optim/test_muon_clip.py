"""A step against torch's own Muon and AdamW, head by head, and QK-Clip made to act."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from perilune.errors import UsageError
from perilune.train.batch import collate
from perilune.train.config import Method, OptimConfig
from perilune.train.network import Measured, token_losses
from perilune.train.optim.muon_clip import MuonClip
from perilune.train.optim.newton_schulz import orthogonalise
from perilune.train.optim.parameters import Label, Parameter, parameter_table
from tests.train.shared import documents, small_model


def gradients(optimizer: MuonClip, seed: int = 0) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [0.01 * torch.randn_like(p.master) for p in optimizer.parameters]


def named(optimizer: MuonClip, name: str) -> Parameter:
    return next(p for p in optimizer.parameters if p.name == name)


def test_every_parameter_has_a_label() -> None:
    model = small_model()
    table = parameter_table(model)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert sorted(p.name for p in table) == sorted(trained)
    labels = {p.name: p.label for p in table}
    assert labels["model.layers.1.mlp.gate.weight"] is Label.ROUTER
    assert labels["model.layers.0.mlp.up_proj.weight"] is Label.MLP
    assert labels["model.layers.1.mlp.shared_experts.up_proj.weight"] is Label.MLP
    assert labels["model.layers.1.mlp.experts.up_proj"] is Label.EXPERTS
    assert {p.name for p in table if not p.label.muon} == {
        name for name in trained if "norm" in name or "embed" in name or "lm_head" in name
    }


def test_a_module_that_nobody_knows_is_refused() -> None:
    model = small_model()
    model.extra = nn.Linear(3, 3)
    with pytest.raises(UsageError, match=r"extra\.weight"):
        parameter_table(model)


def test_steps_are_those_of_torch() -> None:
    """Three steps of unsplit matrices and of AdamW's parameters, beside torch.optim."""
    model = small_model()
    config = OptimConfig(
        lr=0.02, adamw_lr=0.01, method=Method.QUINTIC, steps=5, clip_norm=1e9, qk_clip=None
    )
    optimizer = MuonClip(model, config)
    matrix, head = (
        named(optimizer, "model.layers.0.mlp.up_proj.weight"),
        named(optimizer, "lm_head.weight"),
    )
    theirs = [nn.Parameter(p.master.clone()) for p in (matrix, head)]
    muon = torch.optim.Muon(
        theirs[:1], lr=0.02, weight_decay=0.1, momentum=0.95, ns_steps=5,
        adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    adamw = torch.optim.AdamW(theirs[1:], lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for seed in range(3):
        grads = gradients(optimizer, seed)
        for their, p in zip(theirs, (matrix, head), strict=True):
            their.grad = grads[optimizer.parameters.index(p)].clone()
        optimizer.step(grads, 1.0)
        muon.step()
        adamw.step()
    torch.testing.assert_close(head.value, theirs[1], atol=1e-6, rtol=1e-5)
    # torch iterates in bfloat16: equal to its rounding.
    update, their_update = matrix.value, theirs[0]
    torch.testing.assert_close(update, their_update, atol=2e-3, rtol=0)
    assert (update - small_model().model.layers[0].mlp.up_proj.weight).abs().mean() > 5e-3


def test_heads_and_experts_are_matrices_of_their_own() -> None:
    """Each head of the up-projections, and each expert, gets the update it would get alone."""
    model = small_model()
    optimizer = MuonClip(model, OptimConfig(lr=1.0, weight_decay=0.0, qk_clip=None, clip_norm=1e9))
    for name, rows in (
        ("model.layers.0.self_attn.q_b_proj.weight", 20),
        ("model.layers.0.self_attn.kv_b_proj.weight", 22),
        ("model.layers.1.mlp.experts.down_proj", 32),
    ):
        p = named(optimizer, name)
        assert p.block_shape[0] == rows
    before = {p.name: p.master.clone() for p in optimizer.parameters}
    grads = gradients(optimizer)
    # A head whose gradient is a thousand times smaller must not starve.
    query = named(optimizer, "model.layers.0.self_attn.q_b_proj.weight")
    grads[optimizer.parameters.index(query)][:20] *= 1e-3
    originals = [g.clone() for g in grads]
    report = optimizer.step(grads, 1.0)
    for p, gradient in zip(optimizer.parameters, originals, strict=True):
        if not p.label.muon:
            continue
        change = p.as_blocks(before[p.name] - p.master)
        for block, expected in zip(change, p.as_blocks(gradient), strict=True):
            alone = orthogonalise(expected[None])[0] * 0.2 * max(p.block_shape) ** 0.5
            torch.testing.assert_close(block, alone, atol=2e-4, rtol=1e-3)
    change = query.as_blocks(before[query.name] - query.master).square().mean((1, 2)).sqrt()
    assert change.min() > 0.18
    assert all(0.15 < rms < 0.25 for rms in report.update_rms.values())


def test_threads_change_nothing() -> None:
    results = []
    with ThreadPoolExecutor(2) as pool:
        for executor in (None, pool):
            optimizer = MuonClip(small_model(), OptimConfig())
            optimizer.step(gradients(optimizer), 1.0, executor=executor)
            results.append([p.master for p in optimizer.parameters])
    for a, b in zip(*results, strict=True):
        assert a.equal(b)


def test_raw_gradients_are_clipped_by_their_global_norm() -> None:
    optimizer = MuonClip(small_model(), OptimConfig(clip_norm=0.5, qk_clip=None))
    grads = gradients(optimizer)
    norm = torch.cat([g.flatten() for g in grads]).norm()
    assert norm > 0.5
    head = optimizer.parameters.index(named(optimizer, "lm_head.weight"))
    expected = grads[head] * (0.5 / norm) * 0.1
    report = optimizer.step(grads, 1.0)
    assert report.grad_norm == pytest.approx(float(norm))
    torch.testing.assert_close(optimizer.state["exp_avg.lm_head.weight"], expected)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    optimizer = MuonClip(small_model(), OptimConfig())
    before = [p.master.clone() for p in optimizer.parameters]
    grads = gradients(optimizer)
    grads[3][0] = torch.nan
    report = optimizer.step(grads, 1.0)
    assert not report.grad_norm < float("inf")
    for p, old in zip(optimizer.parameters, before, strict=True):
        assert p.master.equal(old)
    assert all(state.abs().max() == 0 for state in optimizer.state.values())


@pytest.mark.parametrize("q_lora_rank", [24, None])
def test_qk_clip_brings_the_largest_score_to_the_threshold(q_lora_rank: int | None) -> None:
    """With a learning rate of zero only the clip acts: every head above the threshold then has
    its largest score at the threshold, the others what they had."""
    model = small_model(q_lora_rank=q_lora_rank)
    with torch.no_grad():
        for layer in model.model.layers:
            query = layer.self_attn.q_b_proj if q_lora_rank else layer.self_attn.q_proj
            query.weight.mul_(6.0)
    listed = documents(8)

    def maxima() -> list[torch.Tensor]:
        measured = Measured()
        with torch.no_grad():
            token_losses(model, collate(listed), measured)
        return measured.max_logit_LH

    before = maxima()
    # The first layer alone: what it attends to changes the scores of the layers above.
    threshold = float(before[0].mean())
    assert before[0].min() < threshold < before[0].max()
    values = {n: p.clone() for n, p in model.named_parameters()}
    optimizer = MuonClip(model, OptimConfig(lr=0.0, adamw_lr=0.0, qk_clip=threshold))
    report = optimizer.step(gradients(optimizer), 1.0, before)
    after = maxima()
    torch.testing.assert_close(after[0], before[0].clamp_max(threshold), atol=1e-4, rtol=1e-5)
    assert report.clipped_heads == sum(int((m > threshold).sum()) for m in before)
    # The shared rotary key and the values are untouched.
    name = "model.layers.0.self_attn."
    changed = {
        n for n, p in model.named_parameters() if n.startswith(name) and not p.equal(values[n])
    }
    query_name = "q_b_proj" if q_lora_rank else "q_proj"
    assert changed == {f"{name}{query_name}.weight", f"{name}kv_b_proj.weight"}
    up = torch.unflatten(model.model.layers[0].self_attn.kv_b_proj.weight, 0, (2, -1))
    old = torch.unflatten(values[f"{name}kv_b_proj.weight"], 0, (2, -1))
    assert up[:, 12:].equal(old[:, 12:])


def test_qk_clip_leaves_heads_without_a_score() -> None:
    model = small_model()
    before = [p.clone() for p in model.parameters()]
    optimizer = MuonClip(model, OptimConfig(lr=0.0, adamw_lr=0.0, qk_clip=1.0))
    nothing = [torch.tensor([-torch.inf, torch.nan])] * 3
    report = optimizer.step(gradients(optimizer), 1.0, nothing)
    assert report.clipped_heads == 0
    for p, old in zip(model.parameters(), before, strict=True):
        assert p.equal(old)
