"""`bfcl-eval`: who knows the answers passes; borderline ones are judged as the package does."""

from __future__ import annotations

import copy
import importlib
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jsonschema
import pytest

from perilune.agent.models.scripted import Call, Reply
from perilune.exam.suites.bfcl import data
from perilune.exam.suites.bfcl.ast_check import check_calls
from perilune.exam.suites.bfcl.simulated import SimulatedAPIs, judge_turns, read_call
from perilune.exam.suites.bfcl.suite import MORE_FUNCTIONS, BfclSuite
from perilune.exam.suites.runner import choose, plan, run_exam
from perilune.exam.suites.suite import Examinee
from tests.exam.suites.conftest import model

pytest.importorskip("bfcl_eval", reason="bfcl-eval is not installed: pip install --no-deps it")

SINGLE = [name for name in data.SINGLE if name != "irrelevance"]
Arguments = dict[str, Any]


@pytest.fixture(scope="module")
def their_checker() -> Iterator[Any]:
    """The package's AST checker; its table of vendors' models is replaced by one entry."""
    stub = ModuleType("bfcl_eval.constants.model_config")
    stub.MODEL_CONFIG_MAPPING = {"examinee": SimpleNamespace(underscore_to_dot=True)}  # type: ignore[attr-defined]
    before = set(sys.modules)
    sys.modules[stub.__name__] = stub
    try:
        checker = importlib.import_module("bfcl_eval.eval_checker.ast_eval.ast_checker")
        language = importlib.import_module("bfcl_eval.constants.enums").Language.PYTHON
        yield lambda entry, calls, category: checker.ast_checker(
            entry.functions, calls, entry.truth, language, category, "examinee"
        )["valid"]
    finally:
        for name in set(sys.modules) - before:
            if name.startswith("bfcl_eval"):
                del sys.modules[name]


def right_value(values: Sequence[Any]) -> Any:
    """The first possible value; those of dicts are lists of possible values again."""
    value = next((each for each in values if each != ""), "")
    if isinstance(value, dict):
        return right_dict(value)
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return [right_dict(each) for each in value]
    return value


def right_dict(possible: Mapping[str, Sequence[Any]]) -> Arguments:
    return {
        key: right_value(values)
        for key, values in possible.items()
        if any(each != "" for each in values)
    }


def right_calls(entry: data.Entry) -> list[tuple[str, Arguments]]:
    calls = []
    for truth in entry.truth:
        ((name, possible),) = truth.items()
        required = next(f for f in entry.functions if f["name"] == name)["parameters"]["required"]
        arguments = {
            parameter: right_value(values)
            for parameter, values in possible.items()
            if "" not in values or parameter in required
        }
        calls.append((data.tool_name(name), arguments))
    return calls


CHANGES = (
    lambda v, r: v.upper() if isinstance(v, str) else v,
    lambda v, r: f"{v}, " if isinstance(v, str) else v,
    lambda v, r: f"{v}x" if isinstance(v, str) else v,
    lambda v, r: v + 1 if isinstance(v, int) else v,
    lambda v, r: float(v) if type(v) is int else v,
    lambda v, r: int(v) if isinstance(v, float) else v,
    lambda v, r: str(v),
    lambda v, r: [v],
    lambda v, r: v[::-1] if isinstance(v, list) else v,
    lambda v, r: v[:-1] if isinstance(v, list) else v,
    lambda v, r: [f"{x}".title() for x in v] if isinstance(v, list) else v,
    lambda v, r: tuple(v) if isinstance(v, list) else v,
    lambda v, r: {**v, "more": 1} if isinstance(v, dict) else v,
    lambda v, r: dict(list(v.items())[1:]) if isinstance(v, dict) else v,
    lambda v, r: None,
    lambda v, r: True,
    lambda v, r: "",
    lambda v, r: [],
    lambda v, r: {},
)


def changed(calls: list[tuple[str, Arguments]], chance: random.Random) -> list[Any]:
    """Calls with one thing changed, which may be right or wrong."""
    calls = copy.deepcopy(calls)
    kind = chance.randrange(8)
    at = chance.randrange(len(calls))
    name, arguments = calls[at]
    if kind == 0:
        chance.shuffle(calls)
    elif kind == 1:
        calls.append(calls[at])
    elif kind == 2:
        del calls[at]
    elif kind == 3:
        calls[at] = (f"{name}s", arguments)
    elif kind == 4:
        arguments["unheard_of"] = 1
    elif kind == 5 and arguments:
        del arguments[chance.choice(list(arguments))]
    elif arguments:
        parameter = chance.choice(list(arguments))
        arguments[parameter] = chance.choice(CHANGES)(arguments[parameter], chance)
    return calls


