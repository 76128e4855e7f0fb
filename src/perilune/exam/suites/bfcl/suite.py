"""The suite `bfcl`: one turn judged by its calls, or a conversation judged by what it did."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from perilune.agent.models.chat_model import Message, ModelError
from perilune.events import Usage
from perilune.exam.suites.ask import Called, ask
from perilune.exam.suites.bfcl.ast_check import check_calls
from perilune.exam.suites.bfcl.data import (
    MULTI_TURN,
    SINGLE,
    Entry,
    declaration,
    entries,
    version,
)
from perilune.exam.suites.bfcl.simulated import SimulatedAPIs, judge_turns
from perilune.exam.suites.suite import Examinee, Outcome, Question

MOST_STEPS = 20
"""Completions of one turn of a conversation (the package's MAXIMUM_STEP_LIMIT)."""
MORE_FUNCTIONS = "I have updated some more functions you can choose from. What about now?"
"""What the suite's user says where functions are added (the package's own words)."""

Made = list[tuple[str, Mapping[str, Any]]]


class BfclSuite:
    """Function calling with the data of `bfcl-eval`."""

    name = "bfcl-eval"
    about = "Berkeley function calling: simple, multiple, parallel, multi-turn with simulated APIs"
    needs_sandbox = False
    default_limit = None

    def version(self) -> str:
        return version()

    def categories(self) -> Sequence[str]:
        return (*SINGLE, *MULTI_TURN)

    def default_categories(self) -> Sequence[str]:
        return ("simple", "multiple", "parallel", "parallel_multiple", "multi_turn")

    def size(self, category: str) -> int | None:
        return len(entries(category))

    def question(self, category: str, index: int, seed: int) -> Question:
        entry = entries(category)[index]

        async def put(examinee: Examinee) -> Outcome:
            if category in MULTI_TURN:
                return await _converse(examinee, entry)
            return await _ask_once(examinee, entry, category)

        return Question(entry.id, category, put)

    async def close(self) -> None:
        pass


async def _ask_once(examinee: Examinee, entry: Entry, category: str) -> Outcome:
    messages = [dict(message) for message in entry.turns[0]]
    tools = [declaration(each) for each in entry.functions]
    try:
        reply = await ask(examinee, messages, tools)
    except ModelError as error:  # its window is too small: that is its own failure
        return Outcome(False, 0.0, "", error.message, messages, tools)
    problem = _unreadable(reply.calls)
    if not problem and category == "irrelevance":
        problem = "it called a function that does not help" if reply.calls else ""
    elif not problem:
        made = [(call.name, call.arguments or {}) for call in reply.calls]
        problem = check_calls(entry.functions, made, entry.truth, any_order="parallel" in category)
    answer = json.dumps([{call.name: call.arguments} for call in reply.calls])
    return Outcome(
        passed=not problem,
        score=float(not problem),
        answer=answer if reply.calls else reply.content,
        reason=problem,
        messages=[*messages, reply.message()],
        tools=tools,
        usage=reply.usage,
    )


async def _converse(examinee: Examinee, entry: Entry) -> Outcome:
    """Turn after turn: the model calls until it has nothing more to call."""
    apis = SimulatedAPIs(entry)
    later = {name for names in (entry.held_out or {}).values() for name in names}
    tools = [declaration(each) for each in entry.functions if each["name"] not in later]
    messages: list[Message] = []
    turns: list[Made] = []
    usage = Usage()
    steps = 0
    problem = ""
    for number, said in enumerate(entry.turns):
        added = (entry.held_out or {}).get(number, ())
        if added:
            tools += [declaration(each) for each in entry.functions if each["name"] in added]
            said = [{"role": "user", "content": MORE_FUNCTIONS}]
        messages += [dict(message) for message in said]
        made: Made = []
        for _ in range(MOST_STEPS + 1):
            try:
                reply = await ask(examinee, messages, tools)
            except ModelError as error:
                problem = error.message
                break
            steps += 1
            usage += reply.usage
            messages.append(reply.message())
            if not reply.calls:
                break
            for call in reply.calls:
                if call.arguments is None:
                    result = "Error: the arguments are not a JSON object; nothing was run"
                else:
                    made.append((call.name, call.arguments))
                    result = apis.call(call.name, **call.arguments)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        else:
            problem = f"turn {number + 1} took more than {MOST_STEPS} steps"
        if problem:
            break
        turns.append(made)
    problem = problem or judge_turns(entry, turns)
    answer = json.dumps([[{name: arguments} for name, arguments in made] for made in turns])
    return Outcome(
        passed=not problem,
        score=float(not problem),
        answer=answer,
        reason=problem,
        messages=messages,
        tools=tools,
        steps=steps,
        usage=usage,
    )


def _unreadable(calls: Sequence[Called]) -> str:
    bad = [call.name for call in calls if call.arguments is None]
    return f"the arguments of {bad[0]} are not a JSON object" if bad else ""
