"""What is to come touches one room: each is done here once, by a fake that registers itself.

A new device, a tower whose pictures enter as vectors, experts that arrive late. CONTRIBUTING.md has
the table; a new stored format has tests of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from perilune.engine.load import EngineOptions, load_engine
from perilune.engine.sampling_params import SamplingParams
from perilune.errors import UsageError
from perilune.model.model import KimiK2Model
from perilune.runner.batch import ForwardBatch, RowVectors, SequenceRows, build_batch
from perilune.runner.cache import PagedLatentCache
from perilune.runner.cpu.runner import CpuRunner
from perilune.runner.doctor import doctor_checks
from perilune.runner.select import (
    RunnerKind,
    RunnerOptions,
    choose_runner,
    register_runner,
    select_runner,
    unregister_runner,
)
from perilune.runner.torch_runner import TorchRunner
from tests.engine.models import FORWARDS
from tests.runner.expert_stores import LateStore
from tests.runner.models import BASE, random_model, random_prompts

pytestmark = pytest.mark.usefixtures("library_as_it_was", "one_torch_thread")
OPTIONS = {"cache_tokens": 512, "bandwidth": 1e9, "seed": 1}
PROMPTS = random_prompts(BASE, [5, 70, 20])


def greedy(engine_model: KimiK2Model, *, native: bool | None, late: bool = False) -> list[int]:
    """The tokens of three requests side by side, one list behind the other."""
    engine = load_engine(engine_model, EngineOptions(native=native, **OPTIONS))  # type: ignore[arg-type]
    if late:
        assert isinstance(engine.runner, CpuRunner | TorchRunner)
        LateStore(engine.runner, engine_model, delay=0.001)
    params = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
    names = [engine.add_request(prompt, params) for prompt in PROMPTS]
    tokens: dict[str, list[int]] = {name: [] for name in names}
    while engine.has_work:
        for output in engine.step():
            assert output.error is None
            tokens[output.request_id] += output.tokens
    engine.close()
    return [token for name in names for token in tokens[name]]


# --- a new device --------------------------------------------------------------------------------


class TwinRunner:
    """A device of its own: keeps its weights in another type, computes, brings logits back."""

    def __init__(self, model: KimiK2Model) -> None:
        self._inner = TorchRunner(model.double())
        self.steps = 0

    def execute(self, batch: ForwardBatch, cache: PagedLatentCache) -> Tensor:
        self.steps += 1
        return self._inner.execute(batch, cache)


@pytest.fixture
def twin() -> Iterator[RunnerKind]:
    def why_not(model: KimiK2Model, *, exact: bool = False, device: str = "cpu") -> str | None:
        large = model.config.num_hidden_layers > 3
        return "more layers than the twin has room for" if large else None

    def build(model: KimiK2Model, options: RunnerOptions) -> TwinRunner:
        return TwinRunner(model)

    kind = RunnerKind("twin", True, why_not, build)
    register_runner(kind)
    yield kind
    unregister_runner(kind)


def test_a_new_device_is_one_kind_of_runner(twin: RunnerKind) -> None:
    model = random_model(BASE)
    runner = select_runner(model)
    assert isinstance(runner, TwinRunner)
    expected = greedy(random_model(BASE).float(), native=False)
    assert greedy(random_model(BASE).float(), native=None) == expected
    assert isinstance(select_runner(random_model(BASE), native=False), TorchRunner)
    assert all(check.detail == "twin" for check in doctor_checks())
    with pytest.raises(UsageError, match="already"):
        register_runner(twin)


def test_a_device_that_cannot_run_a_model_says_why_and_the_next_is_asked(twin: RunnerKind) -> None:
    large = replace(BASE, num_hidden_layers=4)
    kind, cause = choose_runner(random_model(large))
    assert kind is not twin and "room for" in cause
    with torch.device("meta"):
        nowhere = KimiK2Model(large)  # neither the twin nor the C kernels
    with pytest.raises(UsageError, match="twin has room for"):
        choose_runner(nowhere, native=True)


# --- a tower ------------------------------------------------------------------------------------


class Tower(nn.Module):
    """Pictures [N, 12, 12] -> vectors [4 N, hidden]: nobody else knows what was in them."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        torch.manual_seed(9)
        self.project = nn.Linear(36, hidden)

    @torch.inference_mode()
    def forward(self, pictures: Tensor) -> Tensor:
        patches = pictures.unfold(1, 6, 6).unfold(2, 6, 6).reshape(-1, 36)
        vectors: Tensor = self.project(patches)
        return vectors


def describe(kind: str, picture: Tensor, cuts: Sequence[int]) -> Tensor:
    """Logits of the last token of a prompt with a picture in it, computed in chunks."""
    model = random_model(BASE)
    runner = CpuRunner(model, exact=True) if kind == "native" else TorchRunner(model.float())
    placeholder = 7
    prompt = [1, 2, *[placeholder] * 4, 3, 4]
    vectors = RowVectors(torch.arange(2, 6, dtype=torch.int32), Tower(64)(picture[None]))
    cache = PagedLatentCache.for_model(BASE, 1, dtype=torch.float32)
    logits = torch.empty(0)
    for start, end in zip([0, *cuts], [*cuts, len(prompt)], strict=True):
        chunk = SequenceRows(prompt[start:end], start, [0], 1, vectors=vectors.between(start, end))
        logits = runner.execute(build_batch([chunk]), cache)[0]
    return logits


@pytest.mark.parametrize("kind", FORWARDS)
def test_a_tower_enters_as_vectors(kind: str) -> None:
    torch.manual_seed(4)
    cat, dog = torch.rand(2, 12, 12)
    whole = describe(kind, cat, [])
    for cuts in ([4], [1, 2, 3, 5, 6]):
        torch.testing.assert_close(describe(kind, cat, cuts), whole, atol=1e-5, rtol=0)
    assert (describe(kind, dog, []) - whole).abs().max() > 0.01
    torch.testing.assert_close(describe("torch", cat, []), whole, atol=1e-4, rtol=0)


# --- experts that arrive late -------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORWARDS)
def test_experts_that_arrive_late_change_no_token(kind: str) -> None:
    native = kind == "native"
    expected = greedy(random_model(BASE), native=native)
    assert greedy(random_model(BASE), native=native, late=True) == expected
