"""Seconds of a step and of a prompt: the properties that any model of cost must have."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perilune.errors import UsageError
from perilune.plan.efficiency import efficiency, hit_rate
from perilune.plan.figure import Case, Figure
from perilune.plan.machine import Kind, Link, Machine, Split
from perilune.plan.model_size import named_model
from perilune.plan.placement import Demand, DoesNotFitError, place
from perilune.plan.prefill import prefill
from perilune.plan.step import decode_rate, decode_step
from tests.plan.machines import cards, disk, machine, ram, room, small, streaming


def rate_of(there: Machine, demand: Demand, engine: str = "perilune-cpu") -> Figure:
    kind = efficiency(engine)
    placement = place(small(), there, demand, kind)
    return decode_rate(there, demand, decode_step(small(), there, placement, demand, kind))


DEMANDS = st.builds(Demand, st.integers(1, 5000), st.integers(1, 64))


@given(demand=DEMANDS, bandwidth=st.floats(1e8, 1e12), more=st.floats(1, 100))
def test_more_bandwidth_is_never_slower(demand: Demand, bandwidth: float, more: float) -> None:
    slow = rate_of(machine(ram(1e12, bandwidth)), demand)
    fast = rate_of(machine(ram(1e12, bandwidth * more)), demand)
    for case in Case:
        assert fast.at(case) >= slow.at(case) * (1 - 1e-9)


@given(share=st.floats(0.3, 1), more=st.floats(0, 1), speed=st.floats(1e6, 1e9),
       count=st.integers(1, 4), streams=st.integers(1, 16))  # fmt: skip
def test_streaming_gains_from_memory_and_from_drives(
    share: float, more: float, speed: float, count: int, streams: int
) -> None:
    """`ram` of 1e9 B/s is faster than any of these drives."""
    demand = Demand(100, streams)
    memory = room(demand, share)
    before = rate_of(machine(ram(memory), disk(speed, count)), demand)
    larger = memory + more * small().experts_stored
    after = rate_of(machine(ram(larger), disk(speed, count)), demand)
    drives = rate_of(machine(ram(memory), disk(speed, count + 1)), demand)
    assert after.value >= before.value * (1 - 1e-9)
    assert drives.value >= before.value * (1 - 1e-9)


@given(demand=DEMANDS, more=st.integers(1, 5000))
def test_more_context_is_never_faster(demand: Demand, more: int) -> None:
    there = machine(ram(1e12))
    longer = replace(demand, context=demand.context + more)
    assert rate_of(there, longer).value <= rate_of(there, demand).value * (1 + 1e-9)


@given(demand=DEMANDS)
def test_more_streams_give_more_together_and_less_each(demand: Demand) -> None:
    there = machine(ram(1e12))
    more = replace(demand, streams=demand.streams + 1)
    few, many = rate_of(there, demand), rate_of(there, more)
    assert many.value >= few.value * (1 - 1e-9)
    assert many.value / more.streams <= few.value / demand.streams * (1 + 1e-9)


@given(demand=DEMANDS, vram=st.floats(1e5, 1e8), memory=st.floats(1e5, 1e8))
def test_the_interval_holds_the_expected_case_and_nothing_beats_the_bandwidth(
    demand: Demand, vram: float, memory: float
) -> None:
    there = machine(cards(vram), ram(memory), disk())
    engine = efficiency("llama.cpp")
    try:
        placement = place(small(), there, demand, replace(engine, disk_share=0.4))
    except DoesNotFitError:
        return
    step = decode_step(small(), there, placement, demand, replace(engine, disk_share=0.4))
    assert 0 < step.seconds.low <= step.seconds.value <= step.seconds.high
    assert step.seconds.value == pytest.approx(sum(term.seconds for term in step.terms))
    assert step.bound.seconds == max(term.seconds for term in step.terms)
    read = small().fixed + small().experts_read(demand.streams)
    roof = read / max(tier.bandwidth.high for tier in there.memories)
    assert step.seconds.low >= roof * (1 - 1e-9)


def test_nothing_of_a_step_is_forgotten() -> None:
    """One stream, all in memory: the formula by hand."""
    engine = replace(streaming(), fixed=0.25, share=0.5, latent_share=0.25)
    there = machine(ram(1e12, 1e6))
    demand = Demand(640)
    placement = place(small(), there, demand, engine)
    step = decode_step(small(), there, placement, demand, engine)
    model = small()
    by_hand = (
        0.25 + (model.fixed + model.one_token) / (1e6 * 0.5) + 640 * model.latent / (1e6 * 0.25)
    )
    assert step.seconds.value == pytest.approx(by_hand)


def test_cards_read_side_by_side_or_in_turn() -> None:
    demand = Demand(1)
    one, four = machine(cards(1e9)), machine(cards(1e9, 4))
    joined = replace(efficiency("tensor-parallel"), fixed=0.0)
    placement = place(small(), four, demand, joined)
    weights = {
        t.what: t.seconds for t in decode_step(small(), four, placement, demand, joined).terms
    }
    single = {
        t.what: t.seconds
        for t in decode_step(
            small(), one, place(small(), one, demand, joined), demand, joined
        ).terms
    }
    assert single["experts, VRAM"] == pytest.approx(4 * weights["experts, VRAM"])
    assert single["latent cache, VRAM"] == pytest.approx(weights["latent cache, VRAM"])
    assert rate_of(four, demand, "llama.cpp") == rate_of(one, demand, "llama.cpp")


def test_a_line_of_machines_adds_memory_not_speed_for_one_stream() -> None:
    demand = Demand(10)
    one = rate_of(machine(ram(1e12)), demand)
    line = rate_of(machine(ram(1e12), nodes=3), demand)
    assert line.value < one.value
    assert 1 / line.value == pytest.approx(1 / one.value + 3 * 1e-4, rel=0.01)
    # Three times the streams fill the line: three groups of nine, each as fast as nine alone.
    filled = rate_of(machine(ram(1e12), nodes=3, latency=0.0), Demand(10, 27))
    alone = rate_of(machine(ram(1e12)), Demand(10, 9))
    assert filled.value == pytest.approx(3 * alone.value)


def test_tensors_shared_out_pay_two_collectives_a_layer() -> None:
    demand = Demand(10)
    layers = small().text.num_hidden_layers
    near = rate_of(machine(ram(1e12), nodes=2, split=Split.TENSOR, latency=0.0), demand)
    far = rate_of(machine(ram(1e12), nodes=2, split=Split.TENSOR, latency=0.01), demand)
    assert 1 / far.value - 1 / near.value == pytest.approx(2 * layers * 0.01)
    group = machine(ram(1e12), nodes=2, split=Split.TENSOR)
    lacking = replace(group, link=Link("wire", Figure.exactly(1e-4), None))
    with pytest.raises(UsageError, match="nobody has measured an all-reduce over wire"):
        rate_of(lacking, demand)


def test_arithmetic_bounds_many_streams() -> None:
    there = machine(ram(1e12, 1e12, operations=1e6))
    kind = streaming()
    demand = Demand(10, 32)
    step = decode_step(small(), there, place(small(), there, demand, kind), demand, kind)
    assert step.bound.what == "arithmetic"
    assert step.bound.seconds == pytest.approx(small().operations(32, 10) / 1e6)


@given(share=st.floats(0, 1), more=st.floats(0, 1), one=st.floats(0.001, 0.5))
def test_hits_rise_from_nothing_to_everything(share: float, more: float, one: float) -> None:
    rate = hit_rate()
    for case in Case:
        low, high = rate.at(share, one, case), rate.at(max(share, more), one, case)
        assert 0 <= low <= high + 1e-12 and high <= 1
    assert rate.at(share, one, Case.SLOW) <= rate.at(share, one) <= rate.at(share, one, Case.FAST)
    assert rate.at(1, one) == 1
    assert rate.at(one, one) == 0


def test_hits_at_the_measured_points_are_ten_points_below_them() -> None:
    one = 8 / 384
    assert hit_rate().at(0.12, one) == pytest.approx(0.52)
    assert hit_rate().at(0.48, one) == pytest.approx(0.84)


def test_a_cold_k2_reads_what_the_published_ceilings_say() -> None:
    """All of a token's experts from one drive of 7 GB/s: 0.59 tokens/s by bytes alone."""
    model = named_model("k2-thinking")
    assert 7e9 / model.one_token == pytest.approx(0.59, abs=0.01)
    assert 14e9 / model.one_token * 2 == pytest.approx(2.35, abs=0.02)  # with half of them found


