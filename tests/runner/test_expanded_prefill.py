"""Prompts that attend in the expanded form: against the reference, and in any other schedule."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from perilune.engine.load import EngineOptions, load_engine
from perilune.engine.sampling_params import SamplingParams
from perilune.formats import FORMATS, StorageFormat
from perilune.formats.int4 import INT4
from perilune.kernels import native
from perilune.kernels.native import KernelError
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
from tests.runner.test_cpu_runner import CONFIGS, kl_divergence

pytestmark = [
    pytest.mark.skipif(not native.available(), reason="the C library is not built"),
    pytest.mark.usefixtures("library_as_it_was"),
]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_exact_mode_agrees_with_the_reference(name: str, dtype: torch.dtype) -> None:
    config = CONFIGS[name]
    model = random_model(config, dtype=dtype)
    (ids,) = random_prompts(config, [300])
    expected = reference_logits(model, ids)
    runner = CpuRunner(model, exact=True, expanded_prefill=True)
    got = run_alone(runner, config, ids, dtype=torch.float32, absorbed=20)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("storage", list(FORMATS.values()))
@pytest.mark.parametrize("dense", [None, "int8", "int4"])
def test_fast_modes_stay_as_close_as_in_the_absorbed_form(
    storage: StorageFormat, dense: str | None
) -> None:
    model = random_model(BASE, storage=storage)
    (ids,) = random_prompts(BASE, [256])
    expected = reference_logits(model, ids)
    runner = CpuRunner(model, dense_format=dense, expanded_prefill=True)
    got = run_alone(runner, BASE, ids, dtype=torch.bfloat16)
    assert 0 < kl_divergence(expected, got) < {None: 1e-3, "int8": 5e-3, "int4": 0.5}[dense]


@pytest.mark.parametrize("isa", native.isas() if native.available() else [])
@pytest.mark.parametrize("mode", ["default", "exact", "exact, bf16 cache", "int8", "int4"])
@pytest.mark.parametrize("name", ["base", "tied, odd widths", "wide heads"])
def test_a_row_does_not_know_its_company(isa: str, mode: str, name: str) -> None:
    """Bitwise: alone in one step, or in random chunks, batches and pages; on every set."""
    config = CONFIGS[name]
    native.select_isa(isa)
    model = random_model(config, storage=INT4)
    runner = CpuRunner(
        model, exact="exact" in mode, dense_format=dense_of(mode), expanded_prefill=True
    )
    dtype = torch.float32 if mode == "exact" else torch.bfloat16
    prompts = random_prompts(config, [150, 30, 300])
    alone = [run_alone(runner, config, ids, dtype=dtype, absorbed=9) for ids in prompts]
    if mode == "exact":
        torch.testing.assert_close(alone[2], reference_of(config, prompts[2]), atol=1e-4, rtol=0)
    for seed in range(2):
        together = run_schedule(
            runner, config, prompts, dtype=dtype, seed=seed, most_rows=170, absorbed=9
        )
        for expected, got in zip(alone, together, strict=True):
            assert torch.equal(got, expected)


def dense_of(mode: str) -> str | None:
    return mode if mode in ("int8", "int4") else None


def reference_of(config: object, ids: list[int]) -> torch.Tensor:
    return reference_logits(random_model(config, storage=INT4), ids)  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [1, 3, 7])
def test_the_number_of_threads_changes_nothing(threads: int) -> None:
    runner = CpuRunner(random_model(BASE), expanded_prefill=True)
    prompts = random_prompts(BASE, [900, 130, 20])
    schedule = {"dtype": torch.bfloat16, "seed": 0, "most_rows": 700}
    native.set_threads(2)
    expected = run_schedule(runner, BASE, prompts, **schedule)  # type: ignore[arg-type]
    native.set_threads(threads)
    got = run_schedule(runner, BASE, prompts, **schedule)  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_rows_from_the_border_on_are_absorbed() -> None:
    model = random_model(BASE, dtype=torch.float32)
    absorbed = CpuRunner(copy.deepcopy(model), exact=True)
    expanded = CpuRunner(model, exact=True, expanded_prefill=True)
    (ids,) = random_prompts(BASE, [200])
    one = run_alone(absorbed, BASE, ids, dtype=torch.float32)
    other = run_alone(expanded, BASE, ids, dtype=torch.float32, absorbed=100)
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    assert (one != other)[:100].any()
    none = run_alone(expanded, BASE, ids, dtype=torch.float32, absorbed=200)
    assert torch.equal(one, none)


def test_a_step_that_expands_needs_the_keys_of_the_layers() -> None:
    runner = CpuRunner(random_model(BASE))
    runner._expanded = True
    with pytest.raises(KernelError):
        run_alone(runner, BASE, [1] * 128, dtype=torch.bfloat16)


def test_weights_are_put_back() -> None:
    model = random_model(BASE)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    CpuRunner(model, expanded_prefill=True).restore()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_chunk_of_a_long_prompt_and_decoding_rows_share_a_step() -> None:
    """More rows than a unit has, more than a block of absorbed rows, and mixed company."""
    config = replace(BASE, num_hidden_layers=2, num_attention_heads=2)
    runner = CpuRunner(random_model(config), expanded_prefill=True)
    (ids, other) = random_prompts(config, [1500, 70])
    cache = PagedLatentCache.for_model(config, 40)
    whole = runner.execute(build_batch([SequenceRows(ids, 0, list(range(24)), 1500, 1500)]), cache)
    short = run_alone(runner, config, other, dtype=torch.bfloat16)
    pages, others = list(range(24)), [30, 31]
    runner.execute(build_batch([SequenceRows(other[:69], 0, others, 0, 70)]), cache)
    rows: list[torch.Tensor] = []
    for start, end in ((0, 300), (300, 1350), (1350, 1500)):
        step = build_batch(
            [
                SequenceRows(other[69:], 69, others, 1, 70),
                SequenceRows(ids[start:end], start, pages, end - start, 1500),
            ]
        )
        answer = runner.execute(step, cache)
        assert torch.equal(answer[0], short[69])
        rows.append(answer[1:])
    assert torch.equal(torch.cat(rows), whole)


def answers(model: KimiK2Model, prompts: list[list[int]], **options: Any) -> list[list[int]]:
    """The tokens of each prompt's answer."""
    engine = load_engine(model, EngineOptions(cache_tokens=2048, **options))
    params = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
    ids = [engine.add_request(prompt, params) for prompt in prompts]
    tokens: dict[str, list[int]] = {each: [] for each in ids}
    while engine.has_work:
        for output in engine.step():
            tokens[output.request_id] += output.tokens
    engine.close()
    return [tokens[each] for each in ids]


