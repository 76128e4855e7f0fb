"""How a task ended, for who set it."""

from __future__ import annotations

from dataclasses import dataclass, field

from perilune.agent.endings import DONE
from perilune.events import ArgumentNode, ChangesMade, Usage, Verified


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a task ended. `reason` is "done", or names what ended it (see `endings.py`).

    `verdict` is that of the answer's checks, `changes` what a run on a copy did to the workspace,
    `argument` the nodes of the argument that the run kept.
    """

    run: str
    answer: str
    reason: str
    detail: str = ""
    steps: int = 0
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    recipe: str = ""
    verdict: Verified | None = None
    changes: ChangesMade | None = None
    argument: list[ArgumentNode] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.reason == DONE

    def __str__(self) -> str:
        return self.answer