@given(tokens=st.integers(1, 20_000), more=st.integers(0, 20_000))
def test_a_longer_prompt_takes_longer(tokens: int, more: int) -> None:
    there = machine(ram(1e12, 1e9, operations=1e10))
    kind = streaming()
    placement = place(small(), there, Demand(100), kind)
    short = prefill(small(), there, placement, kind, tokens)
    longer = prefill(small(), there, placement, kind, tokens + more)
    assert short is not None and longer is not None
    assert longer.seconds.value >= short.seconds.value
    assert short.rate.low <= short.rate.value <= short.rate.high


def test_prefill_says_nothing_without_a_figure_and_counts_bytes_with_one() -> None:
    kind = streaming()
    bare = machine(ram(1e12))
    assert prefill(small(), bare, place(small(), bare, Demand(9), kind), kind, 512) is None
    quick = machine(ram(1e12, 1e9, operations=1e30))
    found = prefill(small(), quick, place(small(), quick, Demand(9), kind), kind, 512)
    assert found is not None
    experts = small().experts_read(512) / (1e9 * kind.share)
    others = small().fixed / (1e9 * kind.share)
    assert found.bound == ("experts, RAM" if experts > others else "weights, RAM")
    assert found.seconds.value == pytest.approx(max(experts, others) + kind.fixed)


@given(rate=st.floats(1e3, 1e12), bus=st.floats(1e3, 1e12))
def test_experts_in_ram_go_over_the_bus_or_are_computed_there(rate: float, bus: float) -> None:
    """Whichever is sooner, so neither a faster processor nor a faster bus makes it slower."""
    kind = replace(efficiency("llama.cpp"), fixed=0.0)
    tier = replace(cards(room(Demand(9), 0.1)), operations=Figure.exactly(1e9))

    def seconds(processor: float, wire: float) -> float:
        there = replace(
            machine(tier, ram(1e12, 1e12, operations=processor)), bus=Figure.exactly(wire)
        )
        placement = place(small(), there, Demand(9), kind)
        assert placement.home is Kind.VRAM and placement.experts[Kind.RAM] > 0
        found = prefill(small(), there, placement, kind, 512)
        assert found is not None
        return found.seconds.value

    assert seconds(rate * 2, bus) <= seconds(rate, bus) * (1 + 1e-9)
    assert seconds(rate, bus * 2) <= seconds(rate, bus) * (1 + 1e-9)
