"""Rows that come as vectors: C, torch and the reference agree, wrong ones are refused."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from perilune.config import ModelConfig
from perilune.errors import UsageError
from perilune.formats.int4 import INT4
from perilune.kernels import native
from perilune.kernels.native import KernelError
from perilune.model.context import ContiguousContext
from perilune.model.model import KimiK2Model
from perilune.runner.batch import RowVectors, SequenceRows, build_batch
from perilune.runner.cache import PagedLatentCache, pages_for
from perilune.runner.cpu.runner import CpuRunner
from perilune.runner.runner import ModelRunner
from perilune.runner.torch_runner import TorchRunner
from tests.engine.models import FORWARDS
from tests.runner.models import BASE, random_model, random_prompts, run_alone

pytestmark = pytest.mark.usefixtures("library_as_it_was", "one_torch_thread")
needs_library = pytest.mark.skipif(not native.available(), reason="the C library is not built")
TIED = replace(BASE, tie_word_embeddings=True, vocab_size=77)


def in_chunks(
    runner: ModelRunner,
    config: ModelConfig,
    ids: Sequence[int],
    vectors: RowVectors | None,
    cuts: Sequence[int],
    *,
    dtype: torch.dtype,
) -> Tensor:
    """All logits of a prompt that is cut before the rows `cuts`, beside a prompt of ids alone."""
    pages = list(range(pages_for(len(ids))))
    cache = PagedLatentCache.for_model(config, len(pages) + 1, dtype=dtype)
    logits = []
    bounds = [0, *cuts, len(ids)]
    for step, (start, end) in enumerate(pairwise(bounds)):
        part = None if vectors is None else vectors.between(start, end)
        company = SequenceRows([3], step, [len(pages)], 1)
        rows = SequenceRows(ids[start:end], start, pages, end - start, vectors=part)
        logits.append(runner.execute(build_batch([company, rows]), cache)[1:])
    return torch.cat(logits)


class GivenContext(ContiguousContext):
    """The reference with some rows of the residual stream given."""

    vectors: RowVectors

    def embed(self, table: nn.Embedding, input_ids: Tensor) -> Tensor:
        x = super().embed(table, input_ids)
        x[0, self.vectors.rows] = self.vectors.values.to(x.dtype)
        return x


@torch.inference_mode()
def reference(model: KimiK2Model, ids: Sequence[int], vectors: RowVectors) -> Tensor:
    """[T, V] in float32."""
    whole = copy.deepcopy(model).float()
    tokens = torch.tensor([ids])
    context = GivenContext(whole.model, tokens, absorbed=True)
    context.vectors = vectors
    logits: Tensor = whole(tokens, context)
    return logits[0]


def given_rows(
    rows: Sequence[int], hidden: int, dtype: torch.dtype = torch.float32, seed: int = 3
) -> RowVectors:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(rows), hidden, generator=generator).to(dtype)
    return RowVectors(torch.tensor(rows, dtype=torch.int32), values)


def exact_runner(kind: str, model: KimiK2Model) -> ModelRunner:
    return CpuRunner(model, exact=True) if kind == "native" else TorchRunner(model.float())


@pytest.mark.parametrize("kind", FORWARDS)
@pytest.mark.parametrize("config", [BASE, TIED], ids=["base", "tied"])
def test_given_rows_agree_with_the_reference(kind: str, config: ModelConfig) -> None:
    """A picture of 50 rows in the middle of a prompt, whole and cut within."""
    model = random_model(config, storage=INT4)
    (ids,) = random_prompts(config, [90])
    vectors = given_rows([0, *range(20, 70), 89], config.hidden_size)
    expected = reference(model, ids, vectors)
    assert (expected - reference(model, ids, vectors.between(0, 60) or vectors)).abs().max() > 0.1
    runner = exact_runner(kind, model)
    for cuts in ([], [1], [20, 45, 64, 69], [64]):
        got = in_chunks(runner, config, ids, vectors, cuts, dtype=torch.float32)
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@needs_library
def test_c_and_torch_agree_on_a_batch_with_several_pictures() -> None:
    prompts = random_prompts(BASE, [30, 5, 66])
    given = [given_rows(rows, 64, seed=i) for i, rows in enumerate([[2, 3, 4], [4], range(66)])]
    answers = []
    for kind in ("native", "torch"):
        runner = exact_runner(kind, random_model(BASE))
        cache = PagedLatentCache.for_model(BASE, 4, dtype=torch.float32)
        pages = [[0], [1], [2, 3]]
        batch = build_batch(
            [
                SequenceRows(ids, 0, own, len(ids), vectors=vectors)
                for ids, own, vectors in zip(prompts, pages, given, strict=True)
            ]
        )
        assert batch.vectors is not None
        assert batch.vectors.rows.tolist() == [2, 3, 4, 34, *range(35, 101)]
        answers.append(runner.execute(batch, cache))
    torch.testing.assert_close(answers[0], answers[1], atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def runners() -> list[tuple[ModelRunner, ModelConfig, Tensor]]:
    """Runner, configuration and embedding table of every kind that rounds differently."""
    made: list[tuple[ModelRunner, ModelConfig, Tensor]] = []
    for config in (BASE, TIED):
        table = random_model(config).model.embed_tokens.weight.detach().clone()
        made.append((TorchRunner(random_model(config)), config, table))
        if native.available():
            made.append((CpuRunner(random_model(config)), config, table))
            made.append((CpuRunner(random_model(config), exact=True), config, table))
    return made


@settings(max_examples=25, deadline=None)
@given(data=st.data(), length=st.integers(1, 80), wide=st.booleans())
def test_vectors_that_are_the_rows_of_the_table_are_token_ids(
    runners: list[tuple[ModelRunner, ModelConfig, Tensor]],
    data: st.DataObject,
    length: int,
    wide: bool,
) -> None:
    """To the bit, for any rows and any cuts, in bfloat16 and widened to float32."""
    rows = sorted(data.draw(st.sets(st.integers(0, length - 1), min_size=1)))
    cuts = sorted(data.draw(st.sets(st.integers(1, length - 1)))) if length > 1 else []
    runner, config, table = data.draw(st.sampled_from(runners))
    draw = random.Random(length)
    ids = [draw.randrange(config.vocab_size) for _ in range(length)]
    values = table[[ids[row] for row in rows]]
    vectors = RowVectors(torch.tensor(rows, dtype=torch.int32), values.float() if wide else values)
    placeholders = [0 if i in rows else token for i, token in enumerate(ids)]
    expected = in_chunks(runner, config, ids, None, cuts, dtype=torch.bfloat16)
    got = in_chunks(runner, config, placeholders, vectors, cuts, dtype=torch.bfloat16)
    assert torch.equal(got, expected)


def int32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


WRONG: dict[str, tuple[RowVectors, str]] = {
    "width": (RowVectors(int32(1), torch.zeros(1, 63)), "shape"),
    "count": (RowVectors(int32(1, 2), torch.zeros(1, 64)), "shape"),
    "one dimension": (RowVectors(int32(1), torch.zeros(64)), "shape"),
    "dtype": (RowVectors(int32(1), torch.zeros(1, 64, dtype=torch.float64)), "float64"),
    "half": (RowVectors(int32(1), torch.zeros(1, 64, dtype=torch.float16)), "float16"),
    "rows of 64 bits": (RowVectors(torch.tensor([1]), torch.zeros(1, 64)), "int64"),
    "rows of two dimensions": (RowVectors(int32(1).view(1, 1), torch.zeros(1, 64)), "int32"),
    "beyond": (RowVectors(int32(3), torch.zeros(1, 64)), "row 3 has a vector, but the step has 3"),
    "negative": (RowVectors(int32(-1), torch.zeros(1, 64)), "row -1"),
    "twice": (RowVectors(int32(1, 1), torch.zeros(2, 64)), "row 1 has two vectors"),
    "twice, apart": (RowVectors(int32(0, 2, 0), torch.zeros(3, 64)), "ascend"),
    "backwards": (RowVectors(int32(2, 1), torch.zeros(2, 64)), "ascend"),
}


@pytest.mark.parametrize("kind", FORWARDS)
@pytest.mark.parametrize("name", WRONG)
def test_wrong_vectors_are_refused_before_anything_is_written(kind: str, name: str) -> None:
    vectors, message = WRONG[name]
    model = random_model(BASE)
    runner: ModelRunner = CpuRunner(model) if kind == "native" else TorchRunner(model)
    cache = PagedLatentCache.for_model(BASE, 1)
    cache.storage.zero_()
    batch = replace(build_batch([SequenceRows([1, 2, 3], 0, [0], 1)]), vectors=vectors)
    with pytest.raises(UsageError, match=message):
        runner.execute(batch, cache)
    assert not cache.storage.any()


def test_no_row_beyond_its_own_sequence_gets_a_vector() -> None:
    inside = SequenceRows([1, 2], 0, [0], 1, vectors=RowVectors(int32(2), torch.zeros(1, 64)))
    with pytest.raises(UsageError, match="row 2 has a vector, but the step has 2"):
        build_batch([inside, SequenceRows([5], 0, [1], 1)])
    narrow, wide = (RowVectors(int32(0), torch.zeros(1, width)) for width in (32, 64))
    with pytest.raises(UsageError, match="one width"):
        build_batch(
            [
                SequenceRows([1], 0, [0], 1, vectors=narrow),
                SequenceRows([1], 0, [1], 1, vectors=wide),
            ]
        )
    with pytest.raises(UsageError, match="hidden"):
        flat = RowVectors(int32(0), torch.zeros(64))
        build_batch([SequenceRows([1], 0, [0], 1, vectors=flat)])


@needs_library
@pytest.mark.parametrize(
    "vectors",
    [
        RowVectors(int32(3), torch.zeros(1, 64)),
        RowVectors(int32(-1), torch.zeros(1, 64)),
        RowVectors(int32(1, 1), torch.zeros(2, 64)),
        RowVectors(int32(2, 0), torch.zeros(2, 64)),
    ],
)
def test_the_c_library_checks_for_itself(
    vectors: RowVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept: Callable[..., None] = lambda *_: None  # noqa: E731
    monkeypatch.setattr(RowVectors, "check", accept)
    runner = CpuRunner(random_model(BASE))
    batch = replace(build_batch([SequenceRows([1, 2, 3], 0, [0], 1)]), vectors=vectors)
    with pytest.raises(KernelError, match="index"):
        runner.execute(batch, PagedLatentCache.for_model(BASE, 1))


def test_a_part_of_a_prompt_has_its_part_of_the_vectors() -> None:
    whole = given_rows([3, 4, 9], 8)
    part = whole.between(4, 10)
    assert part is not None and part.rows.tolist() == [0, 5]
    assert torch.equal(part.values, whole.values[1:])
    assert whole.between(5, 9) is None and whole.between(0, 0) is None


@pytest.mark.parametrize("kind", FORWARDS)
def test_without_vectors_nothing_is_looked_at(kind: str) -> None:
    runner = exact_runner(kind, random_model(BASE))
    (ids,) = random_prompts(BASE, [20])
    expected = run_alone(runner, BASE, ids, dtype=torch.float32)
    got = in_chunks(runner, BASE, ids, None, [7], dtype=torch.float32)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", FORWARDS)
def test_a_vector_that_is_no_number_stays_in_its_sequence(kind: str) -> None:
    runner = exact_runner(kind, random_model(BASE))
    good = run_alone(runner, BASE, [4, 5], dtype=torch.float32)
    bad = RowVectors(int32(1), torch.full((1, 64), torch.nan))
    cache = PagedLatentCache.for_model(BASE, 2, dtype=torch.float32)
    batch = build_batch(
        [SequenceRows([1, 2, 3], 0, [0], 3, vectors=bad), SequenceRows([4, 5], 0, [1], 2)]
    )
    logits = runner.execute(batch, cache)
    assert logits[1:3].isnan().all()
    torch.testing.assert_close(logits[3:], good, atol=1e-5, rtol=0)
