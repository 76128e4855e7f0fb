"""INT4 training computes with the very weights that the exporter packs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune import load_model
from perilune.errors import UsageError
from perilune.formats.bf16 import BF16
from perilune.kernels.quantization import dequantize_int4, quantize_int4
from perilune.model import KimiK2Model
from perilune.train.config import (
    DataConfig,
    ModelShape,
    OptimConfig,
    QatConfig,
    RunConfig,
    ScheduleConfig,
    StageConfig,
)
from perilune.train.export import export_model
from perilune.train.initialise import initialise
from perilune.train.optim.muon_clip import MuonClip
from perilune.train.optim.parameters import Label
from perilune.train.qat import round_int4, start_qat
from perilune.train.stages.stage import check_qat

SHAPE = ModelShape(
    vocab_size=320, hidden_size=64, num_hidden_layers=2, intermediate_size=64,
    moe_intermediate_size=32, n_routed_experts=4, num_experts_per_tok=2, num_attention_heads=2,
    q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8,
)  # fmt: skip


def trained() -> MuonClip:
    model = KimiK2Model(SHAPE.model_config())
    initialise(model, 0)
    optimizer = MuonClip(model, OptimConfig(lr=0.05))
    for seed in range(3):
        torch.manual_seed(seed)
        optimizer.step([torch.randn_like(p.master) for p in optimizer.parameters], 1.0)
    return optimizer


def test_the_network_holds_the_rounded_masters() -> None:
    optimizer = trained()
    start_qat(optimizer)
    for seed in range(2):
        torch.manual_seed(seed)
        gradients = [torch.randn_like(p.master) for p in optimizer.parameters]
        before = {p.name: p.master.clone() for p in optimizer.parameters}
        optimizer.step(gradients, 1.0)
    for p in optimizer.parameters:
        if p.label is Label.EXPERTS:
            assert not p.value.equal(p.master)
            assert p.value.equal(round_int4(p.master, 32))
        else:
            assert p.value.data_ptr() == p.master.data_ptr()
        assert not p.master.equal(before[p.name])


def test_the_straight_through_step_is_that_of_an_unrounded_run() -> None:
    """Given the same gradients, masters move exactly as weights do without rounding."""
    plain, rounded = trained(), trained()
    start_qat(rounded)
    torch.manual_seed(9)
    gradients = [torch.randn_like(p.master) for p in plain.parameters]
    plain.step([g.clone() for g in gradients], 1.0)
    rounded.step([g.clone() for g in gradients], 1.0)
    for a, b in zip(plain.parameters, rounded.parameters, strict=True):
        assert a.master.equal(b.master)


def test_packed_forward_equals_the_trained_forward(tmp_path: Path) -> None:
    """Export to INT4, load through the format's own modules: experts' outputs equal bit by bit."""
    optimizer = trained()
    start_qat(optimizer)
    model = optimizer.model
    masters = KimiK2Model(SHAPE.model_config())
    masters.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, value in masters.named_parameters():
            value.copy_(next((p.master for p in optimizer.parameters if p.name == name), value))
    folder = export_model(masters, tmp_path / "int4")
    loaded = load_model(folder, dtype=torch.float32)
    ours, theirs = model.model.layers[1].mlp.experts, loaded.model.layers[1].mlp.experts
    assert type(theirs) is not type(ours)
    for e in range(4):
        packed = quantize_int4(masters.model.layers[1].mlp.experts.gate_proj[e])
        assert dequantize_int4(*packed).equal(ours.gate_proj[e])
    x = torch.randn(40, 64)
    weights, indices = model.model.layers[1].mlp.gate(x)
    with torch.no_grad():
        assert ours(x, weights, indices).equal(theirs(x, weights, indices))


def test_a_bf16_export_loads(tmp_path: Path) -> None:
    model = trained().model
    folder = export_model(model, tmp_path / "bf16", storage=BF16)
    loaded = load_model(folder, dtype=torch.float32)
    assert loaded.config == model.config
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids), model(ids), atol=0.1, rtol=0.1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.sampled_from([1e-7, 1e-3, 1.0, 300.0]))
def test_rounding_twice_hardly_moves(seed: int, size: float) -> None:
    """Weights on the grid stay within the rounding of a scale."""
    torch.manual_seed(seed)
    once = round_int4(torch.randn(3, 8, 64) * size, 32)
    assert (once - round_int4(once, 32)).abs().max() <= 0.01 * once.abs().max()


def test_widths_that_do_not_divide_are_refused() -> None:
    stage = StageConfig(
        data=DataConfig(sources=[]), schedule=ScheduleConfig(total_steps=1), qat=QatConfig()
    )
    config = RunConfig(stages={}, model=ModelShape(moe_intermediate_size=40))
    with pytest.raises(UsageError, match="40 do not divide"):
        check_qat(config, stage)