@pytest.mark.parametrize("category", SINGLE)
def test_judged_as_the_package_judges(category: str, their_checker: Any) -> None:
    """Right answers and thousands of borderline ones: the same verdict as the package's."""
    chance = random.Random(category)
    verdicts: list[bool] = []
    entries = data.entries(category)
    for entry in entries if len(entries) < 300 else chance.sample(entries, 300):
        right = right_calls(entry)
        for calls in (right, *(changed(right, chance) for _ in range(12))):
            theirs: bool | str
            try:
                theirs = their_checker(entry, [{name: args} for name, args in calls], category)
            except Exception:  # it stumbles over some shapes: then the answer is not right
                theirs = False
            ours = not check_calls(
                entry.functions, calls, entry.truth, any_order="parallel" in category
            )
            assert ours == theirs, (entry.id, calls, entry.truth)
            verdicts.append(ours)
    assert 0.2 < sum(verdicts) / len(verdicts) < 0.8


def known_answers(category: str) -> dict[str, data.Entry]:
    return {str(entry.turns[0][-1]["content"]): entry for entry in data.entries(category)}


async def examine(category: str, says: Any, folder: Path, limit: int = 30) -> Any:
    suite = BfclSuite()
    manifest = plan(suite, "examinee", categories=[category], limit=limit, seed=1)
    return await run_exam(suite, manifest, Examinee(model(says)), folder)


@pytest.mark.parametrize("category", ["simple", "multiple", "parallel", "live_multiple"])
async def test_who_knows_passes_and_who_guesses_fails(category: str, tmp_path: Path) -> None:
    known = known_answers(category)

    def oracle(messages: Any, tools: Any) -> Reply:
        entry = known[messages[-1]["content"]]
        declared = {tool["function"]["name"]: tool["function"] for tool in tools}
        calls = right_calls(entry)
        assert {name for name, _ in calls} <= set(declared)
        return Reply(calls=[Call(name, arguments) for name, arguments in calls])

    def guesser(messages: Any, tools: Any) -> Reply:
        return Reply(calls=[Call(tools[0]["function"]["name"], {"guess": 1})])

    exam = await examine(category, oracle, tmp_path / "oracle")
    assert [each.reason for each in exam.results if not each.passed] == []
    assert len(exam.results) == min(30, len(data.entries(category)))
    exam = await examine(category, guesser, tmp_path / "guesser")
    assert not any(each.passed for each in exam.results)
    words = await examine(category, lambda m, t: Reply("I cannot."), tmp_path / "words", limit=3)
    assert [each.reason for each in words.results] == [
        f"0 calls instead of {len(known_truth(each.id, category))}" for each in words.results
    ]


def known_truth(name: str, category: str) -> Sequence[Any]:
    return next(entry for entry in data.entries(category) if entry.id == name).truth


async def test_irrelevance_and_broken_arguments(tmp_path: Path) -> None:
    exam = await examine("irrelevance", lambda m, t: Reply("Nothing fits."), tmp_path / "a", 5)
    assert all(each.passed for each in exam.results)

    def broken(messages: Any, tools: Any) -> Reply:
        return Reply(calls=[Call(tools[0]["function"]["name"], '{"a": ')])

    exam = await examine("irrelevance", broken, tmp_path / "b", 5)
    assert not any(each.passed for each in exam.results)
    exam = await examine("simple", broken, tmp_path / "c", 5)
    assert {each.passed for each in exam.results} == {False}
    assert "no JSON object" in exam.results[0].reason


# --- conversations --------------------------------------------------------------------------


def positional(entry: data.Entry, text: str) -> tuple[str, Arguments]:
    """A call of the ground truth with all its arguments named."""
    name, values, named = read_call(text)
    function = next(each for each in entry.functions if each["name"] == name)
    names = list(function["parameters"]["properties"])
    return name, {**dict(zip(names, values, strict=False)), **named}


def conversation_oracle(category: str) -> Any:
    entries = {
        str(entry.turns[0][0]["content"]) + str(entry.initial): entry
        for entry in data.entries(category)
    }
    by_question: dict[str, list[data.Entry]] = {}
    for entry in entries.values():
        by_question.setdefault(str(entry.turns[0][0]["content"]), []).append(entry)

    def oracle(messages: Any, tools: Any) -> Reply:
        (entry,) = by_question[messages[0]["content"]]
        turn = sum(message["role"] == "user" for message in messages) - 1
        if messages[-1]["role"] == "tool" or not entry.truth[turn]:
            return Reply("Done.")
        declared = {tool["function"]["name"] for tool in tools}
        calls = [positional(entry, text) for text in entry.truth[turn]]
        assert {name for name, _ in calls} <= declared
        return Reply(calls=[Call(name, arguments) for name, arguments in calls])

    return oracle


