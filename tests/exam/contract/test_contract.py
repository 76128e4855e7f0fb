"""The suite against a good server, and against a broken one for each of its rules."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from perilune.errors import PeriluneError, UsageError
from perilune.exam.contract.check import CHECKS, Level, Status
from perilune.exam.contract.runner import Result, failed, run_check, run_checks, select
from perilune.exam.contract.scenarios import streamed
from perilune.exam.contract.schemas import draw_schema
from perilune.exam.contract.target import Settings, Target
from perilune.exam.contract.trigger import (
    Decision,
    compare,
    decide,
    read_decisions,
    write_decisions,
)
from tests.exam.contract.breaks import CHAT, all_breaks, refuses, rewrites
from tests.exam.contract.good_answers import value_of
from tests.exam.contract.good_server import Break, GoodServer

KEY = "sk-good-0123456789"


def connect(server: GoodServer, **chosen: Any) -> Target:
    return Target.connect(
        "http://good/v1",
        api_key=server.key,
        transport=server.transport,
        settings=Settings(schemas=4, **chosen),
    )


def test_a_good_server_passes_every_check() -> None:
    target = connect(GoodServer(key=KEY))
    checks = [check for check in select() if not check.id.startswith("kimi-strict.")]
    results = run_checks(target, checks, parallel=2)
    bad = [(r.check.id, r.status, r.message) for r in results if r.status is not Status.PASSED]
    assert [id_ for id_, *_ in bad] == ["chat.stream.incremental"], bad


def test_a_server_that_pins_parameters_passes_the_strict_checks() -> None:
    target = connect(GoodServer(Break(strict=True)), kimi_strict=True)
    results = run_checks(target, select(only=["kimi-strict.*"]))
    bad = [(r.check.id, r.message) for r in results if r.status is not Status.PASSED]
    assert not bad
    assert len(results) > 80


def _thinks(body: dict[str, Any]) -> bool:
    thinking = body.get("thinking")
    return isinstance(thinking, dict) and thinking.get("type") == "enabled"


@pytest.mark.parametrize(
    ("broken", "shown"),
    [  # what servers did, ours among them, that claimed the rules
        (
            refuses(lambda b: _thinks(b) and b.get("tool_choice") == "required"),
            {"kimi-strict.tool_choice-required-thinking",
             "kimi-strict.tool_choice-required-thinking-streamed"},
        ),
        (
            refuses(lambda b: "temperature" in b and b["temperature"] != (
                1.0 if _thinks(b) or (b.get("chat_template_kwargs") or {}).get("thinking")
                else 0.6)),
            {"kimi-strict.temperature-0-thinking", "kimi-strict.temperature-0-instant",
             "kimi-strict.temperature-0.6-thinking", "kimi-strict.temperature-1-instant"},
        ),
        (rewrites(lambda b: b.update(temperature=1) if b.get("temperature") == 0.7 else None),
         {"kimi-strict.temperature-not-0.7-thinking", "kimi-strict.temperature-not-0.7-instant"}),
        (rewrites(lambda b: b["thinking"].update(effort="low")
                  if _thinks(b) and b["thinking"].get("effort") == "medium" else None),
         {"kimi-strict.thinking-effort-unknown"}),
    ],
    ids=["required", "pinned", "passes-wrong", "effort"],
)  # fmt: skip
def test_a_server_that_keeps_all_rules_but_one_is_shown(broken: Break, shown: set[str]) -> None:
    broken.strict = True
    target = connect(GoodServer(Break(strict=True)), kimi_strict=True)
    target.client = httpx.Client(transport=GoodServer(broken).transport)
    results = run_checks(target, select(only=["kimi-strict.*"]))
    assert {r.check.id for r in results if r.status is Status.FAILED} == shown


def test_each_rule_of_our_strict_mode_has_its_checks() -> None:
    from perilune.serve.kimi_strict import RULES

    ids = [check.removeprefix("kimi-strict.") for check in CHECKS if "kimi-strict." in check]
    for rule in RULES:
        found = [id_ for id_ in ids if id_ == rule.name or id_.startswith(f"{rule.name}-")]
        rules = {CHECKS[f"kimi-strict.{id_}"].rule.partition(" ")[0] for id_ in found}
        assert any(word.startswith("Refused") for word in rules), rule.name
    for id_ in ids:
        known = any(id_ == r.name or id_.startswith(f"{r.name}-") for r in RULES)
        assert known or id_.startswith(("defaults-", "open-spelling", "stop-5")), id_


@pytest.mark.parametrize(("check_id", "broken"), [pytest.param(*p, id=p[0]) for p in all_breaks()])
def test_a_broken_rule_is_caught_by_its_check(check_id: str, broken: Break) -> None:
    strict = check_id.startswith("kimi-strict.")
    target = connect(GoodServer(Break(strict=strict), key=KEY), kimi_strict=strict)
    target.client = httpx.Client(transport=GoodServer(broken, key=KEY).transport)
    result = run_check(target, CHECKS[check_id])
    assert result.status is Status.FAILED, result.message
    assert result.message
    assert result.exchange is not None


def test_a_stream_that_arrives_in_one_piece_is_caught() -> None:
    target = connect(GoodServer())
    check = CHECKS["chat.stream.incremental"]
    for name in ("text", "unicode"):
        exchange = streamed(target, name).exchange
        exchange.seconds = 2.0
        exchange.reads = 9
    assert run_check(target, check).status is Status.PASSED
    exchange.reads = 1
    assert run_check(target, check).status is Status.FAILED


def test_white_space_between_the_parts_of_json_breaks_no_rule() -> None:
    spaced: list[str] = []

    def answer(path: str, good: Any) -> Any:
        message = good["choices"][0]["message"] if path == CHAT else {}
        if str(message.get("content")).startswith("{"):
            message["content"] = message["content"].replace(":", " \t\n:")
            spaced.append(message["content"])
        return good

    target = connect(GoodServer(Break(answer=answer)))
    result = run_check(target, CHECKS["thinking.not-held-by-format"])
    assert result.status is Status.PASSED, result.message
    assert spaced


def test_levels_decide_what_counts() -> None:
    def broken(check_id: str) -> list[Result]:
        breaks = dict(all_breaks())
        target = connect(GoodServer(breaks[check_id], key=KEY))
        return [run_check(target, CHECKS[check_id])]

    kimi, recommended = broken("chat.stream.id-form"), broken("chat.stream.end-delta")
    assert not failed(kimi, Level.RECOMMENDED) and failed(kimi, Level.KIMI)
    assert not failed(recommended, Level.REQUIRED) and failed(recommended, Level.RECOMMENDED)


def test_a_server_that_dies_or_talks_nonsense_fails_checks_and_crashes_none() -> None:
    nonsense: list[Any] = [None, [], "x", {"choices": []}, {"choices": [{"message": None}]}, 7]
    for body in nonsense:

        def answer(path: str, good: Any, bad: Any = body) -> Any:
            return bad if path == CHAT else good

        target = connect(GoodServer(Break(answer=answer)))
        results = [run_check(target, check) for check in select(only=["chat.plain.*", "tools.*"])]
        assert any(result.status is Status.FAILED for result in results)
    target = connect(GoodServer())
    target.client = httpx.Client(transport=httpx.MockTransport(_refuse_connection))
    for check in select(only=["chat.stream.*", "errors.*", "anthropic.message"]):
        assert run_check(target, check).status is Status.FAILED


def _refuse_connection(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


def test_a_server_that_answers_nothing_is_told_at_once() -> None:
    broken = Break(status=lambda path, status: 500 if path == CHAT else status)
    with pytest.raises(PeriluneError, match="status 500"):
        connect(GoodServer(broken))


def test_a_busy_server_is_asked_again() -> None:
    answers = iter([httpx.Response(503, headers={"retry-after": "0"}), httpx.Response(429)])
    broken = Break(respond=lambda request: next(answers, None))
    assert connect(GoodServer(broken)).model == "good-model"


def test_connecting_names_the_cause() -> None:
    def reply(status: int, body: Any) -> httpx.MockTransport:
        return httpx.MockTransport(lambda request: httpx.Response(status, json=body))

    for transport, said in (
        (httpx.MockTransport(_refuse_connection), "no server answers"),
        (reply(401, {}), "refuses the key"),
        (reply(200, {"data": []}), "lists no model"),
        (reply(404, {}), "lists no model"),
    ):
        with pytest.raises(PeriluneError, match=said):
            Target.connect("http://good", transport=transport)


@settings(max_examples=200, deadline=None)
@given(st.integers())
def test_drawn_schemas_are_schemas_and_have_values(seed: int) -> None:
    schema = draw_schema(random.Random(seed))
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(value_of(schema, schema))


def test_similarity_is_f1_of_the_decisions() -> None:
    def decisions(*called: bool) -> list[Decision]:
        return [Decision(i, c, c, "tool_calls" if c else "stop") for i, c in enumerate(called)]

    found = compare(decisions(True, True, False, False), decisions(True, False, True, False))
    assert found.f1 == 0.5
    assert found.schema_accuracy == 1.0
    assert compare(decisions(False), decisions(False)).f1 is None
    with pytest.raises(UsageError, match="2 samples"):
        compare(decisions(True), decisions(True, True))


def test_decisions_are_recorded_and_compared(tmp_path: Path) -> None:
    target = connect(GoodServer())
    first, again = decide(target, 30, 1), decide(target, 30, 1, parallel=1)
    write_decisions(first, tmp_path / "reference.jsonl")
    assert read_decisions(tmp_path / "reference.jsonl") == again
    assert any(d.called for d in first) and not all(d.called for d in first)
    assert compare(again, first).f1 == 1.0
    never = connect(GoodServer(dict(all_breaks())["tools.required"]))
    found = compare(decide(never, 30, 1), first)
    assert found.f1 == 0.0 and found.called == 0


def test_rules_of_vision_are_skipped_with_a_reason_where_the_server_reads_text_only() -> None:
    def blind(body: Any) -> bool:
        return "image_url" in str(body.get("messages"))

    checks = [check for check in select(only=["vision.*"]) if check.id != "vision.text-stays-text"]
    for says in (False, None):

        def answer(path: str, good: Any, says: bool | None = says) -> Any:
            for row in good["data"] if path == "/v1/models" else ():
                row["supports_image_in"] = says
            return good

        broken = refuses(blind)
        broken.answer = answer
        results = {r.check.id: r for r in run_checks(connect(GoodServer(broken)), checks)}
        assert results.pop("vision.read-or-refused").status is Status.PASSED
        for result in results.values():
            assert result.status is Status.SKIPPED, (result.check.id, result.message)
            assert result.message.startswith("text only: ")
    silent = dict(all_breaks())["vision.read-or-refused"]
    found = run_check(connect(GoodServer(silent)), CHECKS["vision.read-or-refused"])
    assert found.status is Status.FAILED and "not counted" in found.message
