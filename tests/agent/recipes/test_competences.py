"""The search and write recipes in whole runs: real tools, real pages, a tape for the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from perilune.agent.agent import Agent
from perilune.agent.models.scripted import Call, Reply, ScriptedModel, Tape
from perilune.agent.recipes.recipe import load_recipe
from perilune.agent.tools import load_tools
from perilune.agent.tools.fetch import Fetch
from perilune.agent.tools.search import Search
from perilune.search.corpus import Corpus, Document
from perilune.search.providers import CorpusSearch

PAGES = {
    "tavor": ("Tavor", "Tavor is a city on the Biken. It has 4,120 people. Its walls are old."),
    "diba": ("Diba", "Diba is a city. It has 880 people. “Nobody locks a door here,” it is said."),
}


@pytest.fixture
def corpus() -> Iterator[Corpus]:
    made = Corpus()
    made.add(Document(name, *page) for name, page in PAGES.items())
    yield made
    made.close()


def agent_for(recipe: str, tape: Tape, corpus: Corpus, workspace: Path, home: Path) -> Agent:
    names = [n for n in load_recipe(recipe).tools if n not in ("search", "fetch", "python", "bash")]
    tools = [*load_tools(names), Search(CorpusSearch(corpus)), Fetch(corpus=corpus)]
    return Agent(
        ScriptedModel(tape), tools, recipe=load_recipe(recipe), workspace=workspace, home=home
    )


def ids_of(messages) -> dict[str, str]:
    """The evidence ids that `fetch` gave, by page."""
    found = {}
    for message in messages:
        text = str(message.get("content") or "")
        if message.get("name") == "fetch" and "Cite as [" in text:
            found[text.split("corpus:")[1].split()[0]] = text.split("Cite as [")[1].split("]")[0]
    return found


FETCH = [Call("fetch", {"url": "corpus:tavor"}), Call("fetch", {"url": "corpus:diba"})]


def test_a_search_that_cites_the_wrong_page_is_revised(corpus, workspace: Path, home: Path):
    def tape(messages, declared):
        asked = sum(message["role"] == "assistant" for message in messages)
        ids = ids_of(messages)
        if asked == 0:
            return Reply(calls=[Call("search", {"query": "people", "also": ["city walls"]})])
        if asked == 1:
            return Reply(calls=FETCH)
        one, two = ids["tavor"], ids["diba"]
        if asked == 2:
            return Reply(f"Tavor has 4,120 people [{two}]; “Nobody locks a door” there [{one}].")
        problems = messages[-1]["content"]
        assert f"it stands in {one}" in problems
        assert f"It stands in [{two}]" in problems
        return Reply(f"Tavor has 4,120 people [{one}]. In Diba “Nobody locks a door here” [{two}].")

    result = agent_for("search", tape, corpus, workspace, home).run("How many people has Tavor?")
    assert (result.ok, result.steps) == (True, 4)
    checks = {check.name: check for check in result.verdict.checks}
    assert {name: check.outcome for name, check in checks.items()} == {
        "citations": "passed",
        "numbers": "passed",
    }
    assert len(checks["citations"].evidence) == 2


REPORT = """# Two cities

## People

Tavor has 4,120 people [{one}] and Diba 880 [{two}].

| city | people |
| --- | --- |
| Tavor | 4120 |
| Diba | 880 |

![People of two cities](people.png)

## Words

Of Diba they say:

> Nobody locks a door here

So it is told [{two}].{more}
"""
CHART = {
    "path": "people.png",
    "kind": "bar",
    "series": [{"x": ["Tavor", "Diba"], "y": [4120, 880]}],
}


def test_a_report_is_checked_revised_and_published(corpus, workspace: Path, home: Path):
    """First a figure without source, then a stale page, then the reading by rubric, then done."""
    asked_by_rubric = []

    def write(messages, more: str) -> Call:
        ids = ids_of(messages)
        text = REPORT.format(one=ids["tavor"], two=ids["diba"], more=more)
        return Call("write_file", {"path": "report.md", "content": text})

    publish = Call("publish", {"source": "report.md", "path": "report.html"})

    def tape(messages, declared):
        if "Judge a text by this rubric" in str(messages[-1]["content"]):
            asked_by_rubric.append(messages[-1]["content"])
            return Reply('{"problems": ["Say which is larger."]}')
        turns = sum(message["role"] == "assistant" for message in messages)
        ids = ids_of(messages)
        done = "The report is in report.html: Tavor is larger [{}]."
        match turns:
            case 0:
                return Reply(calls=FETCH)
            case 1:
                return Reply(calls=[Call("chart", CHART)])
            case 2:
                return Reply(calls=[write(messages, " The walls are 12 km long.")])
            case 3:
                return Reply(calls=[publish])
            case 4:
                return Reply(done.format(ids["tavor"]))
            case 5:
                assert "12" in messages[-1]["content"]
                return Reply(calls=[write(messages, "")])
            case 6:
                return Reply(done.format(ids["tavor"]))
            case 7:
                assert "Publish it again" in messages[-1]["content"]
                return Reply(calls=[publish])
            case 8:
                return Reply(done.format(ids["tavor"]))
            case 9:
                assert "Say which is larger." in messages[-1]["content"]
                return Reply(calls=[write(messages, " Tavor is the larger one.")])
            case 10:
                return Reply(calls=[publish])
            case _:
                return Reply(done.format(ids["tavor"]))

    agent = agent_for("write", tape, corpus, workspace, home)
    result = agent.run("Write a report on Tavor and Diba.")
    assert result.ok, result
    assert len(asked_by_rubric) == 1
    assert "Tavor has 4,120 people" in asked_by_rubric[0], "it reads the report, not the answer"
    outcomes = {check.name: check.outcome for check in result.verdict.checks}
    assert outcomes == {"report": "passed", "citations": "passed", "rubric": "noted"}
    page = (workspace / "report.html").read_text()
    assert "Tavor is the larger one." in page
    assert page.count('href="#source-') == 3
    assert "data:image/png;base64," in page


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("No title.", "has no title"),
        ("# T\n\nTODO: write this.", "still holds 'TODO'"),
        ("# T\n\n## Empty\n\n## Next\n\nWords.", "section 'Empty' is empty"),
        ("# T\n\n| a | b |\n| --- | --- |\n| 1 |\n", "rows of 1 and of 2 cells"),
        ("# T\n\n![x](gone.png)", "no picture gone.png"),
        ("# T\n\n![](https://a.example/x.png)", "is not in the workspace"),
        ("# T\n\nIt is so [ev:00c0ffee].", "no such source was read"),
        ("# T\n\nWords.", "is not published"),
    ],
)
def test_what_is_wrong_with_a_report_is_said(corpus, workspace, home, text: str, words: str):
    tape = [
        Reply(calls=[Call("write_file", {"path": "report.md", "content": text})]),
        Reply("Done."),
    ]
    result = agent_for("write", tape, corpus, workspace, home).run("Write a report.")
    assert result.reason == "unverified"
    assert words in result.detail
