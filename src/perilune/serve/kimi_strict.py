"""`--kimi-strict`: refuse what Moonshot's published vendor rules refuse, and nothing beyond them.

The rules are data: this mode enforces them, docs/api.md shows them, and `perilune verify
--kimi-strict` has checks under the name of each (tests hold the two together).

Sources: Moonshot's Kimi Vendor Verifier: its immutable parameters (values of thinking and of
instant mode are taken in both; temperature 0 too), forced calls with thinking on, thinking effort,
response formats, tools in system messages; Moonshot's API reference for `stop`, `tools` and the
fields of `thinking`; its refusal of a named tool with thinking, as inspect-ai's client knows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from perilune.config import Family
from perilune.serve.api_error import invalid
from perilune.serve.chat_schema import ChatCompletionBody
from perilune.serve.request import Thinking

MAX_STOPS, MAX_STOP_BYTES, MAX_TOOLS = 5, 32, 128
TEMPERATURES = (0.0, 0.6, 1.0)
EFFORTS = ("low", "high", "max")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `allowed`, `when` and `error` are words for people.

    holds: whether a request keeps it, `thinks` being whether it thinks; None: it is a rule of this
    server at all times, checked where the field is read.
    """

    name: str
    param: str
    allowed: str
    when: str
    error: str
    holds: Callable[[ChatCompletionBody, bool], bool] | None = None


def _only(name: str, *values: float) -> Rule:
    *most, last = (f"{value:g}" for value in values)
    words = f"{', '.join(most)} or {last}" if most else last

    def holds(body: ChatCompletionBody, thinks: bool) -> bool:
        given = getattr(body, name)
        return given is None or given in values

    return Rule(
        name,
        name,
        words,
        "always",
        f"invalid {name}: only {words} is allowed for this model",
        holds,
    )


def _named_without_thinking(body: ChatCompletionBody, thinks: bool) -> bool:
    choice = body.tool_choice
    return not (thinks and isinstance(choice, dict) and choice.get("type") == "function")


def _effort(body: ChatCompletionBody, thinks: bool) -> bool:
    return body.thinking is None or body.thinking.effort in (None, *EFFORTS)


def _fields(body: ChatCompletionBody, thinks: bool) -> bool:
    return body.thinking is None or body.thinking.budget_tokens is None


def _stops(body: ChatCompletionBody) -> list[str]:
    return [body.stop] if isinstance(body.stop, str) else body.stop or []


def _few_stops(body: ChatCompletionBody, thinks: bool) -> bool:
    return len(_stops(body)) <= MAX_STOPS


def _short_stops(body: ChatCompletionBody, thinks: bool) -> bool:
    return all(len(stop.encode("utf-8", "replace")) <= MAX_STOP_BYTES for stop in _stops(body))


def _few_tools(body: ChatCompletionBody, thinks: bool) -> bool:
    return len(body.tools or ()) <= MAX_TOOLS


RULES: tuple[Rule, ...] = (
    _only("temperature", *TEMPERATURES),
    _only("top_p", 0.95),
    _only("presence_penalty", 0),
    _only("frequency_penalty", 0),
    _only("n", 1),
    Rule(
        "tool_choice", "tool_choice", "none, auto; required where there are tools",
        "always, thinking or not", "tool_choice: ...",
    ),
    Rule(
        "tool_choice-named", "tool_choice", "a function by name", "without thinking",
        "tool_choice: a function by name is incompatible with thinking enabled",
        _named_without_thinking,
    ),
    Rule(
        "thinking", "thinking", "an object of type (enabled, disabled), keep (all), effort",
        "always", "thinking: only type, keep and effort are allowed", _fields,
    ),
    Rule(
        "thinking-effort", "thinking", "low, high, max", "always",
        "invalid thinking.effort: only low, high or max is allowed", _effort,
    ),
    Rule(
        "response_format", "response_format",
        "text, json_object, json_schema with a name, a schema and a boolean strict", "always",
        "response_format: ...",
    ),
    Rule(
        "system-tools", "messages", "a list of tools", "in system messages only",
        "messages[i].tools: ...",
    ),
    Rule(
        "stop-count", "stop", f"{MAX_STOPS} texts at most", "always",
        f"stop: at most {MAX_STOPS} texts", _few_stops,
    ),
    Rule(
        "stop-bytes", "stop", f"texts of {MAX_STOP_BYTES} bytes at most", "always",
        f"stop: a text may have {MAX_STOP_BYTES} bytes", _short_stops,
    ),
    Rule(
        "tools", "tools", f"{MAX_TOOLS} at most", "always", f"tools: at most {MAX_TOOLS}",
        _few_tools,
    ),
)  # fmt: skip


def check_kimi_strict(body: ChatCompletionBody, thinking: Thinking, family: Family) -> None:
    """Raises ApiError (400) for the first rule that a request breaks."""
    thinks = thinking.enabled and family is not Family.K2
    for rule in RULES:
        if rule.holds is not None and not rule.holds(body, thinks):
            raise invalid(rule.error, rule.param)
