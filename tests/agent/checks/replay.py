"""Recorded runs as checks see them, without the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from perilune.agent.checks.check import Proposal
from perilune.agent.checks.citations import Citations
from perilune.agent.checks.facts import Facts
from perilune.agent.checks.numbers import Numbers
from perilune.agent.journal.state import RunState
from perilune.agent.tool import ToolContext
from perilune.events import (
    AssistantMessage,
    Event,
    EvidenceKept,
    Record,
    RunStarted,
    ToolCall,
    ToolFinished,
    ToolStarted,
    UserMessage,
)

DATA = Path(__file__).parent / "data"
RunLine = dict[str, Any]
"""`question`, `calls` (name, arguments, result), `sources` (id, source, title, text), `answer`."""


class Kept:
    """The texts of a run's sources."""

    def __init__(self, sources: list[dict[str, str]]) -> None:
        self._texts = {each["id"]: each["text"] for each in sources}

    def text(self, evidence_id: str) -> str:
        return self._texts[evidence_id]


def read_runs(name: str = "right_runs.jsonl") -> list[RunLine]:
    return [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]


def proposal_of(run: RunLine) -> Proposal:
    state = RunState()

    def add(event: Event) -> None:
        state.apply(Record(event=event, run="r", seq=1))

    add(RunStarted(task=run["question"]))
    add(UserMessage(content=run["question"]))
    for each in run.get("sources", ()):
        add(EvidenceKept(id=each["id"], source=each["source"], title=each["title"]))
    for number, call in enumerate(run.get("calls", ())):
        id_, name, arguments = f"c{number}", call["name"], call["arguments"]
        asked = ToolCall(id=id_, name=name, arguments=json.dumps(arguments))
        add(AssistantMessage(step=number, tool_calls=[asked]))
        add(ToolStarted(call_id=id_, name=name, arguments=arguments))
        add(ToolFinished(call_id=id_, name=name, content=call["result"]))
    folder = Path("/nowhere")
    return Proposal(
        text=run["answer"],
        state=state,
        workspace=folder,
        evidence=Kept(run.get("sources", [])),  # type: ignore[arg-type]
        tools=ToolContext(workspace=folder),
    )


async def problems_of(run: RunLine, *, strict: bool = False) -> list[str]:
    """What the checks of answers refuse in a run: as without a recipe, or as `search` does."""
    proposal = proposal_of(run)
    found = []
    for check in (Citations(strict=strict), Numbers(strict=strict), Facts()):
        made = await check.examine(proposal)
        found += [f"{made.name}: {each}" for each in made.problems] if made else []
    return found


async def advice_problems(run: RunLine) -> dict[str, list[str]]:
    """What the checks of a task without a strict recipe refuse, by check; code is parsed only."""
    from perilune.agent.checks.code import Code

    proposal = proposal_of(run)
    found = {}
    for check in (Citations(), Numbers(), Facts(), Code(run=False)):
        made = await check.examine(proposal)
        found[check.name] = made.problems if made else []
    return found
