"""Why a completion is over: the words of servers in ours, and what a missing word means."""

from __future__ import annotations

from perilune.agent.models.chat_model import ModelError
from perilune.agent.models.tool_call_index import OpenCall
from perilune.chat.deltas import FinishReason

_LENGTH = frozenset({"length", "max_tokens", "max_output_tokens", "model_length", "max_length"})
_FILTER = frozenset(
    {"content_filter", "content-filter", "safety", "recitation", "blocklist", "prohibited_content",
     "spii", "sensitive", "refusal"}
)  # fmt: skip
_FAILED = frozenset(
    {"error", "abort", "aborted", "cancelled", "canceled", "insufficient_system_resource",
     "network_error", "unavailable", "timeout"}
)  # fmt: skip
_FULL = frozenset({"model_context_window_exceeded", "context_length_exceeded", "context_window"})
NEAR_WINDOW = 0.95


def read_ending(
    reason: str, *, done: bool, text: str, calls: list[OpenCall], known: set[str]
) -> FinishReason:
    """The reason in our words.

    `reason` is the server's ("" where it gave none), `done`: it said `[DONE]`. `text` is the
    answer, `known` the names of the declared tools. Raises `ModelError`: "cut" where the end is
    missing, "garbled" where the end is there and what it ends is not, "overloaded" where the
    server itself says that it failed.
    """
    low = reason.lower()
    if low in _FAILED:
        raise ModelError(
            f"the endpoint ended the completion with {reason[:80]!r}",
            kind="overloaded",
            retryable=True,
        )
    if low in _FULL:
        if not text.strip() and not calls:
            raise ModelError("the endpoint says that the window is full", kind="context")
        return FinishReason.LENGTH
    if low in _LENGTH:
        return FinishReason.LENGTH
    if low in _FILTER:
        if not text.strip() and not calls:
            raise ModelError("the endpoint's content filter withheld the answer", explained=True)
        return FinishReason.CONTENT_FILTER
    if not reason:
        return _without_reason(done=done, text=text, calls=calls, known=known)
    if any(not call.name.strip() for call in calls):
        raise ModelError("a tool call came without a name", kind="garbled", retryable=True)
    if calls:
        return FinishReason.TOOL_CALLS
    if low in ("tool_calls", "tool_use", "function_call") and not text.strip():
        raise ModelError(
            "the endpoint announced tool calls and sent none", kind="garbled", retryable=True
        )
    return FinishReason.STOP


def _without_reason(
    *, done: bool, text: str, calls: list[OpenCall], known: set[str]
) -> FinishReason:
    """A call is whole when its arguments are, and a text when the server says that it is done."""
    if calls and all(c.is_whole and (not known or c.name.strip() in known) for c in calls):
        # Blank arguments alone are no sign of an end.
        if done or all(call.arguments.strip() for call in calls):
            return FinishReason.TOOL_CALLS
    elif done and text.strip() and not calls:
        return FinishReason.STOP
    if not text and not calls:
        what = "it holds nothing"
    elif calls:
        what = f"inside the call of {calls[-1].name or 'a tool'}"
    else:
        what = f"after {len(text)} characters of the answer"
    raise ModelError(f"the stream ended in the middle: {what}", kind="cut", retryable=True)
