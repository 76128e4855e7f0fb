"""Every spelling of thinking, alone and together: one answer, by the written rules, never a 500."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perilune.serve.anthropic.request import read_messages
from perilune.serve.anthropic.schema import MessagesBody
from perilune.serve.api_error import ApiError
from perilune.serve.chat_schema import ChatCompletionBody
from perilune.serve.http import parse
from perilune.serve.request import Caller, Thinking
from perilune.serve.responses.request import read_responses
from perilune.serve.responses.schema import ResponsesBody
from perilune.serve.thinking_switches import (
    EFFORT_BUDGETS,
    EFFORTS,
    SWITCHES,
    read_thinking,
    shows_thinking,
)

from .contract import ask
from .scripted import Turn

STREAM = pytest.mark.parametrize("stream", [False, True])
THINKS = Turn("Answer.", reasoning="A long thought, and one more.")
HI = [{"role": "user", "content": "Hi"}]


def body_of(fields: dict[str, Any]) -> ChatCompletionBody:
    return parse(ChatCompletionBody, {"messages": HI, **fields})


def put(fields: dict[str, Any], name: str, value: Any) -> None:
    """`thinking.effort` -> fields["thinking"]["effort"]."""
    *path, last = name.split(".")
    for key in path:
        fields = fields.setdefault(key, {})
    fields[last] = value


@STREAM
@pytest.mark.parametrize(
    ("fields", "thinks"),
    [
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}, False),
        ({"enable_thinking": False}, False),
        ({"reasoning": {"enabled": False}}, False),
        ({"reasoning": {"effort": "none"}}, False),
        ({"reasoning": {"exclude": True}}, False),
        ({"thinking": {"type": "disabled"}, "reasoning_effort": "high"}, False),
        ({"thinking": {"type": "enabled"}, "reasoning_effort": "none"}, True),
        ({"thinking": {"effort": "low"}, "reasoning_effort": "high"}, True),
        ({"thinking": {"effort": "max"}, "reasoning_effort": "none"}, True),
        ({"thinking": {"type": "enabled", "effort": "max"}, "reasoning_effort": "low"}, True),
        ({"thinking": {"effort": "max"}, "chat_template_kwargs": {"thinking": False}}, False),
    ],
)  # fmt: skip
async def test_spellings(scripted: Any, fields: dict[str, Any], thinks: bool, stream: bool) -> None:
    async with scripted(THINKS) as client:
        said = await ask(client, fields, stream=stream)
        assert said.status == 200, said.body
        assert bool(said.message.get("reasoning_content")) is thinks


@STREAM
@pytest.mark.parametrize(
    ("fields", "both"),
    [
        ({"chat_template_kwargs": {"enable_thinking": False, "thinking": True}},
         ("chat_template_kwargs.thinking", "chat_template_kwargs.enable_thinking")),
        ({"thinking": {"type": "enabled"}, "chat_template_kwargs": {"enable_thinking": False}},
         ("thinking.type", "chat_template_kwargs.enable_thinking")),
        ({"enable_thinking": True, "thinking": {"type": "disabled"}},
         ("enable_thinking", "thinking.type")),
        ({"reasoning": {"enabled": True}, "enable_thinking": False},
         ("reasoning.enabled", "enable_thinking")),
        ({"include_reasoning": True, "reasoning": {"exclude": True}},
         ("include_reasoning", "reasoning.exclude")),
    ],
)  # fmt: skip
async def test_contradictions_are_400_and_name_both(
    scripted: Any, fields: dict[str, Any], both: tuple[str, str], stream: bool
) -> None:
    async with scripted(THINKS) as client:
        said = await ask(client, fields, stream=stream)
        assert said.status == 400 and said.error["type"] == "invalid_request_error"
        assert all(name in said.error["message"] for name in both)
        assert said.error["param"] in fields


def test_the_effort_of_the_highest_rank_counts() -> None:
    for fields, budget in (
        ({"thinking": {"effort": "low"}, "reasoning_effort": "max"}, 2048),
        ({"thinking": {"effort": "max"}, "reasoning_effort": "low"}, None),
        ({"thinking": {"effort": "max"}, "chat_template_kwargs": {"thinking_effort": "low"}}, 2048),
        ({"reasoning_effort": "minimal", "reasoning": {"effort": "medium"}}, 512),
        ({"reasoning_effort": "low", "thinking": {"budget_tokens": 7}}, 7),
        ({"thinking_token_budget": 3, "thinking": {"budget_tokens": 7}}, 3),
        ({"reasoning": {"max_tokens": 9}, "reasoning_effort": "low"}, 9),
        ({"thinking": {"type": "disabled"}, "thinking_token_budget": 3}, None),
    ):
        assert read_thinking(body_of(fields)).budget == budget, fields


VALUES: dict[str, Any] = {
    **{name: st.booleans() for name in SWITCHES if name != "thinking.type"},
    "thinking.type": st.sampled_from(["enabled", "disabled"]),
    **{name: st.sampled_from(sorted(EFFORT_BUDGETS)) for name in EFFORTS if "." not in name},
    **{
        name: st.sampled_from(sorted(EFFORT_BUDGETS))
        for name in EFFORTS
        if name not in ("thinking.effort", "reasoning_effort")
    },
    "thinking.effort": st.sampled_from(["low", "medium", "high", "max"]),
    "thinking.keep": st.just("all"),
    "thinking_token_budget": st.integers(0, 99),
    "thinking.budget_tokens": st.integers(0, 99),
    "reasoning.max_tokens": st.integers(0, 99),
    "include_reasoning": st.booleans(),
    "reasoning.exclude": st.booleans(),
    "chat_template_kwargs.preserve_thinking": st.booleans(),
}
CHOSEN = st.fixed_dictionaries({}, optional=VALUES)


def outcome(fields: dict[str, Any]) -> tuple[Thinking, bool] | str:
    try:
        body = body_of(fields)
        return read_thinking(body), shows_thinking(body)
    except ApiError as error:
        assert error.status == 400
        return error.message


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CHOSEN, st.randoms(use_true_random=False))
def test_all_combinations_have_one_meaning(chosen: dict[str, Any], random: Any) -> None:
    fields: dict[str, Any] = {}
    for name, value in chosen.items():
        put(fields, name, value)
    found = outcome(fields)
    shuffled: dict[str, Any] = {}
    names = list(chosen)
    random.shuffle(names)
    for name in names:
        put(shuffled, name, chosen[name])
    assert outcome(shuffled) == found  # whatever the order of the fields
    # The rules once more, in the words of the docs.
    switches = {n: chosen[n] in (True, "enabled") for n in SWITCHES if n in chosen}
    included = chosen.get("include_reasoning")
    if len(set(switches.values())) > 1:
        assert isinstance(found, str)
        assert sum(name in found for name in switches) >= 2
        return
    if included is not None and included is chosen.get("reasoning.exclude"):
        assert isinstance(found, str) and "reasoning.exclude" in found
        return
    assert not isinstance(found, str)
    thinking, shown = found
    effort = next((chosen[n] for n in EFFORTS if n in chosen), None)
    assert thinking.enabled is (all(switches.values()) if switches else effort != "none")
    assert shown is (included is not False and not chosen.get("reasoning.exclude"))
    budgets = ("thinking_token_budget", "thinking.budget_tokens", "reasoning.max_tokens")
    budget = next((chosen[n] for n in budgets if n in chosen), None)
    if not thinking.enabled:
        assert thinking.budget is None
    elif budget is not None or effort in (None, "none"):
        assert thinking.budget == budget
    else:
        assert thinking.budget == EFFORT_BUDGETS[effort]


EFFORT = st.none() | st.sampled_from(sorted(EFFORT_BUDGETS))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.none() | st.sampled_from(["enabled", "adaptive", "disabled", "between_tools"]),
    st.none() | st.integers(1, 99),
    EFFORT,
)
def test_the_other_apis_follow_the_same_rules(
    kind: str | None, budget: int | None, effort: str | None
) -> None:
    fields: dict[str, Any] = {"model": "m", "messages": HI, "max_tokens": 100}
    if kind is not None:
        fields["thinking"] = {"type": kind, "budget_tokens": budget}
    if effort is not None:
        fields["output_config"] = {"effort": effort}
    thinking = read_messages(parse(MessagesBody, fields), Caller(), "x").chat.thinking
    assert thinking.enabled is (kind in ("enabled", "adaptive"))
    if thinking.enabled and (budget is not None or effort in (None, "none")):
        assert thinking.budget == budget
    elif thinking.enabled:
        assert thinking.budget == EFFORT_BUDGETS[effort or ""]
    flat = {"input": "Hi", **({} if effort is None else {"reasoning": {"effort": effort}})}
    found = read_responses(parse(ResponsesBody, flat), Caller(), "x").chat.thinking
    assert found.enabled is (effort != "none")
    assert found.budget == (EFFORT_BUDGETS[effort] if effort not in (None, "none") else None)
