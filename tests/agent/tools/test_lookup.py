"""Facts by a few words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perilune.agent.tool import ToolContext
from perilune.agent.tools.lookup import Lookup, shown
from perilune.search.facts import Fact, Facts, normalised

CHAD_AREA = Fact("Chad", "area", "1284000 km2", "country", ("surface area", "size"), "2020", "CIA")
CHAD_PEOPLE = Fact("Chad", "population", "17963211 people", "country", ("inhabitants", "live"))
NIGER_AREA = Fact("Niger", "area", "1267000 km2", "country", ("surface area", "size"))
CAPITAL = Fact("Chad", "capital", "N'Djamena", "country", ("capital city",))
GUINEA = Fact("Papua New Guinea", "area", "462840 km2", "country")
GUINEA_2 = Fact("Guinea", "area", "245857 km2", "country")
CENSUS = Fact("Zika", "depth", "67 m", "river", (), "1908", "Nilelen Register")
ATLAS = Fact("Zika", "depth", "70 m", "river", (), "1938", "Dosika Atlas")
STORE = Facts((CHAD_AREA, CHAD_PEOPLE, NIGER_AREA, CAPITAL, GUINEA, GUINEA_2, CENSUS, ATLAS))


def test_an_attribute_is_found_by_name_label_and_in_a_whole_question():
    for query in (
        "Chad area",
        "the surface area of chad",
        "CHAD SIZES",
        "What is the area of Chad, in km2?",
    ):
        assert STORE.find(query).facts == (CHAD_AREA,), query
    assert STORE.find("how many people live in Chad").facts == (CHAD_PEOPLE,)


def test_several_entities_give_a_line_each():
    assert STORE.find("Chad Niger area").facts == (CHAD_AREA, NIGER_AREA)


def test_the_longest_name_wins():
    assert STORE.find("area of Papua New Guinea").facts == (GUINEA,)
    assert STORE.find("Guinea area").facts == (GUINEA_2,)


def test_a_value_finds_its_entity():
    assert STORE.find("country capital N'Djamena").facts == (CAPITAL,)
    assert STORE.find("area 1267000").facts == (NIGER_AREA,)


def test_year_and_source_choose_among_disputed_facts():
    assert STORE.find("Zika depth").facts == (CENSUS, ATLAS)
    assert STORE.find("Dosika Atlas 1938 Zika depth").facts == (ATLAS,)


def test_what_is_not_there_is_not_guessed():
    missing = STORE.find("Niger population")
    assert not missing.facts
    assert (missing.entities, missing.known) == (("Niger",), ("area",))
    assert shown(missing, []) == "Not found. Niger has: area."
    assert shown(STORE.find("Atlantis area"), []) == "Not found."


def test_a_bare_name_shows_its_first_facts():
    found = STORE.find("Chad", most=2)
    assert found.facts == (CHAD_AREA, CHAD_PEOPLE)
    assert shown(found, ["", ""]).endswith("(1 more)")


@given(st.text(max_size=80))
def test_any_query_has_a_result(query: str):
    found = STORE.find(query)
    assert len(found.facts) <= 4
    assert shown(found, [""] * len(found.facts))
    assert normalised(normalised(query)) == normalised(query)


async def test_the_tool_keeps_its_lines_as_evidence(context: ToolContext):
    result = await Lookup(STORE).run({"query": "Chad area"}, context)
    text = str(result.content)
    line, _, id_ = text.rpartition(" [")
    assert line == "Chad.area = 1284000 km2 (2020)"
    assert context.evidence is not None
    assert context.evidence.text(id_.rstrip("]")) == f"{line}, CIA"


def test_the_almanac_is_the_default_and_says_when_it_did_not_understand():
    from perilune.search.almanac_facts import almanac_facts

    almanac = almanac_facts()
    (area,) = almanac.find("Chad area").facts
    assert area.line.startswith("Chad.area = 1284000 km2 (")
    assert almanac.find("how many peple live in Chad").facts[0].attribute == "population"
    both = almanac.find("area of Chad and Niger").facts
    assert {each.entity for each in both} == {"Chad", "Niger"}
    strange = almanac.find("Chad glimness")
    assert not strange.facts
    assert strange.entities == ("Chad",)
    assert "area" in strange.known
    assert len(almanac.find("Chad").facts) == 4
    assert len(almanac.find("Chad languages").facts[0].value) < 80
