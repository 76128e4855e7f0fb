"""All the ways in which clients switch thinking, resolved into one, by rules that are written down.

Sources: Moonshot's `thinking` (whose effort outranks `reasoning_effort`), vLLM's and SGLang's
`chat_template_kwargs`, OpenAI's `reasoning_effort` and `reasoning`, OpenRouter's `reasoning`,
Anthropic's `thinking` and `output_config`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from perilune.serve.api_error import invalid
from perilune.serve.request import Thinking

if TYPE_CHECKING:
    from perilune.serve.chat_schema import ChatCompletionBody

# Tokens of thinking that an effort stands for; None: as much as the model likes.
EFFORT_BUDGETS: Mapping[str, int | None] = {
    "none": 0, "minimal": 512, "low": 2048, "medium": 8192, "high": None, "xhigh": None,
    "max": None,
}  # fmt: skip
# What the docs say, in the order of rank.
SWITCHES = (
    "chat_template_kwargs.thinking", "chat_template_kwargs.enable_thinking", "enable_thinking",
    "thinking.type", "reasoning.enabled",
)  # fmt: skip
EFFORTS = (
    "chat_template_kwargs.thinking_effort", "chat_template_kwargs.reasoning_effort",
    "thinking.effort", "reasoning_effort", "reasoning.effort",
)  # fmt: skip
BUDGETS = ("thinking_token_budget", "thinking.budget_tokens", "reasoning.max_tokens")
HIDERS = ("include_reasoning", "reasoning.exclude")

Value = TypeVar("Value")


def resolve(
    switches: Mapping[str, bool | None],
    efforts: Mapping[str, str | None],
    budgets: Mapping[str, int | None],
    *,
    preserve: bool = False,
    default: bool = True,
) -> Thinking:
    """What these spellings (a name, and its value or None) ask for together.

    1. On or off: all switches that are given must agree. Raises ApiError (400) that names two.
       Without one, an effort of "none" is off; else it is `default`.
    2. Effort: of those that are given the one of the highest rank counts, in the order given.
    3. Length: a budget in tokens, the one of the highest rank; without one, that of the effort.
       Where thinking is off there is none, and an effort beside a switch that is off says nothing.
    """
    given = {name: on for name, on in switches.items() if on is not None}
    if len(set(given.values())) > 1:
        first, on = next(iter(given.items()))
        second = next(name for name, other in given.items() if other is not on)
        # The field of the request, which is what a client can look for.
        raise invalid(
            f"{first} is {_word(on)} and {second} is {_word(not on)}: they contradict",
            _param(first, second),
        )
    effort = _first(efforts.values())
    enabled = _first(given.values())
    if enabled is None:
        enabled = False if effort == "none" else default
    budget = _first(budgets.values()) if enabled else None
    if enabled and budget is None and effort not in (None, "none"):
        budget = EFFORT_BUDGETS[effort or "high"]
    return Thinking(enabled, preserve, budget)


def read_thinking(body: ChatCompletionBody) -> Thinking:
    """Of a chat completion. Raises ApiError where two switches contradict."""
    kimi, template, reasoning = body.thinking, body.chat_template_kwargs, body.reasoning
    # `thinking: {"effort": "low"}` says nothing of on or off, though its type has a default.
    typed = kimi is not None and ("type" in kimi.model_fields_set or not kimi.model_fields_set)
    switches = {
        "chat_template_kwargs.thinking": getattr(template, "thinking", None),
        "chat_template_kwargs.enable_thinking": getattr(template, "enable_thinking", None),
        "enable_thinking": body.enable_thinking,
        "thinking.type": kimi.type == "enabled" if kimi is not None and typed else None,
        "reasoning.enabled": getattr(reasoning, "enabled", None),
    }
    efforts = {
        "chat_template_kwargs.thinking_effort": getattr(template, "thinking_effort", None),
        "chat_template_kwargs.reasoning_effort": getattr(template, "reasoning_effort", None),
        "thinking.effort": getattr(kimi, "effort", None),
        "reasoning_effort": body.reasoning_effort,
        "reasoning.effort": getattr(reasoning, "effort", None),
    }
    budgets = {
        "thinking_token_budget": body.thinking_token_budget,
        "thinking.budget_tokens": getattr(kimi, "budget_tokens", None),
        "reasoning.max_tokens": getattr(reasoning, "max_tokens", None),
    }
    keep = kimi is not None and kimi.keep == "all"
    preserve = keep or bool(getattr(template, "preserve_thinking", None))
    return resolve(switches, efforts, budgets, preserve=preserve)


def shows_thinking(body: ChatCompletionBody) -> bool:
    """Whether thinking is sent. Raises ApiError where its two switches contradict."""
    excluded = None if body.reasoning is None else body.reasoning.exclude
    if body.include_reasoning is not None and body.include_reasoning is excluded:
        raise invalid(
            f"include_reasoning is {_word(body.include_reasoning)} and reasoning.exclude too: "
            "they contradict",
            "include_reasoning",
        )
    return body.include_reasoning is not False and not excluded


def _first(values: Iterable[Value | None]) -> Value | None:
    return next((value for value in values if value is not None), None)


def _word(on: bool) -> str:
    return "on" if on else "off"


def _param(*names: str) -> str:
    """The field that a client is told of: Moonshot's own where it is one of the two."""
    fields = [name.partition(".")[0] for name in names]
    return "thinking" if "thinking" in fields else fields[0]