def distinct(category: str) -> list[int]:
    """Questions whose first words no other question has, for an oracle that goes by them."""
    firsts = [str(entry.turns[0][0]["content"]) for entry in data.entries(category)]
    return [at for at, first in enumerate(firsts) if firsts.count(first) == 1]


@pytest.mark.parametrize("category", list(data.MULTI_TURN))
async def test_conversations(category: str, tmp_path: Path) -> None:
    suite = BfclSuite()
    oracle = Examinee(model(conversation_oracle(category)))
    silent = Examinee(model(lambda messages, tools: Reply("Done.")))
    chosen = [at for at in distinct(category) if at % 8 == 0]
    assert len(chosen) >= 10
    for at in chosen:
        question = suite.question(category, at, 0)
        outcome = await question.put(oracle)
        assert outcome.passed, (question.id, outcome.reason)
    outcome = await suite.question(category, chosen[0], 0).put(silent)
    assert not outcome.passed and "nothing was called in turn 1" in outcome.reason


@pytest.mark.slow
@pytest.mark.parametrize("category", list(data.MULTI_TURN))
def test_every_ground_truth_is_right(category: str) -> None:
    for entry in data.entries(category):
        calls = [[positional(entry, text) for text in turn] for turn in entry.truth]
        assert judge_turns(entry, calls) == "", entry.id


def test_functions_that_are_held_out_come_later() -> None:
    entry = data.entries("multi_turn_miss_func")[0]
    assert entry.held_out == {3: ["sort"]} and entry.turns[3] == []
    assert MORE_FUNCTIONS.endswith("What about now?")


def test_conversations_are_judged_as_the_package_judges() -> None:
    """The ground truth with a call left out, doubled, or changed: the verdicts are the same."""
    theirs = importlib.import_module("bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker")
    chance = random.Random(5)
    verdicts = []
    for number, entry in enumerate(chance.sample(data.entries("multi_turn"), 40)):
        for change in range(4):
            truth: list[list[str]] = [list(turn) for turn in entry.truth]
            turn = chance.choice([at for at, calls in enumerate(truth) if calls])
            at = chance.randrange(len(truth[turn]))
            if change == 1:
                del truth[turn][at]
            elif change == 2:
                truth[turn].insert(at, truth[turn][at])
            elif change == 3:
                truth[turn].append("ls()" if "GorillaFileSystem" in entry.classes else "mean([1])")
            ours = not judge_turns(
                entry, [[read_named(entry, text) for text in each] for each in truth]
            )
            question = {
                "id": entry.id,
                "initial_config": entry.initial,
                "involved_classes": entry.classes,
            }
            judged = theirs.multi_turn_checker(
                [[each] if each else [] for each in truth],
                entry.truth,
                question,
                "multi_turn_base",
                f"examinee{number}x{change}",
            )
            assert ours == judged["valid"], (entry.id, truth, judged)
            verdicts.append(ours)
    assert 0.2 < sum(verdicts) / len(verdicts) < 0.95


def read_named(entry: data.Entry, text: str) -> tuple[str, Arguments]:
    try:
        return positional(entry, text)
    except StopIteration:  # a function that the question does not have
        name, _, named = read_call(text)
        return name, named


def test_text_is_not_run() -> None:
    apis = SimulatedAPIs(data.entries("multi_turn")[0])
    assert "not defined" in apis.call("__import__", name="os")
    assert "not defined" in apis.call("_load_scenario", scenario={})
    for text in ("cd(folder=__import__('os').getcwd())", "a.b()", "1 + 1"):
        with pytest.raises(ValueError):
            apis.call_text(text)


def test_every_declaration_is_a_schema() -> None:
    for category in (*data.SINGLE, "multi_turn"):
        for entry in data.entries(category)[:200]:
            for function in entry.functions:
                declared = data.declaration(function)["function"]
                jsonschema.Draft202012Validator.check_schema(declared["parameters"])
                assert "." not in declared["name"]
                json.dumps(declared)


def test_the_same_seed_asks_the_same() -> None:
    suite = BfclSuite()
    first = choose(suite, ["simple", "multiple"], 10, 3)
    assert first == choose(suite, ["simple", "multiple"], 10, 3)
    assert first != choose(suite, ["simple", "multiple"], 10, 4)
    assert [category for category, _ in first] == ["simple", "multiple"] * 5
    assert len(choose(suite, ["simple"], None, 3)) == 400
