"""The oracle solves tasks of every family, and what it says it saw, it saw."""

from __future__ import annotations

import json
from typing import Any

import pytest

from perilune.agent.agent import Agent
from perilune.agent.models.scripted import Call, Reply, ScriptedModel
from perilune.agent.world_tasks import article_address, judge, set_scene
from perilune.sandbox import Sandbox
from perilune.train.episodes import (
    Episode,
    Plan,
    Rejected,
    record,
    record_all,
    record_episode,
    record_episodes,
)
from perilune.train.episodes.turn import Policy, Turn, in_call_order
from perilune.world import FAMILIES, Seed, Split, Style, generate_task

RESEARCH = [family for family in FAMILIES if family != "code_repair"]
MISTAKES = ("empty_hit", "wrong_key", "wrong_address")


async def play(seed: int, family: str, sandbox: Sandbox | None, **options: Any) -> Episode:
    episode = await record_episode(
        Seed(Split.TRAIN, seed), family, plan=Plan(**options), sandbox=sandbox
    )
    assert isinstance(episode, Episode), episode
    return episode


def thinking(episode: Episode) -> str:
    return " ".join(message.get("reasoning_content", "") for message in episode.messages)


def results(episode: Episode) -> list[str]:
    return [message["content"] for message in episode.messages if message["role"] == "tool"]


@pytest.mark.parametrize("family", RESEARCH)
async def test_every_family_is_solved(family: str, sandbox: Sandbox) -> None:
    wanted = [(Seed(Split.TRAIN, number), family) for number in range(4)]
    wanted += [(Seed(Split.EXAM, number), family) for number in range(2)]
    played = [each async for each in record_episodes(wanted, sandbox=sandbox)]
    assert [each for each in played if isinstance(each, Rejected)] == []
    episodes = [each for each in played if isinstance(each, Episode)]
    assert [(each.split, each.seed) for each in episodes] == [
        (seed.split.value, seed.index) for seed, _ in wanted
    ]
    for (seed, _), episode in zip(wanted, episodes, strict=True):
        task = generate_task(seed, family)
        assert episode.messages[1]["content"] == task.prompt
        assert task.verify(episode.answer).passed


async def test_repairs_are_solved(testing_sandbox: Sandbox) -> None:
    plain = await play(3, "code_repair", testing_sandbox, mistakes=0)
    reports = results(plain)
    assert "FAILED" in reports[0] and "FAILED" not in reports[-1]
    assert not plain.mistakes
    wrong = await play(4, "code_repair", testing_sandbox, mistakes=1)
    (kind,) = wrong.mistakes.values()
    assert wrong.steps > plain.steps
    (at,) = wrong.mistakes
    assert kind in ("mismatch", "wrong_fix") and wrong.messages[at]["role"] == "assistant"


@pytest.mark.slow
async def test_both_mistakes_of_repairs_are_repaired(testing_sandbox: Sandbox) -> None:
    kinds: dict[str, Episode] = {}
    for seed in range(20):
        if len(kinds) == 2:
            break
        episode = await play(seed, "code_repair", testing_sandbox, mistakes=1)
        kinds.update(dict.fromkeys(episode.mistakes.values(), episode))
    (at,) = kinds["mismatch"].mistakes
    assert "nothing was changed" in kinds["mismatch"].messages[at + 1]["content"]
    reports = [text for text in results(kinds["wrong_fix"]) if " passed" in text]
    assert ["FAILED" in report for report in reports] == [True, True, False]


async def test_what_is_thought_was_read(sandbox: Sandbox) -> None:
    episode = await play(8, "comparison", sandbox, mistakes=0, style=Style.LINES)
    task = generate_task(Seed(Split.TRAIN, 8), "comparison")
    pages = [text for text in results(episode) if text.startswith("# ")]
    reads = [read for step in task.solution.serial for read in getattr(step, "reads", ())]
    assert len(pages) == len(reads) == task.width
    for read, page in zip(reads, pages, strict=True):
        assert f"{read.fact} = {read.value}" in page
        assert f"{read.fact} = {read.value}." in thinking(episode)


async def test_calls_are_put_together_where_they_can_be(sandbox: Sandbox) -> None:
    alone = await play(8, "comparison", sandbox, mistakes=0, together=False)
    together = await play(8, "comparison", sandbox, mistakes=0, together=True)
    turns = [message.get("tool_calls", []) for message in together.messages]
    calls = [[call["function"]["name"] for call in turn] for turn in turns if turn]
    assert calls == [["search"] * together.width, ["fetch"] * together.width]
    assert alone.steps == 2 * alone.width + 1 and together.steps == 3
    ids = [call["id"] for turn in turns for call in turn]
    answered = [each["tool_call_id"] for each in together.messages if each["role"] == "tool"]
    assert answered == ids  # whatever came first
    # Facts that depend on each other are still looked up one by one.
    assert not (await play(8, "hops", sandbox, together=True)).together


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("kind", MISTAKES)
async def test_mistakes_are_made_and_repaired(kind: str, together: bool, sandbox: Sandbox) -> None:
    for seed in range(60):
        episode = await play(seed, "selection", sandbox, mistakes=1, together=together)
        assert len(episode.mistakes) == 1
        if kind in episode.mistakes.values():
            break
    (at,) = episode.mistakes
    said = [message["content"] for message in episode.messages[at + 1 :][: episode.width]]
    expected = {
        "empty_hit": "nothing found",
        "wrong_key": "do not fit its schema",
        "wrong_address": "Error",
    }
    assert any(expected[kind] in text for text in said)
    assert generate_task(Seed(Split.TRAIN, seed), "selection").verify(episode.answer).passed


