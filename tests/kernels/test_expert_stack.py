"""All routed experts of a layer against torch, in every format and instruction set."""

from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from perilune.errors import UsageError
from perilune.kernels import native
from perilune.kernels.expert_table import PARTS
from perilune.kernels.native import Format, KernelError
from tests.kernels import reference
from tests.kernels.conftest import needs_library, random_experts, relative_error

pytestmark = needs_library
FORMATS = [Format.F32, Format.BF16, Format.FP8, Format.INT4]


def routes(tokens: int, top_k: int, experts: int) -> tuple[Tensor, Tensor]:
    indices = torch.stack([torch.randperm(experts)[:top_k] for _ in range(tokens)])
    return torch.rand(tokens, top_k), indices.to(torch.int32).view(tokens, top_k)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("storage", FORMATS)
def test_against_torch(isa: str, storage: Format, exact: bool) -> None:
    torch.manual_seed(0)
    form = native.form_for(storage, exact=exact)
    # An intermediate value that falls on the other side of a rounding tie moves by a whole step.
    tolerance = 2e-6 if exact else 5e-3
    for experts, hidden, middle, tokens, top_k in [
        (4, 64, 32, 1, 2),
        (7, 160, 96, 13, 3),
        (3, 96, 224, 70, 3),
    ]:
        stack, numbers = random_experts(storage, experts, hidden, middle)
        x = torch.randn(tokens, hidden)
        weights, indices = routes(tokens, top_k, experts)
        expected = reference.routed_experts(x, weights, indices, *numbers, form)
        actual = stack.forward(x, weights, indices, exact=exact)
        assert relative_error(actual, expected) < tolerance


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("storage", FORMATS)
def test_a_token_is_the_same_alone_and_in_company(isa: str, storage: Format, exact: bool) -> None:
    torch.manual_seed(1)
    stack, _ = random_experts(storage, 5, 96, 96)
    x = torch.randn(64, 96)
    weights, indices = routes(64, 3, 5)
    together = stack.forward(x, weights, indices, exact=exact)
    for t in (0, 17, 63):
        one = slice(t, t + 1)
        alone = stack.forward(x[one], weights[one], indices[one], exact=exact)
        assert torch.equal(alone[0], together[t])
    order = torch.randperm(64)
    shuffled = stack.forward(x[order], weights[order], indices[order], exact=exact)
    assert torch.equal(shuffled, together[order])


def test_threads_change_nothing() -> None:
    stack, _ = random_experts(Format.INT4, 6, 128, 160)
    x = torch.randn(21, 128)
    weights, indices = routes(21, 4, 6)
    results = []
    for threads in (1, 2, 3, 7):
        native.set_threads(threads)
        results.append(stack.forward(x, weights, indices))
    native.set_threads(0)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_empty_experts_repeats_and_one_expert_for_all(isa: str) -> None:
    stack, numbers = random_experts(Format.INT4, 9, 64, 64)
    x = torch.randn(50, 64)
    form = native.form_for(Format.INT4, exact=True)
    for indices in (
        torch.full((50, 1), 4),  # one expert, more rows than one pass takes
        torch.tensor([[2, 2, 8]]).expand(50, 3),  # the same expert twice
        torch.arange(50)[:, None] % 2,  # seven experts without rows
    ):
        weights = torch.rand(indices.shape)
        expected = reference.routed_experts(x, weights, indices, *numbers, form)
        actual = stack.forward(x, weights, indices, exact=True)
        assert relative_error(actual, expected) < 2e-6


def test_no_tokens_no_choices_and_a_chunked_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    stack, _ = random_experts(Format.INT4, 4, 64, 32)
    none = torch.zeros(0, 2)
    assert stack.forward(torch.zeros(0, 64), none, none.int()).shape == (0, 64)
    nothing = torch.zeros(3, 0)
    assert torch.equal(stack.forward(torch.ones(3, 64), nothing, nothing.int()), torch.zeros(3, 64))
    x = torch.randn(23, 64)
    weights, indices = routes(23, 2, 4)
    whole = stack.forward(x, weights, indices)
    monkeypatch.setattr("perilune.kernels.matrix.MOST_ROWS", 5)
    assert torch.equal(stack.forward(x, weights, indices), whole)


def test_what_is_not_finite_stays_in_its_token(isa: str) -> None:
    stack, _ = random_experts(Format.INT4, 4, 64, 64)
    x = torch.randn(6, 64)
    weights, indices = routes(6, 2, 4)
    good = stack.forward(x, weights, indices)
    for bad in (float("nan"), float("inf")):
        x[2, 9] = bad
        y = stack.forward(x, weights, indices)
        assert bool(y[2].isnan().all())
        keep = [0, 1, 3, 4, 5]
        assert torch.equal(y[keep], good[keep])