def spy_on_rows(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Of each sequence in each step that has rows to expand: its first position and the border."""
    seen: list[tuple[int, int]] = []
    plain = CpuRunner.execute

    def spy(self: CpuRunner, step: ForwardBatch, cache: PagedLatentCache) -> torch.Tensor:
        first = step.positions[step.query_starts[:-1].long()].tolist()
        if self._expanded:
            pairs = zip(first, step.expanded_until.tolist(), strict=True)
            seen.extend((at, until) for at, until in pairs if at < until)
        return plain(self, step, cache)

    monkeypatch.setattr(CpuRunner, "execute", spy)
    return seen


def test_chunks_and_company_change_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spy_on_rows(monkeypatch)
    model = random_model(BASE)
    prompts = random_prompts(BASE, [400, 270, 100])
    options = {"expanded_prefill": 256}
    alone = [answers(copy.deepcopy(model), [prompt], **options)[0] for prompt in prompts]
    assert seen == [(0, 384), (0, 256)]  # whole blocks, and no short prompt
    assert answers(copy.deepcopy(model), prompts, max_batch_tokens=96, **options) == alone
    assert answers(copy.deepcopy(model), prompts, max_batch_tokens=700, **options) == alone


def test_what_is_cached_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spy_on_rows(monkeypatch)
    (ids,) = random_prompts(BASE, [700])
    options = EngineOptions(cache_tokens=2048, expanded_prefill=256)
    engine = load_engine(random_model(BASE), options)
    params = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)
    for length in (320, 500, 700, 701):
        engine.add_request([*ids, 5][:length], params)
        while engine.has_work:
            engine.step()
    engine.close()
    # 320: two blocks; 500 has 180 new tokens: none; 700 has 200: none
    assert seen == [(0, 256)]
    assert engine.scheduler.config.expanded_prefill == 256


@pytest.mark.parametrize("options", [{"exact": True}, {"expanded_prefill": 0}])
def test_never_in_exact_mode_nor_when_told_so(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = spy_on_rows(monkeypatch)
    prompts = random_prompts(BASE, [700])
    answers(random_model(BASE, dtype=torch.float32), prompts, **options)
    assert not seen


def test_a_preempted_prompt_keeps_its_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few pages: the second is preempted and computed again, with its own first tokens cached."""
    model = random_model(BASE)
    prompts = random_prompts(BASE, [300, 280])
    options = {"expanded_prefill": 256}
    alone = [answers(copy.deepcopy(model), [prompt], **options)[0] for prompt in prompts]
    engine = load_engine(model, EngineOptions(cache_tokens=640, **options))
    params = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
    tokens: dict[str, list[int]] = {
        engine.add_request(prompts[1], params, priority=1): [],
    }
    low = next(iter(tokens))
    tokens[low] += engine.step()[0].tokens
    high = engine.add_request([*prompts[0]], params, priority=0)
    tokens[high] = []
    sequence = next(s for s in engine.scheduler.running if s.request.request_id == low)
    engine.scheduler._preempt(sequence)
    engine.clear_prefix_cache()
    while engine.has_work:
        for output in engine.step():
            tokens[output.request_id] += output.tokens
    engine.close()
    assert sequence.request.metrics.preemptions
    assert tokens[high] == alone[0]
    assert tokens[low] == alone[1]