async def test_python_raises_and_is_asked_again(sandbox: Sandbox) -> None:
    for seed in range(60):
        task = generate_task(Seed(Split.TRAIN, seed), "conflict")
        if task.variant == "spread":
            episode = await play(seed, "conflict", sandbox, mistakes=1)
            if "exception" in episode.mistakes.values():
                break
    (at,) = episode.mistakes
    assert "Error" in episode.messages[at + 1]["content"].splitlines()[-1]
    assert episode.messages[at + 3]["content"] == task.answer


async def test_an_episode_is_a_function_of_its_seed(sandbox: Sandbox) -> None:
    for together in (False, True):
        first = await play(5, "wide_table", sandbox, together=together)
        assert await play(5, "wide_table", sandbox, together=together) == first


async def test_an_episode_is_a_tape(sandbox: Sandbox) -> None:
    """Replayed through the same tools, the tape meets the same results and the same answer."""
    episode = await play(6, "arithmetic", sandbox)
    task = generate_task(Seed(Split.TRAIN, 6), "arithmetic")
    with set_scene(task, Style(episode.style)) as scene:
        agent = Agent(
            ScriptedModel(episode.tape()),
            scene.tools,
            workspace=scene.workspace,
            home=scene.folder,
            context="keep",
            sandbox=sandbox,
        )
        async with agent.session() as session:
            result = await session.run(task.prompt)
            replayed = in_call_order(session.state.messages)
    assert result.answer == episode.answer
    assert replayed == episode.messages[1:]


async def test_what_fails_its_verifier_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    def guesser(task: object, plan: Plan) -> tuple[Policy, Style, bool]:
        def policy() -> Policy:
            yield Turn("I guess.", answer="42 or 43")

        return policy(), Style.LINES, False

    monkeypatch.setattr(record, "oracle", guesser)
    played = await record_episode(Seed(Split.TRAIN, 1), "lookup")
    assert isinstance(played, Rejected) and played.reason


async def test_an_oracle_that_is_lost_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A right answer that no article told is no episode."""
    task = generate_task(Seed(Split.TRAIN, 1), "lookup")
    (search, _) = task.solution.serial
    article = search.reads[0].article  # type: ignore[union-attr]
    monkeypatch.setattr(
        type(task),
        "articles",
        lambda self, style: tuple(
            each._replace(text="Nothing is known.") if each.id == article else each
            for each in self.world.articles(style)
        ),
    )
    played = await record_episode(Seed(Split.TRAIN, 1), "lookup", plan=Plan(mistakes=0))
    assert isinstance(played, Rejected) and "does not tell" in played.reason


async def test_a_repair_is_not_judged_without_a_sandbox() -> None:
    task = generate_task(Seed(Split.TRAIN, 1), "code_repair")
    with set_scene(task) as scene:
        verdict = await judge(scene, task.answer)
    assert not verdict.passed and "sandbox" in verdict.reason


async def test_a_repair_is_judged_by_its_files(testing_sandbox: Sandbox) -> None:
    task = generate_task(Seed(Split.TRAIN, 1), "code_repair")
    edit = next(step for step in task.solution.serial if hasattr(step, "old"))
    with set_scene(task) as scene:
        assert not (await judge(scene, task.answer, testing_sandbox)).passed
        path = scene.workspace / edit.path
        path.write_text(path.read_text().replace(edit.old, edit.new))
        assert (await judge(scene, "", testing_sandbox)).passed
        path.write_text("import os\n" + path.read_text())
        assert "imports os" in (await judge(scene, "", testing_sandbox)).reason


def test_processes_give_what_one_gives(sandbox: Sandbox) -> None:
    wanted = [(Seed(Split.TRAIN, number), "lookup") for number in range(30)]
    alone = list(record_all(wanted, sandbox="bubblewrap"))
    assert list(record_all(wanted, sandbox="bubblewrap", jobs=2)) == alone
    assert not [each for each in alone if isinstance(each, Rejected)]


async def test_tapes_reach_the_corpus_by_address() -> None:
    """The address of an article is what `fetch` reads."""
    task = generate_task(Seed(Split.TRAIN, 2), "lookup")
    article = task.articles()[0]
    call = Call("fetch", {"url": article_address(article.id)})
    with set_scene(task) as scene:
        agent = Agent(
            ScriptedModel([Reply(calls=[call]), Reply("done")]),
            scene.tools,
            workspace=scene.workspace,
            home=scene.folder,
        )
        async with agent.session() as session:
            await session.run("Read it.")
            page = session.state.messages[-2]["content"]
    assert article.text in page and json.dumps(article.title)[1:-1] in page


@pytest.mark.parametrize(
    ("family", "index"), [("arithmetic", 332), ("arithmetic", 372), ("comparison", 60)]
)
async def test_halves_and_counts_stand_in_what_python_printed(family: str, index: int) -> None:
    """A half that Python rounds to even; a count of ten, which no source tells."""
    messages = (await play(index, family, None)).messages
    printed = [str(each["content"]).strip() for each in messages if each.get("name") == "python"]
    assert printed and printed[-1] in str(messages[-1]["content"])
