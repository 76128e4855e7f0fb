"""What a check of an answer is, and the proposed answer that it looks at.

A check is a small class; add your own. The simplest kind is a `Verifier`: it looks at the answer
and the run's state and says the problems that it sees, in words that the model can act on. A
`Check` sees the whole `Proposal` (sources, workspace, sandbox), answers None where it has nothing
to say of such an answer, and tells what its outcome rests on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from perilune.events import CheckMade, Content

if TYPE_CHECKING:
    from perilune.agent.journal.state import RunState
    from perilune.agent.tool import EvidenceStore, ToolContext
    from perilune.agent.workspace.working_copy import WorkingCopy

ECHOES = frozenset(
    {"plan", "note", "argue", "write_file", "edit_file", "chart", "publish", "recall", "rename"}
)
"""Tools whose output repeats what the model wrote; it proves nothing."""


@dataclass(slots=True)
class Proposal:
    """A proposed answer, and all that a check may look at.

    `workspace` is where the run works (its copy, where it works on one); `tools` lets a check run
    code and tests as a tool would. `others` are finished runs whose findings count as this run's
    (the trajectories that it merges). `ask` puts a question to the model outside of the
    conversation. `last`: no revision can follow.
    """

    text: str
    state: RunState
    workspace: Path
    evidence: EvidenceStore
    tools: ToolContext
    attempt: int = 1
    last: bool = False
    copy: WorkingCopy | None = None
    others: Sequence[RunState] = ()
    ask: Callable[[str], Awaitable[str]] | None = None
    confirm: Callable[[str], Awaitable[bool]] | None = None
    """Asks the person whether the run may do something; None where nobody can be asked."""
    failed: bool = False
    """Whether a check before this one objected."""

    def with_text(self, text: str) -> Proposal:
        """The same, for another text that the run wrote."""
        return dataclasses.replace(self, text=text)

    def said(self) -> Iterator[str]:
        """What persons said to the run."""
        for state in (self.state, *self.others):
            for message, origin in zip(state.messages, state.origins, strict=True):
                if origin in ("task", "steer", "queue"):
                    yield plain_text(message.get("content") or "")

    def tool_outputs(self) -> Iterator[str]:
        """What tools gave that do more than repeat the model's own words."""
        for state in (self.state, *self.others):
            for message, origin in zip(state.messages, state.origins, strict=True):
                if origin == "tool" and message.get("name") not in ECHOES:
                    yield plain_text(message.get("content") or "")


class Verifier(Protocol):
    """Looks at an answer and the run behind it."""

    async def check(self, answer: str, state: RunState) -> list[str]: ...


@runtime_checkable
class Check(Protocol):
    """Looks at all of a proposal. None: there is nothing of its kind in the answer."""

    @property
    def name(self) -> str: ...

    async def examine(self, proposal: Proposal) -> CheckMade | None: ...


def made(
    name: str,
    problems: Sequence[str],
    *,
    notes: Sequence[str] = (),
    evidence: Sequence[str] = (),
) -> CheckMade:
    """How a check ended: failed with problems, noted with notes alone, else passed."""
    outcome = "failed" if problems else "noted" if notes else "passed"
    return CheckMade(
        name=name,
        outcome=outcome,  # type: ignore[arg-type]  # the three words above
        problems=list(problems),
        notes=list(notes),
        evidence=list(evidence),
    )


def plain_text(content: Content) -> str:
    """The text of a message's content."""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content)
