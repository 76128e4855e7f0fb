"""A run as checks see it: pages that were retrieved, outputs of tools, a task and an answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perilune.agent.checks.check import Proposal
from perilune.agent.evidence.store import RunEvidence
from perilune.agent.journal.state import RunState
from perilune.agent.tool import ToolContext
from perilune.events import (
    AssistantMessage,
    Event,
    Record,
    RunStarted,
    ToolCall,
    ToolFinished,
    ToolStarted,
    UserMessage,
)


class Desk:
    """Collects what a run has done; `propose` gives the proposal of an answer."""

    def __init__(self, folder: Path, task: str = "Tell me about it.") -> None:
        self.folder = folder
        self.state = RunState()
        self.evidence = RunEvidence(folder / "evidence", self._add)
        self._calls = 0
        self._add(RunStarted(task=task))
        self._add(UserMessage(content=task))

    def _add(self, event: Event) -> None:
        self.state.apply(Record(event=event, run="r", seq=1))

    def page(self, source: str, text: str, title: str = "") -> str:
        """Retrieve a page, as `fetch` does; gives its id."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = self.evidence.keep(source, text, title=title)
        return kept.id

    def output(self, tool: str, text: str, arguments: dict[str, Any] | None = None) -> None:
        """A tool was called and said this."""
        self._calls += 1
        call = f"c{self._calls}"
        self._add(
            AssistantMessage(
                step=self._calls, tool_calls=[ToolCall(id=call, name=tool, arguments="{}")]
            )
        )
        self._add(ToolStarted(call_id=call, name=tool, arguments=arguments or {}))
        self._add(ToolFinished(call_id=call, name=tool, content=text))

    def propose(self, answer: str, **more: Any) -> Proposal:
        context = ToolContext(workspace=self.folder, evidence=self.evidence)
        return Proposal(
            text=answer,
            state=self.state,
            workspace=self.folder,
            evidence=self.evidence,
            tools=context,
            **more,
        )


def outcomes(checks: Sequence[Any]) -> dict[str, str]:
    return {check.name: check.outcome for check in checks}
