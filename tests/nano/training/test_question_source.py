"""Episodes over question forms: of training entities and authors, and what the real loop makes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from perilune.agent.models.scripted import Call, Reply, ScriptedModel
from perilune.errors import UsageError
from perilune.nano.agent import nano_agent
from perilune.nano.training.episode import play
from perilune.nano.training.form_tasks import UnfillableError, fill
from perilune.nano.training.policy import UnsolvableError
from perilune.nano.training.question_forms import LANGUAGES, examination_forms, training_forms
from perilune.nano.training.question_policy import policy_of
from perilune.nano.training.question_source import (
    KIND_WEIGHTS,
    Renamed,
    nano_question_source,
    question_episode,
)
from perilune.nano.training.question_sums import fill_plain
from perilune.search.almanac.text import key
from perilune.search.almanac_facts import almanac_facts
from perilune.train.config import read_run_config
from perilune.world.seed import Seed, Split

FILE = Path(__file__).parents[3] / "configs" / "nano2.toml"


def test_episodes_are_a_pure_function_of_the_index() -> None:
    for index in (3, 17):
        assert question_episode(index) == question_episode(index)
    assert question_episode(3) != question_episode(4)


@pytest.mark.parametrize("kind", KIND_WEIGHTS)
def test_every_kind_is_played_in_english_and_in_another_language(kind: str) -> None:
    for code in ("en", "de"):
        played = question_episode(5, {kind: 1}, {code: 1})
        assert played.kind == f"q-{kind}"
        assert played.answer
        for message in played.messages[:-1]:
            if message["role"] == "tool" and message["name"] == "python":
                assert not str(message["content"]).startswith("Error")


def test_what_is_answered_was_read_or_computed() -> None:
    kinds: Counter[str] = Counter()
    for index in range(60):
        played = question_episode(
            1000 + index, dict.fromkeys(("fact", "two_hop", "sum", "topk", "yesno"), 1)
        )
        kinds[played.kind] += 1
        read = "".join(str(each["content"]) for each in played.messages[:-1])
        for word in played.answer.replace(",", " ").split():
            if any(letter.isdigit() for letter in word):
                assert word in read, (played.answer, read)
    assert len(kinds) == 5


def test_no_form_of_the_examination_is_drawn_and_the_text_is_the_form() -> None:
    forms = {id(form) for form in training_forms()}
    assert not {id(form) for form in examination_forms()} & forms


def test_questions_are_of_training_entities() -> None:
    from perilune.search.almanac.questions import pool

    exam = {key(address.rpartition("/")[2]) for address in pool("country", "exam")}
    forms = [form for form in training_forms() if form.kind == "fact"][:40]
    for number, form in enumerate(forms):
        try:
            task = fill(form, Seed(Split.TRAIN, number).stream("entities"))
        except UnfillableError:
            continue
        if form.asks.get("of") == "country":
            assert key(task.facts[0].entity) not in exam


async def test_the_real_loop_writes_the_same_messages(tmp_path: Path) -> None:
    for index, kind in enumerate(("fact", "yesno", "two_hop", "compare2", "table", "difference")):
        expected = _real(kind, index)
        tape = [_reply(message) for message in expected if message["role"] == "assistant"]
        model = ScriptedModel(tape)
        agent = nano_agent(model, workspace=tmp_path, home=tmp_path / "home", verifiers=())
        result = await agent.arun(str(expected[0]["content"]))
        assert result.answer == expected[-1]["content"]
        results = [m["content"] for m in model.prompts[-1] if m["role"] == "tool"]
        assert results == [m["content"] for m in expected if m["role"] == "tool"]


def _real(kind: str, index: int) -> list[dict]:
    """An episode over the almanac's own names."""
    for number in range(200):
        forms = [
            f for f in training_forms() if f.kind == kind and f.language == LANGUAGES[index % 5]
        ]
        stream = Seed(Split.TRAIN, 900 + number).stream("real")
        try:
            task = fill(stream.pick(forms), stream)
            return play(task.text, policy_of(task), almanac_facts()).messages
        except (UnfillableError, UnsolvableError):
            continue
    raise AssertionError(f"no form of kind {kind} could be played")


def _reply(message: dict) -> Reply:
    calls = [
        Call(each["function"]["name"], each["function"]["arguments"], each["id"])
        for each in message.get("tool_calls", ())
    ]
    return Reply(message["content"], calls, message["reasoning_content"])


def test_sums_are_told_by_their_words() -> None:
    wanted = {"{x} times {y}": "*", "square root of {x}": "** 0.5", "{x} durch {y}": "/",
              "{x}减{y}": "-", "cuánto es {x} más {y}": "+", "{x} puissance {y}": "**"}  # fmt: skip
    from perilune.nano.training.question_forms import Form

    for text, sign in wanted.items():
        form = Form(1, "arithmetic", "en", text, {})
        task = fill_plain(form, Seed(Split.TRAIN, 1).stream("sums"))
        assert f" {sign}" in task.slots["code"], task
    for text, sign in {
        "{p}% of {x}": "",
        "{x} plus {p}% vat": "+",
        "{x} minus {p} % rabatt": "-",
    }.items():
        task = fill_plain(Form(1, "percentage", "en", text, {}), Seed(Split.TRAIN, 2).stream("p"))
        assert (f"(1 {sign} " in task.slots["code"]) == bool(sign)


def test_a_renamed_store_answers_as_the_real_one() -> None:
    store = Renamed(almanac_facts(), {"Zorv": "Kenya"}, {"Kenya": "Zorv"})
    (fact,) = store.find("capital of Zorv").facts
    assert fact.line.startswith("Zorv.capital = Nairobi")


def test_the_source_names_what_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        nano_question_source(1, None)
    with pytest.raises(UsageError, match="poem"):
        nano_question_source(1, tmp_path, kinds={"poem": 1})


def test_the_recipe_of_the_second_nano_is_read() -> None:
    run = read_run_config(FILE)
    assert list(run.stages) == ["pretrain", "sft", "qat"]
    assert run.stages["qat"].qat is not None
    for stage in run.stages.values():
        for source in stage.data.sources:
            if source.name == "nano-questions":
                assert set(source.options.get("kinds", {})) <= set(KIND_WEIGHTS)
    assert json.dumps(list(KIND_WEIGHTS))
