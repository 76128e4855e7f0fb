"""Experts that lie anywhere, and those that a store brings between routing and products."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from perilune.errors import ExpertStoreError, UsageError
from perilune.formats import FORMATS, StorageFormat
from perilune.formats.bf16 import BF16
from perilune.formats.int4 import INT4
from perilune.kernels import native
from perilune.kernels.native import KernelError
from perilune.model.model import KimiK2Model
from perilune.runner.batch import SequenceRows, build_batch
from perilune.runner.cache import PagedLatentCache
from perilune.runner.cpu.runner import CpuRunner
from perilune.runner.torch_runner import TorchRunner
from tests.engine.models import FORWARDS
from tests.runner.expert_stores import (
    FailingStore,
    LateStore,
    experts_by_layer,
    experts_of,
    poison,
)
from tests.runner.models import BASE, random_model, random_prompts, run_alone, run_schedule

pytestmark = pytest.mark.usefixtures("library_as_it_was", "one_torch_thread")
needs_library = pytest.mark.skipif(not native.available(), reason="the C library is not built")
PROMPTS = random_prompts(BASE, [1, 70, 9])
MOE_LAYERS = [1, 2]  # of BASE


def runner_of(
    kind: str, storage: StorageFormat = BF16, *, exact: bool = False
) -> tuple[CpuRunner | TorchRunner, KimiK2Model]:
    model = random_model(BASE, storage=storage)
    if kind == "native":
        return CpuRunner(model, exact=exact), model
    return TorchRunner(model), model


def answers(runner: CpuRunner | TorchRunner, seed: int = 0) -> list[Tensor]:
    return run_schedule(runner, BASE, PROMPTS, dtype=torch.bfloat16, seed=seed)


def assert_same_bits(got: list[Tensor], expected: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@needs_library
@pytest.mark.parametrize(
    ("storage", "exact"),
    # The kernels have no exact arithmetic for int8.
    [(each, exact) for each in FORMATS.values() for exact in (False, True) if each.name != "int8"]
    + [(FORMATS["int8"], False)],
)
def test_experts_scattered_over_memory_give_the_same_bits(
    storage: StorageFormat, exact: bool
) -> None:
    runner, model = runner_of("native", storage, exact=exact)
    assert isinstance(runner, CpuRunner)
    expected = answers(runner)
    elsewhere: list[Tensor] = []
    draw = random.Random(1)
    for layer, module in experts_by_layer(model).items():
        parts = experts_of(module)
        for expert in draw.sample(range(len(parts)), len(parts)):
            copies = {}
            for name, part in draw.sample(sorted(parts[expert].items()), len(parts[expert])):
                # Odd places within larger buffers: nothing may lean on what lies beside.
                before = 64 * draw.randint(0, 9)
                buffer = torch.full((before + part.nbytes + 64,), 0xFF, dtype=torch.uint8)
                flat = buffer[before : before + part.nbytes].view(part.dtype)
                copies[name] = flat.view(part.shape).copy_(part)
                elsewhere.append(buffer)
            runner.expert_tables[layer].place(expert, copies)
            for part in parts[expert].values():
                poison(part)
    assert_same_bits(answers(runner), expected)


@pytest.mark.parametrize("storage", list(FORMATS.values()), ids=list(FORMATS))
@pytest.mark.parametrize("kind", FORWARDS)
def test_a_store_that_answers_late_changes_no_bit(kind: str, storage: StorageFormat) -> None:
    expected = answers(runner_of(kind, storage)[0])
    runner, model = runner_of(kind, storage)
    store = LateStore(runner, model, delay=0.002)
    assert_same_bits(answers(runner), expected)
    assert {layer for layer, _ in store.asked} == set(MOE_LAYERS)
    assert store.released == [layer for layer, _ in store.asked]


@needs_library
@pytest.mark.parametrize("threads", [1, 3])
def test_a_late_store_with_any_number_of_threads(threads: int) -> None:
    expected = answers(runner_of("native", INT4)[0])
    native.set_threads(threads)
    runner, model = runner_of("native", INT4)
    LateStore(runner, model, delay=0.001)
    for seed in range(3):
        assert_same_bits(answers(runner, seed), expected)


@pytest.mark.parametrize("kind", FORWARDS)
def test_the_store_is_asked_for_what_the_router_chose(kind: str) -> None:
    """One row: two experts per layer, asked for in the order of the layers."""
    runner, model = runner_of(kind)
    store = LateStore(runner, model)
    run_alone(runner, BASE, [5], dtype=torch.bfloat16)
    assert [layer for layer, _ in store.asked] == MOE_LAYERS
    assert all(len(experts) == BASE.num_experts_per_tok for _, experts in store.asked)
    run_alone(runner, BASE, PROMPTS[1], dtype=torch.bfloat16)
    assert all(len(experts) == BASE.n_routed_experts for _, experts in store.asked[2:])


@pytest.mark.parametrize("kind", FORWARDS)
@pytest.mark.parametrize("ids", [[5], PROMPTS[1]], ids=["few rows", "many rows"])
def test_what_a_store_raises_ends_the_step_and_nothing_else(kind: str, ids: list[int]) -> None:
    runner, _ = runner_of(kind)
    expected = run_alone(runner, BASE, ids, dtype=torch.bfloat16)
    store = FailingStore(2, OSError("the disk is gone"))
    runner.set_expert_store(store)
    for _ in range(2):
        with pytest.raises(ExpertStoreError, match=r"layer 2: the disk is gone") as caught:
            run_alone(runner, BASE, ids, dtype=torch.bfloat16)
        assert isinstance(caught.value.__cause__, OSError) and caught.value.layer == 2
    assert store.released == [1, 1]
    own = ExpertStoreError("checksum", layer=1, expert=4)
    runner.set_expert_store(FailingStore(1, own))
    with pytest.raises(ExpertStoreError, match="expert 4 of layer 1: checksum"):
        run_alone(runner, BASE, ids, dtype=torch.bfloat16)
    runner.set_expert_store(FailingStore(1, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run_alone(runner, BASE, ids, dtype=torch.bfloat16)
    runner.set_expert_store(None)
    assert torch.equal(run_alone(runner, BASE, ids, dtype=torch.bfloat16), expected)


@pytest.mark.parametrize("kind", FORWARDS)
def test_a_store_that_fails_in_letting_go(kind: str) -> None:
    class Clinging(FailingStore):
        def release(self, layer: int) -> None:
            raise OSError("will not let go")

    runner, _ = runner_of(kind)
    runner.set_expert_store(Clinging(-1, OSError()))
    with pytest.raises(ExpertStoreError, match="layer 1: will not let go"):
        run_alone(runner, BASE, [5], dtype=torch.bfloat16)


@pytest.mark.parametrize("kind", FORWARDS)
def test_a_store_of_some_layers_is_not_asked_for_others(kind: str) -> None:
    runner, _ = runner_of(kind)
    store = FailingStore(1, OSError("asked for layer 1"))
    runner.set_expert_store(store, [2])
    run_alone(runner, BASE, [5], dtype=torch.bfloat16)
    assert store.released == [2]
    other = FailingStore(-1, OSError())
    runner.set_expert_store(other, [1])  # two stores side by side
    run_alone(runner, BASE, [5], dtype=torch.bfloat16)
    assert store.released == [2, 2] and other.released == [1]
    with pytest.raises((UsageError, KernelError)):
        runner.set_expert_store(store, [0])  # dense
    with pytest.raises((UsageError, KernelError)):
        runner.set_expert_store(store, [3])


@needs_library
def test_an_expert_without_an_address_is_an_error_and_no_crash() -> None:
    class Lazy(FailingStore):
        def acquire(self, layer: int, experts: Tensor) -> None:
            pass

    runner, model = runner_of("native", INT4)
    assert isinstance(runner, CpuRunner)
    LateStore(runner, model)  # takes all experts away
    runner.set_expert_store(Lazy(0, OSError()))
    with pytest.raises(ExpertStoreError, match="layer 1"):
        run_alone(runner, BASE, [5], dtype=torch.bfloat16)
    runner.set_expert_store(None)
    cache = PagedLatentCache.for_model(BASE, 1)
    cache.storage.zero_()
    with pytest.raises(KernelError, match="not in memory"):
        runner.execute(build_batch([SequenceRows([5], 0, [0], 1)]), cache)
    assert not cache.storage.any()
    runner.restore()
    with pytest.raises(KernelError, match="closed"):
        runner.set_expert_store(None)