def test_large_gates_saturate_as_silu_does(isa: str) -> None:
    """silu(-200) is 0 and silu(200) is 200, not a number out of range."""
    gate = torch.eye(32)[None].clone()
    identity = torch.eye(32)[None].clone()
    from perilune.kernels.matrix import NativeExpertStack

    stack = NativeExpertStack.from_plain_([gate, identity.clone(), identity.clone()])
    x = torch.linspace(-200, 200, 32)[None]
    y = stack.forward(x, torch.ones(1, 1), torch.zeros(1, 1).int(), exact=True)
    expected = torch.nn.functional.silu(x.double()) * x
    assert torch.allclose(y, expected.float(), rtol=2e-6, atol=1e-30)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    hidden=st.integers(1, 5),
    middle=st.integers(1, 5),
    experts=st.integers(1, 6),
    tokens=st.integers(1, 40),
    data=st.data(),
)
def test_any_routing(
    hidden: int, middle: int, experts: int, tokens: int, data: st.DataObject
) -> None:
    torch.manual_seed(hidden + 10 * middle + 100 * experts)
    top_k = data.draw(st.integers(1, 4))
    flat = data.draw(
        st.lists(st.integers(0, experts - 1), min_size=tokens * top_k, max_size=tokens * top_k)
    )
    indices = torch.tensor(flat).view(tokens, top_k)
    storage = data.draw(st.sampled_from(FORMATS))
    stack, numbers = random_experts(storage, experts, hidden * 32, middle * 32)
    x, weights = torch.randn(tokens, hidden * 32), torch.randn(tokens, top_k)
    form = native.form_for(storage, exact=True)
    expected = reference.routed_experts(x, weights, indices, *numbers, form)
    actual = stack.forward(x, weights, indices, exact=True)
    assert float((actual - expected).abs().max()) < 1e-5 * (1 + float(expected.abs().max()))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    experts=st.integers(1, 7),
    middle=st.integers(1, 4),
    storage=st.sampled_from(FORMATS),
    exact=st.booleans(),
    draw=st.randoms(use_true_random=False),
)
def test_experts_may_lie_anywhere(
    experts: int, middle: int, storage: Format, exact: bool, draw: Random
) -> None:
    """Each part of each expert in memory of its own, in any order: the same bits."""
    torch.manual_seed(experts)
    stack, _ = random_experts(storage, experts, 64, middle * 32)
    x = torch.randn(9, 64)
    weights, indices = routes(9, min(2, experts), experts)
    expected = stack.forward(x, weights, indices, exact=exact)
    parts = dict(zip(PARTS, (*stack.weights, *stack.scales), strict=False))
    pieces = [(e, name) for e in range(experts) for name in parts]
    draw.shuffle(pieces)
    elsewhere: list[dict[str, Tensor]] = [{} for _ in range(experts)]
    for e, name in pieces:
        elsewhere[e][name] = parts[name][e].clone()
    for e, own in enumerate(elsewhere):
        stack.table.place(e, own)
    for part in parts.values():
        part.view(torch.uint8).fill_(0xFF)
    assert torch.equal(stack.forward(x, weights, indices, exact=exact), expected)


def test_an_expert_that_lies_nowhere_is_refused_where_it_is_chosen() -> None:
    stack, _ = random_experts(Format.INT4, 4, 64, 32)
    x, weights = torch.randn(2, 64), torch.rand(2, 2)
    good = stack.forward(x, weights, torch.tensor([[0, 1], [1, 3]]))
    parts = dict(zip(PARTS, (part[2] for part in (*stack.weights, *stack.scales)), strict=True))
    stack.table.remove(2)
    assert torch.equal(stack.forward(x, weights, torch.tensor([[0, 1], [1, 3]])), good)
    for missing in (set(PARTS), {"gate"}, {"down"}, {"up_scale"}):
        stack.table.place(2, {name: t for name, t in parts.items() if name not in missing})
        with pytest.raises(KernelError, match="not in memory"):
            stack.forward(x, weights, torch.tensor([[0, 1], [2, 3]]))
    with pytest.raises(UsageError, match="no part 'side'"):
        stack.table.place(2, {"side": x})
    with pytest.raises(UsageError, match="contiguous"):
        stack.table.place(2, {"gate": torch.zeros(4, 4).t()[:, :2]})
    with pytest.raises(UsageError, match="4 experts"):
        stack.table.stack("gate", torch.zeros(3, 8))


def test_refusals() -> None:
    stack, _ = random_experts(Format.INT4, 4, 64, 32)
    x, weights = torch.randn(2, 64), torch.rand(2, 2)
    for wrong in (-1, 4):
        with pytest.raises(KernelError, match="index"):
            stack.forward(x, weights, torch.tensor([[0, 1], [2, wrong]]))
    with pytest.raises(UsageError, match="must be"):
        stack.forward(torch.randn(2, 32), weights, torch.zeros(2, 2).int())
    with pytest.raises(UsageError, match="shape"):
        stack.forward(x, torch.rand(3, 2), torch.zeros(2, 2).int())
