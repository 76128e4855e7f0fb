"""A played episode: the messages that the agent's loop would write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perilune.agent.evidence.store import source_digest
from perilune.agent.models.scripted import Call
from perilune.agent.tools.lookup import EVIDENCE_DIGITS, shown
from perilune.errors import UsageError
from perilune.nano.training.calculator import shown_value
from perilune.nano.training.policy import Policy, UnsolvableError
from perilune.nano.training.tables import row
from perilune.search.facts import FactStore
from perilune.swarm.state import ASSIGN, CREATE

Message = dict[str, Any]
Faults = Mapping[int, str]
"""Results that a call gets instead of its own, by the call's number in the episode."""
MOST_TURNS = 50


@dataclass(frozen=True)
class Episode:
    """`messages` from the question to the answer, behind the header of all episodes.

    `kind` names the family or the kind of question.
    """

    messages: list[Message]
    kind: str = ""

    @property
    def answer(self) -> str:
        return str(self.messages[-1]["content"])


def play(question: str, policy: Policy, store: FactStore, faults: Faults | None = None) -> Episode:
    """Let a policy answer a question with the results that the tools would give.

    Raises UnsolvableError where the policy finds no way.
    """
    faults = faults or {}
    messages: list[Message] = [{"role": "user", "content": question}]
    calls = 0
    roles: dict[str, str] = {}
    results: list[str] | None = None
    for _ in range(MOST_TURNS):
        try:
            reply = next(policy) if results is None else policy.send(results)
        except (StopIteration, IndexError, UsageError) as error:
            raise UnsolvableError(str(error)) from None
        message: Message = {"role": "assistant", "content": reply.content}
        message["reasoning_content"] = reply.reasoning
        messages.append(message)
        if not reply.calls:
            return Episode(messages)
        results = []
        message["tool_calls"] = []
        for call in reply.calls:
            id_ = f"functions.{call.name}:{calls}"
            arguments = json.dumps(call.arguments, ensure_ascii=False)
            function = {"name": call.name, "arguments": arguments}
            message["tool_calls"].append({"id": id_, "type": "function", "function": function})
            try:
                results.append(faults[calls] if calls in faults else run(call, store, roles))
            except UsageError as error:
                raise UnsolvableError(str(error)) from None
            calls += 1
        for each, result in zip(message["tool_calls"], results, strict=True):
            name = each["function"]["name"]
            tool = {"role": "tool", "tool_call_id": each["id"], "name": name, "content": result}
            messages.append(tool)
    raise UnsolvableError("too many turns")


def run(call: Call, store: FactStore, roles: dict[str, str]) -> str:
    """What the model reads of a call: `lookup` by its own code, `python` by the calculator, a
    sub-agent's report by its playing the policy of rows. `roles`: the sub-agents made so far."""
    assert isinstance(call.arguments, dict)
    if call.name == CREATE:
        roles[str(call.arguments["name"])] = str(call.arguments["system_prompt"])
        return f"created {call.arguments['name']}"
    if call.name == ASSIGN:
        prompt = f"{roles[str(call.arguments['agent'])]}\n{call.arguments['prompt']}"
        return play(prompt, row(prompt), store).answer
    if call.name == "python":
        return shown_value(str(call.arguments["code"]))
    found = store.find(str(call.arguments["query"]))
    digests = [source_digest(fact.address, fact.whole) for fact in found.facts]
    return shown(found, [f"ev:{digest[:EVIDENCE_DIGITS]}" for digest in digests])
