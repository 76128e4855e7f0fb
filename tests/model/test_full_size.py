"""The full-size network, built without its terabyte: counts, names, shapes, cost of building.

The tables are those of the published checkpoints of Kimi K2 and K2.5.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from perilune.config import read_config
from tests.shared import shared_path

TEXT_PARAMETERS = 1_026_408_232_448

PROGRAM = """
import json, resource, sys, time
from pathlib import Path
import torch
from perilune.config import ModelConfig, read_config
from perilune.model import KimiK2Model, named_slots

config = read_config(sys.argv[1]).text if len(sys.argv) > 1 else ModelConfig()
start = time.process_time()
with torch.device("meta"):
    model = KimiK2Model(config).to(torch.bfloat16)
seconds = time.process_time() - start
slots = {name: (list(t.shape), str(t.dtype)) for name, t in named_slots(model)}
if sys.platform == "darwin":
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
else:  # ru_maxrss would count what the process that started this one held
    (line,) = (l for l in open("/proc/self/status") if l.startswith("VmHWM"))
    peak = int(line.split()[1]) * 1024
print(json.dumps({
    "seconds": seconds,
    "peak": peak,
    "parameters": sum(p.numel() for p in model.parameters()),
    "slot_values": sum(t.numel() for _, t in named_slots(model)),
    "contiguous": all(t.is_contiguous() for _, t in named_slots(model)),
    "meta": all(t.is_meta for _, t in named_slots(model)),
    "same_names": list(model.state_dict()) == list(slots),
    "softmax_scale": model.model.layers[0].self_attn.softmax_scale,
    "slots": slots,
}))
"""


def build(*arguments: str) -> dict[str, Any]:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    result: dict[str, Any] = json.loads(run.stdout)
    return result


@pytest.fixture(scope="module")
def k2() -> dict[str, Any]:
    return build()


def published_table() -> dict[str, tuple[list[int], str]]:
    """Every text tensor of Kimi-K2-Instruct, in the dtypes of a BF16 checkpoint."""
    bf16, f32 = "torch.bfloat16", "torch.float32"
    table = {
        "model.embed_tokens.weight": ([163840, 7168], bf16),
        "model.norm.weight": ([7168], bf16),
        "lm_head.weight": ([163840, 7168], bf16),
    }

    def mlp(prefix: str, width: int) -> None:
        table[f"{prefix}.gate_proj.weight"] = ([width, 7168], bf16)
        table[f"{prefix}.up_proj.weight"] = ([width, 7168], bf16)
        table[f"{prefix}.down_proj.weight"] = ([7168, width], bf16)

    for n in range(61):
        layer = f"model.layers.{n}"
        table |= {
            f"{layer}.input_layernorm.weight": ([7168], bf16),
            f"{layer}.post_attention_layernorm.weight": ([7168], bf16),
            f"{layer}.self_attn.q_a_proj.weight": ([1536, 7168], bf16),
            f"{layer}.self_attn.q_a_layernorm.weight": ([1536], bf16),
            f"{layer}.self_attn.q_b_proj.weight": ([12288, 1536], bf16),
            f"{layer}.self_attn.kv_a_proj_with_mqa.weight": ([576, 7168], bf16),
            f"{layer}.self_attn.kv_a_layernorm.weight": ([512], bf16),
            f"{layer}.self_attn.kv_b_proj.weight": ([16384, 512], bf16),
            f"{layer}.self_attn.o_proj.weight": ([7168, 8192], bf16),
        }
        if n == 0:
            mlp(f"{layer}.mlp", 18432)
            continue
        table[f"{layer}.mlp.gate.weight"] = ([384, 7168], bf16)
        table[f"{layer}.mlp.gate.e_score_correction_bias"] = ([384], f32)
        for e in range(384):
            mlp(f"{layer}.mlp.experts.{e}", 2048)
        mlp(f"{layer}.mlp.shared_experts", 2048)
    return table


def test_parameters(k2: dict[str, Any]) -> None:
    assert k2["parameters"] == TEXT_PARAMETERS
    assert k2["slot_values"] == TEXT_PARAMETERS


def test_every_name_and_shape(k2: dict[str, Any]) -> None:
    built = {name: (shape, dtype) for name, (shape, dtype) in k2["slots"].items()}
    assert built == published_table()
    assert k2["same_names"]
    assert k2["contiguous"]
    assert k2["meta"]


def test_cost_of_building(k2: dict[str, Any]) -> None:
    print(f"built in {k2['seconds']:.2f} s of processor time, peak {k2['peak'] / 1e6:.0f} MB")
    assert k2["seconds"] < 10
    assert k2["peak"] < 1.5e9


def test_softmax_scales(k2: dict[str, Any]) -> None:
    assert k2["softmax_scale"] == pytest.approx(0.1308608, abs=5e-8)


def test_published_k25_configuration() -> None:
    folder = shared_path("data/kimi-tokenizer/config.json").parent
    config = read_config(folder)
    assert config.text.latent_dim == 576
    k25 = build(str(folder))
    assert k25["parameters"] == TEXT_PARAMETERS
    assert k25["softmax_scale"] == pytest.approx(0.1446796, abs=5e-8)
