"""`--kimi-strict`: refuse what the official Kimi API refuses, so that its vendor tests agree.

Source: Kimi vendor verifier, immutable parameters; Moonshot's notes on tool_choice and thinking.
"""

from __future__ import annotations

from perilune.config import Family
from perilune.serve.api_error import invalid
from perilune.serve.chat_schema import ChatCompletionBody
from perilune.serve.request import Thinking

MAX_STOPS = 5
MAX_STOP_BYTES = 32


def check_kimi_strict(body: ChatCompletionBody, thinking: Thinking, family: Family) -> None:
    """Raises ApiError (400)."""
    thinks = thinking.enabled and family is not Family.K2
    pinned = {
        "temperature": 1.0 if thinks else 0.6,
        "top_p": 0.95,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "n": 1,
    }
    for name, only in pinned.items():
        given = getattr(body, name)
        if given is not None and given != only:
            raise invalid(f"{name}: only {only:g} is allowed for this model", name)
    if thinks and (body.tool_choice == "required" or isinstance(body.tool_choice, dict)):
        raise invalid("tool_choice: with thinking it must be auto or none", "tool_choice")
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if len(stops) > MAX_STOPS:
        raise invalid(f"stop: at most {MAX_STOPS} texts", "stop")
    if any(len(stop.encode("utf-8", "replace")) > MAX_STOP_BYTES for stop in stops):
        raise invalid(f"stop: a text may have {MAX_STOP_BYTES} bytes", "stop")
