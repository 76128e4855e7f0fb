"""What an oracle says in one turn, and how it is driven: a generator that is told what came back.

def policy() -> Policy:
    (hits,) = yield Turn("I search.", (Call("search", {"query": "Tavor length"}),))
    yield Turn("The hit says it.", answer="40 km")
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from perilune.agent.models.chat_model import Message
from perilune.agent.models.scripted import Call, Reply


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn: thinking, then calls or an answer. `mistake` names what is wrong on purpose."""

    thinking: str
    calls: tuple[Call, ...] = ()
    answer: str = ""
    mistake: str = ""


Policy = Generator[Turn, list[str], None]
"""Yields turns; each is answered with the results of its calls, in their order."""


class LostError(Exception):
    """The oracle did not see what its solution says it would; the episode is worth nothing."""


class PolicyTape:
    """A policy as a tape for `ScriptedModel`. `turns` are those that were played."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.turns: list[Turn] = []
        self.lost = ""

    def __call__(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> Reply:
        """The next turn, after the results that stand at the end of the conversation."""
        try:
            if self.turns:
                turn = self._policy.send(results_of(messages))
            else:
                turn = next(self._policy)
        except LostError as error:
            self.lost = str(error)
            turn = Turn("I cannot find it.", answer="I am lost.")
        except StopIteration:
            # The loop asks again only where it objects to the answer.
            self.lost = "the answer was not accepted"
            turn = self.turns[-1]
        self.turns.append(turn)
        return Reply(content=turn.answer, calls=turn.calls, reasoning=turn.thinking)


def results_of(messages: Sequence[Message]) -> list[str]:
    """The results of the last turn's calls, in the order of the calls."""
    last = max(at for at, message in enumerate(messages) if message["role"] == "assistant")
    return [str(message["content"]) for message in in_call_order(messages)[last + 1 :]]


def in_call_order(messages: Sequence[Message]) -> list[Message]:
    """Messages with each turn's results in the order of its calls.

    The loop appends results as they come, which depends on the machine.
    """
    ordered: list[Message] = []
    places: dict[str, int] = {}
    for message in messages:
        if message["role"] != "tool":
            calls = message.get("tool_calls", ())
            places = {call["id"]: len(ordered) + 1 + at for at, call in enumerate(calls)}
            ordered += [message, *({} for _ in calls)]
        else:
            ordered[places[message["tool_call_id"]]] = message
    return ordered
