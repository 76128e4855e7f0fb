"""Facts by a few words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perilune.agent.tool import ToolContext
from perilune.agent.tools.lookup.facts import Fact, Facts, find, normalised
from perilune.agent.tools.lookup.tool import Lookup, shown

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
        assert find(STORE, query).facts == (CHAD_AREA,), query
    assert find(STORE, "how many people live in Chad").facts == (CHAD_PEOPLE,)


def test_several_entities_give_a_line_each():
    assert find(STORE, "Chad Niger area").facts == (CHAD_AREA, NIGER_AREA)


def test_the_longest_name_wins():
    assert find(STORE, "area of Papua New Guinea").facts == (GUINEA,)
    assert find(STORE, "Guinea area").facts == (GUINEA_2,)


def test_a_value_finds_its_entity():
    assert find(STORE, "country capital N'Djamena").facts == (CAPITAL,)
    assert find(STORE, "area 1267000").facts == (NIGER_AREA,)


def test_year_and_source_choose_among_disputed_facts():
    assert find(STORE, "Zika depth").facts == (CENSUS, ATLAS)
    assert find(STORE, "Dosika Atlas 1938 Zika depth").facts == (ATLAS,)


def test_what_is_not_there_is_not_guessed():
    missing = find(STORE, "Niger population")
    assert not missing.facts
    assert (missing.entities, missing.known) == (("Niger",), ("area",))
    assert shown(missing, []) == "Not found. Niger has: area."
    assert shown(find(STORE, "Atlantis area"), []) == "Not found."


def test_a_bare_name_shows_its_first_facts():
    found = find(STORE, "Chad", most=2)
    assert found.facts == (CHAD_AREA, CHAD_PEOPLE)
    assert shown(found, ["", ""]).endswith("(1 more)")


@given(st.text(max_size=80))
def test_any_query_has_a_result(query: str):
    found = find(STORE, query)
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
