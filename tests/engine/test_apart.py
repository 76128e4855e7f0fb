"""A step whose experts cannot be had fails the requests that need them, by name, and no others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import Tensor

from perilune.chat.deltas import FinishReason
from perilune.engine.engine import Engine
from perilune.engine.load import EngineOptions, load_engine
from perilune.engine.sampling_params import SamplingParams
from perilune.runner.cpu.runner import CpuRunner
from perilune.runner.torch_runner import TorchRunner
from tests.engine.models import FORWARDS
from tests.runner.conftest import one_torch_thread
from tests.runner.expert_stores import FailingStore
from tests.runner.models import BASE, random_model

__all__ = ["one_torch_thread"]
pytestmark = pytest.mark.usefixtures("one_torch_thread")

# So many experts, and one a token, that two short requests have hardly any in common.
WIDE = replace(BASE, n_routed_experts=64, num_experts_per_tok=1)
PROMPTS = {name: [7 * i + 1, 5 * i + 2, 3 * i + 3] for i, name in enumerate("abcdefgh")}


class Recorder:
    def __init__(self) -> None:
        self.seen: set[tuple[int, int]] = set()

    def acquire(self, layer: int, experts: Tensor) -> None:
        self.seen |= {(layer, expert) for expert in experts.flatten().tolist()}

    def release(self, layer: int) -> None:
        pass


def engine_of(kind: str) -> tuple[Engine, CpuRunner | TorchRunner]:
    options = EngineOptions(native=kind == "native", cache_tokens=2048, bandwidth=1e9, seed=1)
    engine = load_engine(random_model(WIDE), options)
    assert isinstance(engine.runner, CpuRunner | TorchRunner)
    return engine, engine.runner


def run(engine: Engine, names: str, n: int = 1) -> dict[str, list[int] | str]:
    """The tokens of each request, or the error that it ended with."""
    params = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True, n=n)
    for name in names:
        engine.add_request(PROMPTS[name], params, request_id=name)
    results: dict[str, list[int] | str] = {name: [] for name in names}
    while engine.has_work:
        for output in engine.step():
            so_far = results[output.request_id]
            if output.error is not None:
                assert output.finish_reason is FinishReason.ERROR
                results[output.request_id] = output.error
            elif isinstance(so_far, list):
                so_far += output.tokens
    return results


@pytest.mark.parametrize("kind", FORWARDS)
def test_only_who_needs_the_expert_fails(kind: str) -> None:
    engine, runner = engine_of(kind)
    alone, needed = {}, {}
    for name in PROMPTS:
        recorder = Recorder()
        runner.set_expert_store(recorder)
        alone |= run(engine, name)
        needed[name] = recorder.seen
        engine.clear_prefix_cache()
    layer, broken = max(
        set.union(*needed.values()),
        key=lambda one: (0 < sum(one in seen for seen in needed.values()) < 5, one),
    )
    victims = {name for name, seen in needed.items() if (layer, broken) in seen}
    assert 0 < len(victims) < 5
    runner.set_expert_store(FailingStore(layer, OSError("bad checksum"), broken))
    for _ in range(2):  # and again, from what the prefix cache kept
        together = run(engine, "abcdefgh")
        for name, result in together.items():
            if name in victims:
                assert f"layer {layer}: bad checksum" in str(result)
            else:
                assert result == alone[name]
    assert engine.pages.num_held == 0
    runner.set_expert_store(None)
    assert run(engine, "abcdefgh") == alone
    engine.close()


@pytest.mark.parametrize("kind", FORWARDS)
def test_a_store_that_brings_nothing_fails_all_and_the_engine_lives_on(kind: str) -> None:
    engine, runner = engine_of(kind)
    expected = run(engine, "abc")
    runner.set_expert_store(FailingStore(2, OSError("the disk is gone")))
    assert all("the disk is gone" in str(result) for result in run(engine, "abc", n=2).values())
    assert not engine.has_work and engine.pages.num_held == 0
    runner.set_expert_store(None)
    assert run(engine, "abc") == expected
    engine.close()
