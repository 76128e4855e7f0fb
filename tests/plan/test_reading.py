"""The data files and a user's own: what makes no sense is refused, with the place and the key."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perilune.errors import UsageError
from perilune.plan.catalogue import Catalogue, read_catalogue, read_machine
from perilune.plan.figure import Case, Figure, spread
from perilune.plan.machine import Kind
from perilune.plan.money import read_apis
from perilune.plan.reading import DATA, Entry

CARD = """
[cards.mine]
title = "mine"
memory = { value = 10e9, source = "me", date = "2026-11" }
bandwidth = { value = 1e12, source = "me", date = "2026-11" }
"""

NO_SOURCE = CARD.replace(', source = "me", date = "2026-11" }\nband', " }\nband")
TWO_BOXES = "[machines.m]\nbox = 'm3-ultra-512'\nnodes = 2\n"


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return read_catalogue()


def own(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "own.toml"
    file.write_text(text)
    return file


def test_every_figure_of_the_data_has_a_source_and_a_date() -> None:
    seen = 0

    def walk(value: object, sources: dict[str, str]) -> None:
        nonlocal seen
        if isinstance(value, dict):
            if "value" in value or "output" in value:
                seen += 1
                assert re.fullmatch(r"\d{4}-\d{2}(-\d{2})?", value["date"]), value
                assert value["source"] in sources, value
            for each in value.values():
                walk(each, sources)

    for name in ("catalogue.toml", "prices.toml"):
        top = tomllib.loads((DATA / name).read_text("utf-8"))
        sources = top.pop("sources")
        assert all(len(text) > 10 for text in sources.values() if text != "genai-prices 0.2.3")
        walk(top, sources)
    assert seen > 100


def test_every_machine_of_the_catalogue_is_put_together(catalogue: Catalogue) -> None:
    assert len(catalogue.machines) > 15
    for name in catalogue.machines:
        machine = catalogue.machine(name)
        assert machine.memories and machine.title, name
        assert all(tier.capacity > 0 and tier.bandwidth.low > 0 for tier in machine.tiers)
        if machine.price is None:
            assert machine.unpriced, name  # and says so


def test_parts_add_up(catalogue: Catalogue) -> None:
    eight = catalogue.machine("rtx-pro-6000-x8")
    assert eight.watts is not None and eight.watts.value == 8 * 600
    assert eight.price is not None and eight.price.value == 8 * 11_500
    assert (eight.price.low, eight.price.high) == (64_000, 120_000)
    four = catalogue.machine("m3-ultra-512-x4")
    assert four.price is not None and four.price.value == 4 * 9499
    assert four.capacity(Kind.UNIFIED) == pytest.approx(4 * 512e9 * 0.75)
    sockets = catalogue.machine("epyc-2x-1536").tier(Kind.RAM)
    assert sockets is not None and sockets.bandwidth.value == pytest.approx(2 * 614.4e9)


def test_an_own_file_adds_and_replaces(tmp_path: Path) -> None:
    text = CARD + "[machines.mine]\ncards = { mine = 2 }\nwatts = 100\nprice = 50\n"
    text += '[cards.h200]\ntitle = "cheap"\nmemory = { value = 1e12, source = "me", '
    text += 'date = "2026-11" }\nbandwidth = { value = 1e12, source = "me", date = "2026-11" }\n'
    known = read_catalogue(own(tmp_path, text))
    mine = known.machine("mine")
    assert mine.price is not None and mine.price.value == 50 and not mine.unpriced
    assert mine.tiers[0].count == 2
    assert known.machine("h200").tiers[0].memory == 1e12
    assert known.machine("h100").tiers[0].memory == 80e9  # others stay
    assert any("me (2026-11)" in source for source in mine.sources)


def test_a_machine_file(tmp_path: Path, catalogue: Catalogue) -> None:
    file = own(tmp_path, "ram = 512e9\nram_bandwidth = 186e9\nprice = 9000\nwatts = 400\n")
    machine = read_machine(str(file), catalogue)
    assert machine.name == "own" and machine.price is not None
    assert machine.tiers[0].bandwidth.value == 186e9


@pytest.mark.parametrize(
    "text, said",
    [
        ("cards = [", "is not TOML"),
        ("[card.x]\n", "card is not known here"),
        (CARD.replace("1e12", "-5"), "bandwidth: value is -5"),
        (CARD.replace("1e12", "0"), "value is 0"),
        (CARD.replace("1e12", "nan"), "value is nan"),
        (CARD.replace("1e12", "inf"), "value is inf"),
        (CARD.replace("1e12", "true"), "must be a number"),
        (CARD.replace("1e12", "'fast'"), "must be a number"),
        (CARD.replace("value = 10e9", "value = 10e9, low = 20e9"), "in no order"),
        (CARD.replace('date = "2026-11" }\nband', 'date = "soon" }\nband'), "date is 'soon'"),
        (NO_SOURCE, "source is missing"),
        (CARD + "wats = 3\n", "wats is not known here"),
        (CARD.replace("memory = { value", "memery = { value"), "memery is not known here"),
        ("[cards.mine]\ntitle = 'x'\n", "bandwidth is missing"),
        (CARD + "[machines.m]\ncards = { mine = 0 }\n", "mine is 0"),
        (CARD + "[machines.m]\ncards = { mine = 1.5 }\n", "mine is 1.5"),
        (CARD + "[machines.m]\ncards = { mime = 1 }\n", "'mime' is not known"),
        ("[machines.m]\nram = 1e9\n", "memory is missing"),
        ("[machines.m]\nmemory = 'epyc-12ch-6400'\n", "ram is missing"),
        ("[machines.m]\nmemory = 'epyc-12ch-6400'\nram = 9e12\n", "more than 1 x 3000 GB"),
        (TWO_BOXES, "link is missing"),
        (TWO_BOXES + "link = 'string'\n", "'string' is not known"),
        ("[machines.m]\nbox = 'm3-ultra-512'\nsplit = 'half'\n", "split is 'half'"),
        ("[machines.m]\nbox = 'm3-ultra-512'\nusable = 3\n", "usable is 3"),
        ("[machines.m]\nbox = 'm3-ultra-512'\nprice = -1\n", "price is -1"),
        ("[machines.m]\nbox = 'm3-ultra-512'\nwatts = inf\n", "watts is inf"),
        ("[machines.m]\ncards = { h200 = 1, h100 = 1 }\n", "several kinds"),
        ("[machines.m]\n", "has no memory"),
        ("[currencies]\nusd_per_eur = 1.1\n", "must be a table"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_catalogue(own(tmp_path, text))
    assert said in str(caught.value)


def test_unknown_hardware_names_the_nearest(catalogue: Catalogue) -> None:
    with pytest.raises(UsageError, match=r"hardware 'h20' is not known\. Did you mean .*h200"):
        catalogue.machine("h20")
    with pytest.raises(UsageError, match="there is no file"):
        read_machine("absent.toml", catalogue)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
))  # fmt: skip
def test_any_value_is_a_figure_or_refused(value: object) -> None:
    entry = Entry({"x": value}, "here")
    try:
        figure = entry.figure("x")
    except UsageError:
        return
    assert figure is None or 0 < figure.low <= figure.value <= figure.high < 1e22


@given(st.dictionaries(
    st.sampled_from(["cards", "memory", "ram", "sockets", "box", "drives", "nodes", "link", "split",
                     "usable", "price", "watts", "ram_bandwidth", "bus", "title", "other"]),
    st.one_of(
        st.floats(), st.integers(-5, 10**13), st.text(max_size=4), st.booleans(),
        st.sampled_from(["m3-ultra-512", "epyc-12ch-6400", "thunderbolt-rdma", "tensor", "pcie4"]),
        st.dictionaries(st.sampled_from(["h200", "nvme-gen4", "x"]), st.integers(-1, 9)),
    ),
))  # fmt: skip
def test_any_specification_is_a_machine_or_refused(spec: dict[str, object]) -> None:
    try:
        machine = read_catalogue_once().assemble("any", spec)
    except UsageError:
        return
    assert all(tier.capacity >= 0 for tier in machine.tiers)
    assert machine.price is None or machine.price.value >= 0


_CATALOGUE: list[Catalogue] = []


def read_catalogue_once() -> Catalogue:
    if not _CATALOGUE:
        _CATALOGUE.append(read_catalogue())
    return _CATALOGUE[0]


def test_prices_are_whole() -> None:
    apis = read_apis()
    assert apis["k2"].output == 2.50 and apis["k2"].input == 0.60  # the seed's figures
    assert all(0 <= api.cached <= api.input <= api.output for api in apis.values())


def test_a_figure_holds_its_order() -> None:
    with pytest.raises(UsageError):
        Figure(1.0, 2.0, 3.0)
    with pytest.raises(UsageError):
        Figure(float("nan"), 0.0, 1.0)
    assert (Figure(2, 1, 3) * 2).at(Case.SLOW) == 2
    assert Figure(2, 1, 3).at_falling(Case.SLOW) == 3
    assert spread(
        lambda case: {Case.SLOW: 5.0, Case.EXPECTED: 4.0, Case.FAST: 3.0}[case]
    ) == Figure(4.0, 3.0, 5.0)
