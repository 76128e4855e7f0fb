"""Arguments: kept by the tool, judged, and drawn."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.agent.agent import Agent
from perilune.agent.evidence.argument import find_circle, problems
from perilune.agent.evidence.argument_drawing import as_svg, as_text
from perilune.agent.models.scripted import Call, Reply, ScriptedModel
from perilune.agent.recipes.recipe import load_recipe
from perilune.events import ArgumentNode
from tests.agent.tools.conftest import opened_sandbox, workspace  # noqa: F401  (fixtures)


def node(key: str, kind: str, **more) -> ArgumentNode:
    return ArgumentNode(id=key, kind=kind, text=more.pop("text", f"text of {key}"), **more)


def graph(*nodes: ArgumentNode) -> dict[str, ArgumentNode]:
    return {each.id: each for each in nodes}


GOOD = (
    node("q", "question"),
    node("h1", "hypothesis", state="holds", supports=["c"]),
    node("h2", "hypothesis", state="fails"),
    node("k1", "check", result="25", state="holds", supports=["h1"], against=["h2"]),
    node("s1", "source", evidence="ev:1a2b", supports=["h1"]),
    node("c", "conclusion", state="holds"),
)


def judge(*nodes: ArgumentNode) -> str:
    return "\n".join(problems(graph(*nodes), outputs=["found 25 primes"], evidence={"ev:1a2b"}))


def test_a_good_argument_stands():
    assert judge(*GOOD) == ""


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (node("k1", "check", result="26", supports=["h1"]), "stands in no tool's output"),
        (node("k1", "check", supports=["h1"]), "stands in no tool's output"),
        (node("s1", "source", evidence="ev:0000", supports=["h1"]), "was not read"),
        (node("h1", "hypothesis", state="open", supports=["c"]), "marked open"),
        (node("h1", "hypothesis", state="fails", supports=["c"]), "marked fails"),
        (node("h1", "hypothesis", state="holds"), "Nothing supports conclusion 'c'"),
        (node("c", "claim", state="holds"), "no conclusion"),
        (node("c", "conclusion", state="fails"), "marked as failing"),
        (node("c", "conclusion", supports=["h1"]), "in a circle"),
        (
            node("h1", "hypothesis", state="holds", supports=["c", "zz"]),
            "'zz', which is not a node",
        ),
        (
            node("k1", "check", result="25", against=["h1"], supports=["h2"]),
            "speaks against 'h1'",
        ),
    ],
)
def test_what_is_wrong_is_said(changed: ArgumentNode, words: str):
    nodes = graph(*GOOD) | {changed.id: changed}
    assert words in judge(*nodes.values())


IDS = st.sampled_from("abcdefg")
NODES = st.lists(
    st.builds(
        ArgumentNode,
        id=IDS,
        kind=st.sampled_from(["question", "hypothesis", "claim", "source", "check", "conclusion"]),
        text=st.text(max_size=80),
        state=st.sampled_from(["open", "holds", "fails"]),
        supports=st.lists(IDS, max_size=3),
        against=st.lists(IDS, max_size=2),
        result=st.text(max_size=20),
    ),
    max_size=9,
)


@settings(max_examples=60, deadline=None)
@given(NODES)
def test_any_graph_can_be_judged_and_drawn(nodes):
    argument = graph(*nodes)
    problems(argument, outputs=[], evidence=())
    circle = find_circle(argument)
    assert not circle or (circle[0] == circle[-1] and len(circle) > 1)
    text = as_text(argument)
    assert all(any(f" {key}: " in line for line in text.splitlines()) for key in argument)
    root = ElementTree.fromstring(as_svg(argument))
    boxes = [each for each in root.iter() if each.tag.endswith("rect")]
    assert len(boxes) == len(argument) + 1


def test_the_drawing_leads_from_the_conclusion_to_its_grounds():
    lines = as_text(graph(*GOOD)).splitlines()
    assert lines[0] == "✓ conclusion c: text of c"
    assert lines[1] == "└ ✓ hypothesis h1: text of h1"
    assert lines[2].startswith("  ├ ✓ check k1: text of k1 = 25")
    assert any("against: ✓ check k1" in line and "(above)" in line for line in lines)
    svg = as_svg(graph(*GOOD))
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")
    assert as_text({}) == "this run kept no argument"


CODE = "primes = [n for n in range(2, 100) if all(n % d for d in range(2, n))]\nprint(len(primes))"


def test_a_reasoned_run(workspace: Path, tmp_path: Path, opened_sandbox):  # noqa: F811
    """The first answer rests on nothing; it is planned anew, and the second one stands."""

    def argue(*nodes: ArgumentNode) -> Call:
        import msgspec

        return Call("argue", {"nodes": msgspec.to_builtins(list(nodes))})

    tape = [
        Reply(
            calls=[argue(node("q", "question"), node("h", "hypothesis"), node("i", "hypothesis"))]
        ),
        Reply("There are 25."),
        Reply(calls=[Call("python", {"code": CODE})]),
        Reply(
            calls=[
                argue(
                    node("k", "check", state="holds", result="25", supports=["h"], against=["i"]),
                    node("h", "hypothesis", state="holds", supports=["c"]),
                    node("i", "hypothesis", state="fails"),
                    node("c", "conclusion", state="holds"),
                )
            ]
        ),
        Reply("There are 25 primes below 100."),
    ]
    agent = Agent(
        ScriptedModel(tape),
        recipe=load_recipe("reason"),
        workspace=workspace,
        home=tmp_path / "home",
        sandbox=opened_sandbox,
    )
    result = agent.run("How many primes are below 100?")
    assert result.ok, result
    assert result.steps == 5
    assert {check.name: check.outcome for check in result.verdict.checks} == {
        "argument": "passed",
        "numbers": "passed",
    }
    assert [each.id for each in result.argument] == ["q", "h", "i", "k", "c"]
    assert json.loads(json.dumps(as_text({each.id: each for each in result.argument})))
