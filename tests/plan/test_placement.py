"""What lies where: to the byte what the engine plans, and more memory never fits less."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perilune.config import Family
from perilune.engine.load import EngineOptions, plan_memory
from perilune.engine.metrics import ReadCost
from perilune.errors import OutOfMemoryError, UsageError
from perilune.formats.fp8 import FP8
from perilune.formats.int4 import INT4
from perilune.model.model import KimiK2Model
from perilune.plan.efficiency import efficiency
from perilune.plan.machine import Kind, Split
from perilune.plan.model_size import model_at_bits, model_size, named_model
from perilune.plan.placement import Demand, DoesNotFitError, engine_memory, place
from perilune.weights.checkpoint import open_checkpoint, stored_config
from perilune.weights.describe import describe
from perilune.weights.load import load_model
from perilune.weights.published_config import full_size
from perilune.weights.tensor_table import Part
from tests.plan.machines import cards, disk, machine, ram, room, small, streaming


@pytest.fixture
def nano() -> Path:
    from perilune.nano.agent import nano_folder

    return nano_folder()


def test_weights_are_the_bytes_that_the_engine_loads(nano: Path) -> None:
    checkpoint = open_checkpoint(nano)
    assert named_model("nano").stored == sum(t.nbytes for t in checkpoint.tensors.values())


def test_reading_is_what_the_engine_counts_of_a_loaded_model(nano: Path) -> None:
    model: KimiK2Model = load_model(nano, progress=False)
    size = named_model("nano")
    cost = ReadCost.of(model, model.config, int(size.latent))
    for rows in (1, 2, 7, 64):
        ours = size.fixed + size.experts_read(rows) + rows * 100 * size.latent
        assert ours == pytest.approx(cost.step(rows, rows * 100), rel=2e-3)  # shapes, one row


def test_full_size_is_what_models_show_says() -> None:
    for name, family, storage in (
        ("k2-thinking", Family.K2_THINKING, INT4),
        ("k2", Family.K2, FP8),
    ):
        what, size = describe(full_size(family, storage)), named_model(name)
        assert size.stored == what.stored
        assert size.fixed + size.one_token == pytest.approx(what.per_token)
        assert size.latent == what.latent_per_token == 70_272
        assert size.active_parameters == 31_687_095_808


def test_deepseek_v3_has_its_published_parameters() -> None:
    size = model_at_bits("deepseek-v3", 16)
    assert size.stored == pytest.approx(2 * 671_026_419_200, rel=1e-6)  # biases are float32


@given(
    context=st.integers(1, 100_000),
    streams=st.integers(1, 300),
    spare=st.integers(-3, 3),
)
def test_memory_is_refused_exactly_where_the_engine_refuses(
    context: int, streams: int, spare: int
) -> None:
    """One kind of memory: the planner's boundary is the engine's, to the byte."""
    model, demand = small(), Demand(context, streams)
    plan = engine_memory(model, demand)
    needed = plan.weights + plan.workspace + plan.cache
    there = needed + spare
    options = EngineOptions(
        cache_tokens=plan.pages * 64, max_context=context, max_sequences=streams
    )
    engine_fits = True
    try:
        engine = plan_memory(model.text, model.stored, options, there)
        assert (engine.weights, engine.workspace, engine.cache) == (
            plan.weights, plan.workspace, plan.cache,
        )  # fmt: skip
    except OutOfMemoryError:
        engine_fits = False
    assert engine_fits == (spare >= 0)
    try:
        placed = place(model, machine(ram(there)), demand, streaming())
        assert engine_fits
        assert placed.needed == pytest.approx(needed, abs=1)
    except DoesNotFitError as error:
        assert not engine_fits
        assert error.needed > error.there


@given(
    share=st.floats(-0.5, 1.2),
    more=st.floats(0, 2),
    context=st.integers(1, 50_000),
    with_disk=st.booleans(),
)
def test_more_memory_never_fits_less_and_holds_no_fewer_experts(
    share: float, more: float, context: int, with_disk: bool
) -> None:
    drives = (disk(),) if with_disk else ()
    demand = Demand(context)
    memory, larger = room(demand, share), room(demand, share + more)
    try:
        before = place(small(), machine(ram(memory), *drives), demand, streaming())
    except DoesNotFitError:
        return
    after = place(small(), machine(ram(larger), *drives), demand, streaming())
    assert after.on_disk <= before.on_disk + 1e-12


@given(context=st.integers(1, 100_000), more=st.integers(0, 100_000), streams=st.integers(1, 50))
def test_more_context_or_streams_never_need_less(context: int, more: int, streams: int) -> None:
    longest = small().text.max_position_embeddings
    place_on = machine(ram(1e12))
    less = place(small(), place_on, Demand(context, streams), streaming())
    longer = place(small(), place_on, Demand(min(context + more, longest), streams), streaming())
    wider = place(small(), place_on, Demand(context, streams + 1), streaming())
    assert longer.needed >= less.needed and wider.needed >= less.needed


@given(
    on_cards=st.floats(-1, 1),
    count=st.integers(1, 4),
    in_ram=st.floats(-1, 1.2),
    context=st.integers(1, 2000),
)
def test_every_byte_has_one_place_and_no_memory_overflows(
    on_cards: float, count: int, in_ram: float, context: int
) -> None:
    demand = Demand(context)
    vram, memory = max(room(demand, on_cards), 1) / count, max(room(demand, in_ram), 1)
    there = machine(cards(vram, count), ram(memory), disk())
    try:
        placed = place(small(), there, Demand(context), efficiency("llama.cpp"))
    except DoesNotFitError:
        return
    assert sum(placed.experts.values()) == pytest.approx(1)
    for tier in there.tiers:
        used = sum(row.bytes for row in placed.rows if row.kind is tier.kind)
        assert used <= there.capacity(tier.kind) * (1 + 1e-9) + 1
    weights = sum(row.bytes for row in placed.rows if row.part in set(Part))
    assert weights == pytest.approx(small().stored)


def test_cards_that_attend_to_everything_hold_the_cache_each() -> None:
    demand = Demand(1000)
    one = place(small(), machine(cards(1e9)), demand, efficiency("tensor-parallel"))
    four = place(small(), machine(cards(1e9, 4)), demand, efficiency("tensor-parallel"))
    assert four.needed - one.needed == pytest.approx(3 * one.cache)
    serial = place(small(), machine(cards(1e9, 4)), demand, efficiency("llama.cpp"))
    assert serial.needed == one.needed
    group = machine(cards(1e9), nodes=2, split=Split.TENSOR)
    both = place(small(), group, demand, efficiency("tensor-parallel"))
    assert both.needed - one.needed == pytest.approx(one.cache)


def test_the_fastest_memory_that_holds_the_trunk_is_its_home() -> None:
    engine = efficiency("llama.cpp")
    large = machine(cards(1e9), ram(1e9))
    assert place(small(), large, Demand(10), engine).home is Kind.VRAM
    tight = machine(cards(small().trunk / 2), ram(1e9))
    placed = place(small(), tight, Demand(10), engine)
    assert placed.home is Kind.RAM
    assert placed.experts[Kind.VRAM] > 0  # the cards take experts instead


def test_refusals_have_the_numbers_and_a_remedy() -> None:
    half = machine(ram(room(Demand(10), 0.5)))
    with pytest.raises(DoesNotFitError, match=r"needs .* of memory, .* can be used; 50% of") as e:
        place(small(), half, Demand(10), streaming())
    assert "more memory" in e.value.remedy
    with pytest.raises(DoesNotFitError, match="must be in one memory"):
        place(small(), machine(ram(1e4), disk()), Demand(10), streaming())
    bare = room(Demand(10), 0) + small().one_token / 2
    with pytest.raises(DoesNotFitError, match="room for the experts of one token"):
        place(small(), machine(ram(bare), disk()), Demand(10), streaming())
    with pytest.raises(DoesNotFitError, match=r"4 more of these cards"):
        h200 = machine(cards(141e9))
        place(named_model("k2-thinking"), h200, Demand(8192), efficiency("tensor-parallel"))


@pytest.mark.parametrize("context, streams", [(0, 1), (-1, 1), (10**9, 1), (10, 0), (10, 10**6)])
def test_impossible_demands_are_refused(context: int, streams: int) -> None:
    with pytest.raises(UsageError):
        place(small(), machine(ram(1e12)), Demand(context, streams), streaming())


def test_fewer_bits_are_smaller_everywhere() -> None:
    full, four = model_at_bits("k2", 16), model_at_bits("k2", 4.5)
    assert four.stored / full.stored == pytest.approx(4.5 / 16, rel=1e-6)
    assert four.fixed / full.fixed == pytest.approx(4.5 / 16)
    for bad in (0.0, -1.0, 100.0, float("nan")):
        with pytest.raises(UsageError):
            model_at_bits("k2", bad)
    with pytest.raises(UsageError, match="known by name"):
        model_at_bits("gpt", 4)


def test_dense_layers_in_int8_are_read_in_about_half() -> None:
    full = named_model("k2-thinking")
    small_dense = full.with_dense("int8")
    assert small_dense.stored == full.stored
    assert 10.5e9 < small_dense.fixed < 12e9 < full.fixed
    with pytest.raises(UsageError):
        full.with_dense("int3")
    with pytest.raises(UsageError):
        named_model("k2").with_dense("int8")  # FP8 is not quantised again


def test_a_model_that_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean k2-thinking"):
        named_model("k2-thinkin")
    config = stored_config_of_nano(tmp_path)
    assert named_model(str(config)).stored == named_model("nano").stored


def stored_config_of_nano(tmp_path: Path) -> Path:
    from perilune.nano.agent import nano_folder

    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "config.json").write_bytes((nano_folder() / "config.json").read_bytes())
    assert model_size("x", stored_config(folder)).stored > 0
    return folder
