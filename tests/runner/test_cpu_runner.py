"""The native forward against the model's own modules, and against itself in any other schedule."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perilune.config import ModelConfig, RopeConfig
from perilune.errors import UsageError
from perilune.formats import FORMATS, StorageFormat
from perilune.formats.fp8 import FP8
from perilune.formats.int4 import INT4
from perilune.kernels import native
from perilune.kernels.native import KernelError
from perilune.kernels.quantization import dequantize_int4, quantize_int4
from perilune.kernels.thread_choice import ThreadChoice
from perilune.model.model import KimiK2Model
from perilune.runner.batch import ForwardBatch, SequenceRows, build_batch
from perilune.runner.cache import PagedLatentCache
from perilune.runner.cpu.runner import CpuRunner
from tests.runner.models import (
    BASE,
    random_model,
    random_prompts,
    reference_logits,
    run_alone,
    run_schedule,
)

pytestmark = [
    pytest.mark.skipif(not native.available(), reason="the C library is not built"),
    pytest.mark.usefixtures("library_as_it_was"),
]

CONFIGS = {
    "base": BASE,
    "no query rank, all layers experts": replace(BASE, q_lora_rank=None, first_k_dense_replace=0),
    "all layers dense": replace(BASE, first_k_dense_replace=3),
    "groups of experts": replace(
        BASE, n_routed_experts=12, num_experts_per_tok=3, n_group=4, topk_group=2
    ),
    "one group, weights not normalised, two shared": replace(
        BASE, norm_topk_prob=False, n_shared_experts=2, routed_scaling_factor=1.0
    ),
    "tied, odd widths": replace(
        BASE,
        tie_word_embeddings=True,
        vocab_size=77,
        num_attention_heads=4,
        v_head_dim=24,
        qk_rope_head_dim=6,
        hidden_size=96,
        rope=RopeConfig(theta=1e4, mscale_all_dim=0.0),
    ),
    "wide heads": replace(
        BASE, num_attention_heads=8, kv_lora_rank=160, qk_nope_head_dim=96, qk_rope_head_dim=64
    ),
}


def kl_divergence(reference_RV: Tensor, logits_RV: Tensor) -> float:
    """Median over rows, in nats: where rounding tips the router, one row differs by far more."""
    p, q = reference_RV.log_softmax(-1), logits_RV.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).median())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_exact_mode_agrees_with_the_float32_reference(name: str, dtype: torch.dtype) -> None:
    config = CONFIGS[name]
    model = random_model(config, dtype=dtype)
    (ids,) = random_prompts(config, [150])
    expected = reference_logits(model, ids)
    runner = CpuRunner(model, exact=True)
    (got,) = run_schedule(runner, config, [ids], dtype=torch.float32, seed=1)
    assert expected.std() > 0.3  # a network that says nothing would agree with anything
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("storage", [INT4, FP8])
def test_exact_mode_agrees_in_every_storage_format(storage: StorageFormat) -> None:
    config = replace(BASE, hidden_size=160, kv_lora_rank=160)  # more than one block of 128
    model = random_model(config, storage=storage)
    (ids,) = random_prompts(config, [100])
    expected = reference_logits(model, ids)
    got = run_alone(CpuRunner(model, exact=True), config, ids, dtype=torch.float32)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("isa", native.isas() if native.available() else [])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", ["base", "tied, odd widths", "wide heads"])
def test_every_instruction_set_agrees(isa: str, exact: bool, name: str) -> None:
    config = CONFIGS[name]
    model = random_model(config, storage=INT4)
    (ids,) = random_prompts(config, [90])
    expected = reference_logits(model, ids)
    native.select_isa(isa)
    runner = CpuRunner(model, exact=exact)
    cache = torch.float32 if exact else torch.bfloat16
    got = run_alone(runner, config, ids, dtype=cache)
    if exact:
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    else:
        assert kl_divergence(expected, got) < 1e-3
    (scheduled,) = run_schedule(runner, config, [ids], dtype=cache, seed=3)
    assert torch.equal(scheduled, got)


@pytest.mark.parametrize("mode", ["default", "exact", "exact, bf16 cache", "int8", "int4"])
def test_a_row_does_not_know_its_company(mode: str) -> None:
    """Bitwise: alone in one step, or in random chunks, batches and pages."""
    model = random_model(BASE, storage=INT4)
    dense = mode if mode.startswith("int") else None
    runner = CpuRunner(model, exact="exact" in mode, dense_format=dense)
    dtype = torch.float32 if mode == "exact" else torch.bfloat16
    prompts = random_prompts(BASE, [1, 64, 65, 130, 200, 17])
    alone = [run_alone(runner, BASE, ids, dtype=dtype) for ids in prompts]
    for seed in range(4):
        together = run_schedule(runner, BASE, prompts, dtype=dtype, seed=seed, most_rows=90)
        for expected, got in zip(alone, together, strict=True):
            assert torch.equal(got, expected)


def test_a_long_prompt_in_one_step_is_that_prompt_in_many() -> None:
    """More rows than one block of absorbed queries, and more context than one split."""
    config = replace(BASE, num_hidden_layers=2, num_attention_heads=2)
    model = random_model(config)
    (ids,) = random_prompts(config, [4500])
    expected = reference_logits(model, ids)
    runner = CpuRunner(model, exact=True)
    got = run_alone(runner, config, ids, dtype=torch.float32)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    (chunked,) = run_schedule(runner, config, [ids], dtype=torch.float32, seed=5, most_rows=700)
    assert torch.equal(chunked, got)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_context_cut_over_threads_is_the_whole_one(dtype: torch.dtype) -> None:
    """Few rows over long contexts are attended to in splits, side by side."""
    config = replace(BASE, num_hidden_layers=2)
    runner = CpuRunner(random_model(config))
    first, second = random_prompts(config, [4200, 2060])
    cache = PagedLatentCache.for_model(config, 100, dtype=dtype)
    pages = list(range(100))
    native.set_threads(1)
    runner.execute(build_batch([SequenceRows(first, 0, pages[:66], 1)]), cache)
    runner.execute(build_batch([SequenceRows(second, 0, pages[66:], 1)]), cache)
    steps = [
        build_batch([SequenceRows(first[-3:], 4197, pages[:66], 3)]),
        build_batch(
            [
                SequenceRows(second[-2:], 2058, pages[66:], 2),
                SequenceRows([first[70]], 70, pages[:66], 1),
                SequenceRows(first[-1:], 4199, pages[:66], 1),
            ]
        ),
    ]
    alone = [runner.execute(step, cache) for step in steps]
    for threads in (2, 3, 9):
        native.set_threads(threads)
        for step, expected in zip(steps, alone, strict=True):
            assert torch.equal(runner.execute(step, cache), expected)


@pytest.mark.parametrize("threads", [1, 3, 7])
def test_the_number_of_threads_changes_nothing(threads: int) -> None:
    model = random_model(BASE, storage=INT4)
    runner = CpuRunner(model)
    prompts = random_prompts(BASE, [1, 70, 20])
    native.set_threads(2)
    expected = run_schedule(runner, BASE, prompts, dtype=torch.bfloat16, seed=0)
    native.set_threads(threads)
    got = run_schedule(runner, BASE, prompts, dtype=torch.bfloat16, seed=0)
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("chosen", [1, 2])
def test_a_step_runs_on_the_threads_that_were_chosen(
    chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = CpuRunner(random_model(BASE, storage=INT4))
    prompts = random_prompts(BASE, [1, 70, 20])
    native.set_threads(3)
    expected = run_schedule(runner, BASE, prompts, dtype=torch.bfloat16, seed=0)
    seen: list[int] = []
    plain = runner._native.forward

    def spy(**arguments: Any) -> Any:
        seen.append(arguments["most_threads"])
        return plain(**arguments)

    monkeypatch.setattr(runner._native, "forward", spy)
    monkeypatch.setattr(ThreadChoice, "threads", lambda self, rows: chosen)
    got = run_schedule(runner, BASE, prompts, dtype=torch.bfloat16, seed=0)
    assert set(seen) == {chosen}
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("storage", list(FORMATS.values()))
def test_the_fast_modes_stay_close(storage: StorageFormat) -> None:
    model = random_model(BASE, storage=storage)
    (ids,) = random_prompts(BASE, [120])
    expected = reference_logits(model, ids)
    fast = run_alone(CpuRunner(copy.deepcopy(model)), BASE, ids, dtype=torch.bfloat16)
    int8 = CpuRunner(copy.deepcopy(model), dense_format="int8")
    smaller = run_alone(int8, BASE, ids, dtype=torch.bfloat16)
    assert 0 < kl_divergence(expected, fast) < 1e-3
    assert 0 < kl_divergence(expected, smaller) < 5e-3


@pytest.mark.parametrize("storage", list(FORMATS.values()))
def test_restore_puts_every_bit_back(storage: StorageFormat) -> None:
    model = random_model(CONFIGS["tied, odd widths"], storage=storage)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    runner = CpuRunner(model)
    assert any(
        not torch.equal(_bits(tensor), _bits(before[name]))
        for name, tensor in model.state_dict().items()
    )
    runner.restore()
    for name, tensor in model.state_dict().items():
        assert torch.equal(_bits(tensor), _bits(before[name])), name
    with pytest.raises(KernelError):
        run_alone(runner, model.config, [1, 2], dtype=torch.bfloat16)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def test_weights_are_the_single_copy() -> None:
    model = random_model(BASE, storage=INT4)
    where = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    runner = CpuRunner(model)
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == where
    largest = max(t.numel() for t in (model.lm_head.weight, *model.model.norm.parameters()))
    owned = [t for t in runner._layout.keep if t.data_ptr() not in where.values()]
    assert all(t.numel() < largest for t in owned)  # norms, biases, frequencies


def rounded_to_int4(model: KimiK2Model) -> None:
    """Each dense weight as its INT4 copy stands for it, by the torch reference of the format."""
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(module, nn.Linear) or weight is None or name.endswith(".gate"):
            continue
        if name.endswith("kv_b_proj"):
            attention = model.get_submodule(name.removesuffix(".kv_b_proj"))
            nope, rank = attention.nope_dim, attention.rank
            parts = weight.data.view(attention.num_heads, -1, rank)
            key = parts[:, :nope].transpose(1, 2)  # as the absorbed form reads it
            parts[:, :nope] = rounded(key).transpose(1, 2)
            parts[:, nope:] = rounded(parts[:, nope:])
        else:
            module.weight = nn.Parameter(rounded(weight.data))  # a tied embedding stays as it is


def rounded(weight: Tensor) -> Tensor:
    return dequantize_int4(*quantize_int4(weight), weight.dtype)


@pytest.mark.parametrize("name", ["base", "tied, odd widths"])
def test_int4_dense_is_the_model_with_its_weights_rounded(name: str) -> None:
    config = CONFIGS[name]
    model = random_model(config, storage=INT4)
    (ids,) = random_prompts(config, [120])
    whole = reference_logits(model, ids)
    twin = random_model(config, storage=INT4)
    rounded_to_int4(twin)
    expected = reference_logits(twin, ids)
    got = run_alone(CpuRunner(model, dense_format="int4"), config, ids, dtype=torch.bfloat16)
    assert kl_divergence(expected, got) < 5e-3
    assert kl_divergence(whole, got) > 4 * kl_divergence(expected, got)


def test_int4_needs_numbers() -> None:
    model = random_model(BASE)
    model.lm_head.weight.data[3, 5] = torch.inf
    with pytest.raises(UsageError, match="not finite"):
        CpuRunner(model, dense_format="int4")


def test_a_format_that_there_is_not_is_refused() -> None:
    with pytest.raises(UsageError, match="int8 or int4, not 'int5'"):
        CpuRunner(random_model(BASE), dense_format="int5")


@pytest.mark.parametrize("dense", ["int8", "int4"])
def test_quantising_lets_the_originals_go_and_cannot_restore(dense: str) -> None:
    model = random_model(BASE)
    runner = CpuRunner(model, dense_format=dense)
    assert model.lm_head.weight.is_meta
    with pytest.raises(UsageError, match="cannot be put back"):
        runner.restore()


def test_exact_and_quantised_exclude_each_other() -> None:
    with pytest.raises(UsageError):
        CpuRunner(random_model(BASE), exact=True, dense_format="int8")


def test_the_profile_counts_the_bytes_of_the_weights_touched() -> None:
    config = replace(BASE, num_experts_per_tok=6)  # all of them
    model = random_model(config, storage=INT4)
    weights = {
        name: tensor.numel() * tensor.element_size() for name, tensor in model.state_dict().items()
    }

    def total(part: str) -> int:
        return sum(
            n
            for name, n in weights.items()
            if part in name and "norm" not in name and "bias" not in name and "shape" not in name
        )

    runner = CpuRunner(model)
    runner.profile = True
    run_alone(runner, config, [1, 2, 3], dtype=torch.bfloat16)
    profile = runner.last_profile
    assert profile is not None
    assert profile.bytes_read["attention"] == total("self_attn")
    assert profile.bytes_read["expert"] == total("mlp.experts")
    assert profile.bytes_read["router"] == total("mlp.gate.")
    assert profile.bytes_read["head"] == total("lm_head")
    assert profile.bytes_read["embed"] == 3 * config.hidden_size * 2
    assert profile.bytes_read["cache"] == 3 * config.latent_dim * 2 * config.num_hidden_layers
    dense = total("mlp.") - total("mlp.experts") - total("mlp.gate.")
    assert profile.bytes_read["mlp"] == dense
    assert profile.experts_touched == config.n_routed_experts * 2
    assert 0 < sum(profile.seconds.values()) <= profile.total_seconds * 1.01
    assert profile.total_bytes == sum(profile.bytes_read.values())


def test_no_row_and_no_wanted_logits() -> None:
    runner = CpuRunner(random_model(BASE))
    cache = PagedLatentCache.for_model(BASE, 2)
    assert runner.execute(build_batch([]), cache).shape == (0, BASE.vocab_size)
    step = build_batch([SequenceRows([1, 2, 3], 0, [1], 0)])
    assert runner.execute(step, cache).shape == (0, BASE.vocab_size)
    later = runner.execute(build_batch([SequenceRows([4], 3, [1], 1)]), cache)
    alone = run_alone(runner, BASE, [1, 2, 3, 4], dtype=torch.bfloat16)
    assert torch.equal(later[0], alone[3])


def _step(**changes: object) -> ForwardBatch:
    step = build_batch([SequenceRows([1, 2, 3], 62, [1, 0], 1)])
    return replace(step, **changes)  # type: ignore[arg-type]


def _int32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize(
    "changes",
    [
        {"input_ids": _int32(1, BASE.vocab_size, 3)},
        {"input_ids": _int32(1, -1, 3)},
        {"positions": _int32(62, 64, 65)},
        {"positions": _int32(-1, 0, 1), "context_lengths": _int32(2)},
        {"context_lengths": _int32(64)},
        {"query_starts": _int32(0, 2)},
        {"query_starts": _int32(1, 3)},
        {"page_tables": _int32(1, 2).view(1, 2)},
        {"page_tables": _int32(-1, 0).view(1, 2)},
        {"page_tables": _int32(1).view(1, 1)},
        {"logits_rows": _int32(3)},
        {"logits_rows": _int32(-1)},
    ],
)
def test_a_step_that_contradicts_itself_is_refused(changes: dict[str, Tensor]) -> None:
    runner = CpuRunner(random_model(BASE))
    cache = PagedLatentCache.for_model(BASE, 2)
    cache.storage.zero_()
    runner.execute(_step(), cache)
    cache.storage.zero_()
    with pytest.raises(KernelError):
        runner.execute(_step(**changes), cache)
    assert not cache.storage.any()


def test_a_cache_of_another_network_is_refused() -> None:
    runner = CpuRunner(random_model(BASE))
    other = replace(BASE, num_hidden_layers=2)
    with pytest.raises(KernelError, match="cache"):
        runner.execute(_step(), PagedLatentCache.for_model(other, 2))


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        (replace(BASE, hidden_size=80), "hidden_size"),
        (replace(BASE, qk_nope_head_dim=16), "qk_nope_head_dim"),
        (replace(BASE, v_head_dim=20), "v_head_dim"),
        (replace(BASE, qk_rope_head_dim=512), "qk_rope_head_dim"),
    ],
)
def test_sizes_that_the_kernels_do_not_take_are_named(config: ModelConfig, cause: str) -> None:
    model = KimiK2Model(config)
    assert cause in (CpuRunner.unsupported(model) or "")
    with pytest.raises(UsageError, match=cause):
        CpuRunner(model)


def test_other_dtypes_and_devices_are_named() -> None:
    assert "float16" in (CpuRunner.unsupported(KimiK2Model(BASE).half()) or "")
    with torch.device("meta"):
        model = KimiK2Model(BASE)
    assert "meta" in (CpuRunner.unsupported(model) or "")
    assert CpuRunner.unsupported(random_model(BASE)) is None


def test_without_the_library_the_torch_runner_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available", lambda: False)
    assert CpuRunner.unsupported(random_model(BASE)) == "the C library is not available"
    with pytest.raises(UsageError, match="TorchRunner"):
        CpuRunner(random_model(BASE))
