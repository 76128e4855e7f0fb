"""A model that plays a task's own solution, split among sub-agents or serially.

It shows what the orchestration itself costs and whether it loses anything: what it answers with, it
must have been shown. A sub-agent says what its searches told, and "not found" for what they did
not; the orchestrator leaves out rows that no report gave. Its episodes are also what a student can
be taught from.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from perilune.agent.models.chat_model import Message
from perilune.agent.models.scripted import Call, Reply, ScriptedModel
from perilune.agent.tool import FunctionTool, tool
from perilune.swarm.state import ASSIGN, CREATE
from perilune.world import Style, Task
from perilune.world.solution import Answer, Calculate, Delegate, Read, Search, Step, SubAgent

AGENT = "finder"
SYSTEM_PROMPT = "Search the articles, and report facts as `Name.attribute = value`."
HITS = 3


def oracle_model(task: Task, *, delay: float = 0.0) -> ScriptedModel:
    """A `ChatModel` for orchestrator and sub-agents alike. `delay`: seconds of a completion.

    With the swarm's tools it splits where the task's solution does; without, it works serially.
    """
    stages = task.solution.parallel or ()
    split = [step for stage in stages for step in stage.main]
    workers = {each.prompt: each for stage in stages for each in stage.sub_agents}

    def tape(messages: Sequence[Message], declared: Sequence[dict[str, Any]]) -> Reply:
        turn = sum(each["role"] == "assistant" for each in messages)
        prompt = str(next(each["content"] for each in messages if each["role"] == "user"))
        may_split = any(each["function"]["name"] == ASSIGN for each in declared)
        if prompt in workers:
            reply = _play(workers[prompt].steps, turn, messages, {})
        elif may_split and task.solution.splitting_pays:
            reply = _play(split, turn, messages, workers)
        else:
            reply = _play(task.solution.serial, turn, messages, {})
        return Reply(reply.content, reply.calls, delay=delay)

    return ScriptedModel(tape, name="oracle")


def world_search(task: Task) -> FunctionTool:
    """`search` over a task's articles: those with the most words of the query, titles first."""
    articles = [(title, text) for _, title, text in task.articles(Style.LINES)]

    @tool(side_effects=False, parallel_safe=True)
    async def search(query: str) -> str:
        """Search the articles."""
        wanted = set(re.findall(r"\w+", query.casefold()))

        def score(article: tuple[str, str]) -> tuple[int, int]:
            title, text = (set(re.findall(r"\w+", each.casefold())) for each in article)
            return len(wanted & title), len(wanted & text)

        best = sorted(articles, key=score, reverse=True)[:HITS]
        return "\n\n".join(text for _, text in best)

    return search


def _play(
    steps: Sequence[Step], turn: int, messages: Sequence[Message], workers: dict[str, SubAgent]
) -> Reply:
    """The turn that comes next; the answer holds only what the messages told."""
    step = steps[min(turn, len(steps) - 1)]
    match step:
        case Search(query=query):
            return Reply(calls=[Call("search", {"query": query})])
        case Calculate(expression=expression):
            return Reply(calls=[Call("python", {"code": f"print({expression})"})])
        case Delegate(prompts=prompts):
            make = Call(CREATE, {"name": AGENT, "system_prompt": SYSTEM_PROMPT})
            give = [Call(ASSIGN, {"agent": AGENT, "prompt": each}) for each in prompts]
            return Reply(calls=[make, *give])
        case Answer(text=text):
            told = "\n".join(str(each["content"]) for each in messages if each["role"] == "tool")
            if workers:
                return Reply(_without_rows(text, _unreported(workers, told)))
            return Reply(_with_what_was_read(text, steps, told))
    raise ValueError(f"the oracle has no tool for {step}")


def _with_what_was_read(text: str, steps: Sequence[Step], told: str) -> str:
    reads = [read for step in steps if isinstance(step, Search) for read in step.reads]
    missed = {read.fact.partition(".")[0] for read in reads if not _tells(told, read)}
    if ";" not in text and "|" not in text:
        return "not found" if missed else text
    return _without_rows(text.replace("; ", "\n"), missed) or "not found"


def _tells(told: str, read: Read) -> bool:
    return f"{read.fact} = {read.value}" in told


def _unreported(workers: dict[str, SubAgent], told: str) -> set[str]:
    """The names that no report tells the facts of."""
    reads = [
        read
        for each in workers.values()
        for step in each.steps
        if isinstance(step, Search)
        for read in step.reads
    ]
    return {read.fact.partition(".")[0] for read in reads if not _tells(told, read)}


def _without_rows(text: str, names: set[str]) -> str:
    kept = [
        line
        for line in text.splitlines()
        if not any(re.search(rf"\b{re.escape(name)}\b", line) for name in names)
    ]
    return "\n".join(kept)
