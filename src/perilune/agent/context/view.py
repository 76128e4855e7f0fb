"""Renders a run's history, through its `View`, into the messages that the model is shown.

What always survives verbatim: the system prompt and every message of a person. Reasoning is sent
back within the current chain of tool calls only, as the K2 templates keep it (facts of the family's
chat format: reasoning before the last plain answer is dropped).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from perilune.agent.journal.state import Executed, RunState, View
from perilune.agent.models.chat_model import Message
from perilune.agent.models.tokens import estimate_text
from perilune.agent.pictures.part import Picture, pictures_of, text_of, with_words
from perilune.events import Content

PERSONS = frozenset({"task", "steer", "queue"})
HIDDEN = (
    "[This output was hidden to save room. The call was made; `recall` shows its output again.]"
)
ARGUMENT_LENGTH = 100


class Renderer:
    """Renders views of one run; the stand-ins that it makes are kept, so that they count once."""

    def __init__(self, state: RunState, sees: Callable[[], bool] = lambda: True) -> None:
        """`sees`: whether the model takes pictures."""
        self._state = state
        self._sees = sees
        self._stand_ins: dict[tuple[str, int], Message] = {}

    def render(self, view: View) -> list[Message]:
        state = self._state
        shown: list[Message] = []
        if state.system_prompt:
            shown.append(
                self._made("system", 0, {"role": "system", "content": state.system_prompt})
            )
        for i in range(view.dropped_before):
            if state.origins[i] in PERSONS:
                shown.append(self._seen(i, view))
        if view.carry:
            shown.append(self._made(view.carry, 0, {"role": "user", "content": view.carry}))
        chain_start = _chain_start(state.messages)
        for i in range(view.dropped_before, len(state.messages)):
            message = self._seen(i, view)
            if message["role"] == "tool" and i < view.hidden_before:
                message = self._made("hidden", i, {**message, "content": hidden_text(message)})
            elif i < chain_start and "reasoning_content" in message:
                plain = {k: v for k, v in message.items() if k != "reasoning_content"}
                message = self._made("plain", i, plain)
            shown.append(message)
        return shown

    def _seen(self, index: int, view: View) -> Message:
        """The message, with texts for the pictures that are not shown."""
        message = self._state.messages[index]
        if not pictures_of(message.get("content")):
            return message
        if not self._sees():
            return self._without(message, "unseen", index, lambda each: each.unseen)
        if index < self._watermark(index, view):
            return self._without(message, "dropped", index, lambda each: each.dropped)
        return message

    def _watermark(self, index: int, view: View) -> int:
        given = self._state.origins[index] in PERSONS
        return view.given_before if given else view.pictures_before

    def _without(
        self, message: Message, kind: str, index: int, words: Callable[[Picture], str]
    ) -> Message:
        made: Message = {**message, "content": with_words(message["content"], words)}
        return self._made(kind, index, made)

    def _made(self, kind: str, index: int, message: Message) -> Message:
        return self._stand_ins.setdefault((kind, index), message)


def rounds(messages: Sequence[Message]) -> list[int]:
    """Where each turn of the model begins; a history may be cut there and nowhere else."""
    return [i for i, message in enumerate(messages) if message["role"] == "assistant"]


def carry_text(state: RunState, upto: int, summary: str, budget: int) -> str:
    """What stands for dropped messages: summary, plan, notes, evidence, executed-calls ledger.

    `budget` in (estimated) tokens bounds the ledger; calls with side effects go in first, then the
    newest. Plan, notes and summary are whole.
    """
    parts = [
        "[Earlier steps were left out to save room. The messages of the user above are complete. "
        "What was done is listed here; do not do it again. `recall` searches everything that was "
        "left out.]"
    ]
    if summary:
        parts.append(f"## Summary of the earlier steps\n{summary}")
    if state.plan:
        lines = [
            f"- [{item.status}] {item.text}{f' ({item.note})' if item.note else ''}"
            for item in state.plan
        ]
        parts.append("## Plan\n" + "\n".join(lines))
    if state.notes:
        parts.append("## Notes\n" + "\n".join(f"- {note}" for note in state.notes))
    if state.evidence:
        sources = [f"- [{e.id}] {e.title or e.source}" for e in state.evidence.values()][-50:]
        parts.append("## Sources that were kept (cite them by id)\n" + "\n".join(sources))
    answered = sum(message["role"] == "tool" for message in state.messages[:upto])
    ledger = ledger_text(state.ledger[:answered], budget - estimate_text("\n\n".join(parts)))
    if ledger:
        parts.append(f"## Calls that were made\n{ledger}")
    return "\n\n".join(parts)


def ledger_text(calls: Sequence[Executed], budget: int) -> str:
    """The executed calls, one a line in order, as many as fit; the others are counted by tool."""
    lines = [_ledger_line(call) for call in calls]
    wanted = sorted(range(len(calls)), key=lambda i: (not calls[i].side_effects, -i))
    chosen: set[int] = set()
    for i in wanted:
        budget -= estimate_text(lines[i]) + 1
        if budget < 0:
            break
        chosen.add(i)
    left_out: dict[str, int] = {}
    for i, call in enumerate(calls):
        if i not in chosen:
            left_out[call.name] = left_out.get(call.name, 0) + 1
    text = [lines[i] for i in sorted(chosen)]
    if left_out:
        counts = ", ".join(f"{name} x{count}" for name, count in left_out.items())
        text.insert(0, f"- (not listed: {counts})")
    return "\n".join(text)


def hidden_text(message: Message) -> str:
    """What stands for a hidden output; its pictures are named."""
    return "\n".join([HIDDEN, *(each.dropped for each in pictures_of(message.get("content")))])


def content_text(content: Content) -> str:
    """The text of a message; pictures become a line."""
    return text_of(content)


def _ledger_line(call: Executed) -> str:
    arguments = ", ".join(f"{name}={_short(value)}" for name, value in call.arguments.items())
    return f"- step {call.step}: {call.name}({arguments}) -> {call.outcome}"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= ARGUMENT_LENGTH else text[:ARGUMENT_LENGTH] + "..."


def _chain_start(messages: Sequence[Message]) -> int:
    """Index after the last assistant message without tool calls."""
    for i in range(len(messages) - 1, -1, -1):
        if messages[i]["role"] == "assistant" and not messages[i].get("tool_calls"):
            return i + 1
    return 0
