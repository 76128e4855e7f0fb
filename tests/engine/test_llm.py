"""The API for scripts: what goes in, what comes out, what is refused, what it needs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import perilune
from perilune.chat.deltas import FinishReason
from perilune.config import ModelConfig, read_config
from perilune.engine.conversation import next_call_index, recommended_sampling
from perilune.engine.llm import LLM
from perilune.engine.load import EngineOptions, load_engine, plan_memory
from perilune.engine.metrics import ReadCost, StepMetrics
from perilune.engine.sampling_params import SamplingParams
from perilune.errors import EngineError, MediaError, OutOfMemoryError, RequestError, UsageError
from perilune.formats.bf16 import BF16
from perilune.formats.fp8 import FP8
from perilune.runner.batch import ForwardBatch
from perilune.runner.cache import PagedLatentCache, page_bytes
from perilune.weights.load import load_model
from perilune.weights.tensor_table import is_vision
from tests.engine.models import reference_logprobs
from tests.runner.models import BASE, random_model

SHORT = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)


def test_prompts_come_as_text_or_ids_one_or_many(llm: LLM) -> None:
    assert llm.chat_format is not None
    ids = llm.chat_format.tokenizer.encode("The Moon")
    (by_text,) = llm.generate("The Moon", SHORT)
    (by_ids,) = llm.generate(ids, SHORT)
    many = llm.generate(["Hello", ids], [replace(SHORT, max_tokens=3), SHORT])
    assert by_text.answers[0].token_ids == by_ids.answers[0].token_ids
    assert many[1].answers[0].token_ids == by_ids.answers[0].token_ids
    assert len(many[0].answers[0].token_ids) == 3
    assert by_text.text == llm.chat_format.decode(by_text.answers[0].token_ids)
    assert by_text.prompt_ids == ids
    assert llm.generate([], SHORT) == []


def test_n_answers_with_logprobs(llm: LLM) -> None:
    params = SamplingParams(max_tokens=5, n=3, temperature=1.0, seed=1, logprobs=2, ignore_eos=True)
    (result,) = llm.generate("The Moon", params)
    assert [answer.index for answer in result.answers] == [0, 1, 2]
    assert len({tuple(answer.token_ids) for answer in result.answers}) > 1
    for answer in result.answers:
        assert [entry.token for entry in answer.logprobs] == answer.token_ids
        assert all(len(entry.top) == 2 and entry.logprob <= 0 for entry in answer.logprobs)
    (one,) = llm.generate("The Moon", replace(params, n=1))
    assert one.answers[0].token_ids == result.answers[0].token_ids


def test_chats_come_one_or_many(llm: LLM) -> None:
    hello = [{"role": "user", "content": "Hello"}]
    params = SamplingParams(max_tokens=30, seed=2, thinking_budget=4)
    (one,) = llm.chat(hello, params)
    two = llm.chat([hello, [{"role": "user", "content": "Bye"}]], params)
    assert two[0].message == one.message and len(two) == 2
    assert one.message["role"] == "assistant" and one.answers[0].reasoning
    (instant,) = llm.chat(hello, params, thinking=False)
    assert "reasoning_content" not in instant.message or instant.answers[0].text == ""
    llm.chat(hello, replace(recommended_sampling(llm.chat_format.family), max_tokens=2))  # type: ignore[union-attr]


def test_one_bad_request_of_several_and_none_runs(llm: LLM) -> None:
    with pytest.raises(RequestError, match="empty"):
        llm.generate([[1, 2], []], SHORT)
    assert not llm.engine.has_work and llm.engine.pages.num_held == 0
    with pytest.raises(UsageError, match="2 sampling params, but 1 prompts"):
        llm.generate("x", [SHORT, SHORT])
    with pytest.raises(MediaError, match="not PNG"):
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
        llm.chat([{"role": "user", "content": [image]}], SHORT)


def test_an_interrupt_leaves_the_engine_usable(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    execute, calls = llm.engine.runner.execute, []

    def interrupted(step: ForwardBatch, cache: PagedLatentCache) -> torch.Tensor:
        calls.append(step)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return execute(step, cache)

    monkeypatch.setattr(llm.engine.runner, "execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["a", "b"], SHORT)
    assert not llm.engine.has_work and llm.engine.pages.num_held == 0
    assert len(llm.generate("a", SHORT)[0].answers[0].token_ids) == 8


def test_a_broken_row_fails_its_request_by_name(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    execute = llm.engine.runner.execute

    def broken(step: ForwardBatch, cache: PagedLatentCache) -> torch.Tensor:
        logits = execute(step, cache).clone()
        logits[1:] = torch.nan
        return logits

    monkeypatch.setattr(llm.engine.runner, "execute", broken)
    with pytest.raises(RequestError, match="not a number"):
        llm.generate(["a", "b"], SHORT)
    assert llm.engine.pages.num_held == 0


def test_a_model_in_memory_works_with_ids(bf16_folder: Path, llm: LLM) -> None:
    model = load_model(bf16_folder, dtype=torch.float32)
    with LLM(model, exact=True, native=False, cache_tokens=512) as bare:
        (result,) = bare.generate([3, 4, 5], SHORT)
        assert result.answers[0].token_ids == llm.generate([3, 4, 5], SHORT)[0].answers[0].token_ids
        assert result.answers[0].finish_reason is FinishReason.LENGTH
        with pytest.raises(UsageError, match="tokenizer"):
            bare.generate("text")
        with pytest.raises(UsageError, match="chat format"):
            bare.chat([{"role": "user", "content": "x"}])


def test_unknown_options_are_named(bf16_folder: Path) -> None:
    with pytest.raises(UsageError, match=r"'colour'.*exact"):
        LLM(bf16_folder, colour="red")
    with pytest.raises(UsageError, match="dense_format"):
        load_engine(bf16_folder, EngineOptions(native=False, dense_format="int8"))
    with pytest.raises(UsageError, match="int8 or int4, not 'int5'"):
        LLM(bf16_folder, dense_format="int5")
    with pytest.raises(EngineError):
        load_engine(bf16_folder, EngineOptions(max_batch_tokens=2, max_sequences=4))


def test_call_indices_go_on_from_the_prompt(llm: LLM) -> None:
    assert llm.chat_format is not None
    call = {"id": "functions.a:4", "type": "function", "function": {"name": "a", "arguments": "{}"}}
    history = [
        {"role": "user", "content": "functions.b:99"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "functions.a:4", "content": "x"},
    ]
    assert next_call_index(llm.chat_format, llm.chat_format.encode(history)) == 5
    assert next_call_index(llm.chat_format, llm.chat_format.encode(history[:1])) == 0


def test_a_stop_id_that_does_not_stop_is_no_text(llm: LLM) -> None:
    assert llm.chat_format is not None
    end = llm.chat_format.special_ids.im_end
    assert end is not None
    params = SamplingParams(max_tokens=12, seed=1, ignore_eos=True, logit_bias={end: 13.0})
    (result,) = llm.chat([{"role": "user", "content": "Hello"}], params, thinking=False)
    assert result.answers[0].token_ids.count(end) > 1
    assert len(result.answers[0].token_ids) == 12 and "im_end" not in result.text


def test_ids_without_text_are_never_picked(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm.engine, "_known_tokens", 100)
    (result,) = llm.generate([5, 6], SamplingParams(max_tokens=30, temperature=2.0, seed=1))
    assert max(result.answers[0].token_ids) < 100


# --- memory ------------------------------------------------------------------------------------


@pytest.fixture
def config(bf16_folder: Path) -> ModelConfig:
    return read_config(bf16_folder).text


def test_what_does_not_fit_is_refused_with_numbers(config: ModelConfig) -> None:
    options = EngineOptions(cache_tokens=64_000)
    with pytest.raises(
        OutOfMemoryError, match=r"weights 600\.00 GB.*64000 tokens.*8\.00 GB are free"
    ):
        plan_memory(config, 600 * 10**9, options, 8 * 10**9)
    with pytest.raises(OutOfMemoryError):
        plan_memory(config, 10**9, EngineOptions(), 10**9)


def test_the_plan_fits_and_counts_everything(config: ModelConfig) -> None:
    plan = plan_memory(config, 10**8, EngineOptions(), 10**9)
    assert plan.weights + plan.workspace + plan.cache <= 10**9
    assert plan.cache == plan.pages * page_bytes(config)
    assert plan_memory(config, 10**8, EngineOptions(), None).pages == 8 * 4096
    exact = plan_memory(config, 0, EngineOptions(cache_tokens=640, exact=True), None)
    assert exact.pages == 10 and exact.cache == 10 * 64 * 80 * 3 * 4


def test_the_plan_counts_the_keys_that_long_prompts_read() -> None:
    """61 layers of 64 heads of 128 x 512 in bfloat16; exact mode has none."""
    config = ModelConfig()

    def workspace(**options: Any) -> int:
        options |= {"cache_tokens": 64}
        return plan_memory(config, 0, EngineOptions(**options), None).workspace

    keys = workspace() - workspace(expanded_prefill=0)
    assert keys == 61 * 64 * 128 * 512 * 2
    assert workspace(exact=True) == workspace(expanded_prefill=0)


def test_the_real_cache_costs_what_the_papers_say() -> None:
    """70,272 bytes per token in bfloat16: 61 layers of 576 values."""
    assert page_bytes(ModelConfig()) == 64 * 70_272


def test_bytes_of_a_step_of_the_real_model() -> None:
    """33.0 GB per token at batch 1 in INT4, 184 GB at 16: the arithmetic of our facts."""
    cost = ReadCost(
        fixed=21_100_000_000, expert=24_770_000, moe_layers=60, experts=384, top_k=8, latent=70_272
    )
    assert cost.step(1, 0) == pytest.approx(33.0e9, rel=0.01)
    assert cost.step(16, 0) == pytest.approx(184e9, rel=0.02)
    assert cost.step(1, 1000) - cost.step(1, 0) == 70_272_000
    assert cost.distinct_experts(16) == pytest.approx(110, abs=1)


def test_the_cost_of_a_model_is_what_it_holds(bf16_folder: Path) -> None:
    model = load_model(bf16_folder)
    config = model.config
    cost = ReadCost.of(model, config, 480)
    # A token of text reads nothing of the tower.
    text = [p for name, p in model.named_parameters() if not is_vision(name)]
    total = sum(p.numel() * p.element_size() for p in text)
    table = model.model.embed_tokens.weight.nbytes
    experts = cost.moe_layers * cost.experts * cost.expert
    assert cost.fixed + experts == total - table
    step = StepMetrics(1, 1, 0, forward_seconds=0.5, bytes_read=1000, bandwidth=4000)
    assert step.bytes_per_second == 2000 and step.share_of_bandwidth == 0.5
    assert StepMetrics(1, 1, 0, 0.5).share_of_bandwidth is None


@pytest.mark.parametrize("bits", [8.5, 4.5])
def test_quantised_matrices_cost_their_bits_whatever_they_were(bits: float) -> None:
    """From FP8 as from bfloat16; vectors and the few scales of FP8 stay what they are."""
    plain, fp8 = (
        ReadCost.of(random_model(BASE, storage=storage), BASE, 480, bits).fixed
        for storage in (BF16, FP8)
    )
    model = random_model(BASE, storage=BF16)
    inside = {
        name: p for name, p in model.named_parameters() if "embed" not in name and p.dim() < 3
    }
    matrices = sum(p.numel() for p in inside.values() if p.dim() == 2)
    vectors = sum(p.nbytes for p in inside.values() if p.dim() == 1)
    assert plain == pytest.approx(matrices * bits / 8 + vectors, rel=1e-3)
    assert fp8 == pytest.approx(plain, rel=0.01)


def test_steps_say_what_they_read_and_how_close_to_the_limit(llm: LLM) -> None:
    llm.generate([5] * 70, SHORT)
    step = llm.engine.status().latest_step
    assert step is not None and step.bytes_read is not None and step.share_of_bandwidth is not None
    assert step.rows == 1 and step.share_of_bandwidth > 0
    # Weights that every token needs, 4 of 16 experts in each layer, and the context so far.
    assert step.bytes_read > 0.5e6


def test_the_public_names_are_lazy() -> None:
    assert perilune.LLM is LLM and perilune.SamplingParams is SamplingParams
    assert perilune.AsyncEngine.__module__ == "perilune.engine.async_engine"
    code = "import perilune, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_documentation_runs(bf16_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "engine.md").read_text("utf-8")
    names: dict[str, Any] = {"folder": bf16_folder, "perilune": perilune}
    for block in page.split("```python\n")[1:]:
        code = compile(block.split("```")[0], "docs/engine.md", "exec")
        exec(code, names)  # our own page
    assert "assistant" in capsys.readouterr().out
    asyncio.run(asyncio.wait_for(names["answer"](), 120))


def test_prompt_logprobs_are_those_of_the_reference(llm: LLM, bf16_folder: Path) -> None:
    """All tokens of a prompt longer than a page and a chunk, with and without a cached prefix."""
    prompt = list(range(1, 150))
    expected = reference_logprobs(load_model(bf16_folder).float(), prompt[:1], prompt[1:])
    for _ in range(2):
        request = llm.engine.add_request(
            prompt, SamplingParams(max_tokens=2, prompt_logprobs=3, temperature=0, ignore_eos=True)
        )
        outputs = []
        while llm.engine.has_work:
            outputs += [o for o in llm.engine.step() if o.request_id == request]
        (scores,) = [o.prompt_logprobs for o in outputs if o.prompt_logprobs]
        assert [score.token for score in scores] == prompt[1:]
        for place, score in enumerate(scores):
            assert abs(score.logprob - float(expected[place, score.token])) < 1e-3
            assert len(score.top) == 3 and score.top[0][1] >= score.logprob
