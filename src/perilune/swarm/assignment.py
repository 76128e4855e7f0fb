"""One assignment: a prompt for a sub-agent, and what came of it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import msgspec

from perilune.agent.endings import DONE, UNVERIFIED
from perilune.events import AssignmentStatus, Usage

FAILED: frozenset[AssignmentStatus] = frozenset(
    ("nonsense", "looped", "budget", "hung", "died", "stopped")
)
CONTINUED: frozenset[AssignmentStatus] = frozenset(("hung", "died", "stopped"))
"""How an assignment ended that the same assignment, given again, goes on with."""


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """What a sub-agent is to do. `folder` is the name of its own folder within the swarm's.

    `system_prompt` is the orchestrator's part of it. `earlier_*` is what the folder's run had taken
    before this assignment took it up again.
    """

    call_id: str
    agent: str
    system_prompt: str
    prompt: str
    folder: str
    earlier_steps: int = 0
    earlier_tool_calls: int = 0
    earlier_usage: Usage = Usage()

    def in_one_message(self) -> Assignment:
        """The same work, with the orchestrator's part of the system prompt before the prompt."""
        whole = f"{self.system_prompt}\n{self.prompt}".strip()
        return msgspec.structs.replace(self, system_prompt="", prompt=whole)


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an assignment ended. `report` is the answer, or what there is of one.

    `evidence` are the ids of the sources that were read, `files` the paths that were made or
    changed in the sub-agent's workspace; both are in the sub-agent's folder.
    """

    status: AssignmentStatus
    report: str
    detail: str = ""
    steps: int = 0
    tool_calls: int = 0
    usage: Usage = Usage()
    began: float = 0.0
    ended: float = 0.0
    evidence: list[str] = []
    files: list[str] = []

    @property
    def ok(self) -> bool:
        return self.status not in FAILED


def folder_name(agent: str, call_id: str) -> str:
    """A short, safe name, the same at every resume: `poems-3` for call `functions.assign_task:3`
    to agent "Poems". Ids that are not of K2's form are hashed."""
    slug = re.sub(r"[^a-z0-9]+", "-", agent.lower()).strip("-")[:40] or "agent"
    match = re.fullmatch(r"functions\.\w+:(\d+)", call_id)
    return f"{slug}-{match[1] if match else hashlib.blake2s(call_id.encode()).hexdigest()[:8]}"


def status_of(reason: str, answer: str) -> tuple[AssignmentStatus, str]:
    """`(status, why)` of a run that ended with `reason` by itself."""
    if reason == DONE:
        why = nonsense(answer)
        return ("nonsense", why) if why else ("done", "")
    if reason == UNVERIFIED:
        why = nonsense(answer)
        return ("nonsense", why) if why else ("unverified", "")
    if reason == "repeat":
        return "looped", ""
    if reason.startswith("budget:"):
        return "budget", ""
    if reason == "interrupted":
        return "stopped", ""
    return "died", ""


_LEAKED = re.compile(r"<\|(?:tool_call|im_|media_)\w*\|?>?")


def nonsense(answer: str) -> str:
    """Why a text is no answer at all; empty when it may be one."""
    text = answer.strip()
    if not text:
        return "the answer is empty"
    if _LEAKED.search(text):
        return "the answer holds tokens of the tool-call format"
    odd = sum(not (each.isprintable() or each in "\n\t\r") or each == "\ufffd" for each in text)
    if odd > 0.3 * len(text):
        return "the answer is full of unprintable characters"
    if len(text) >= 1000 and _novelty(text) < 0.06:
        return "the answer repeats itself over and over"
    return ""


def _novelty(text: str) -> float:
    """Share of the 12-character pieces of a text that occur in it once; tables stay above 0.1."""
    pieces = [text[i : i + 12] for i in range(len(text) - 11)]
    counts: dict[str, int] = {}
    for piece in pieces:
        counts[piece] = counts.get(piece, 0) + 1
    return sum(count == 1 for count in counts.values()) / len(pieces)


def report_path(outputs: Path, folder: str) -> Path:
    """Where the whole report of an assignment lies, where the orchestrator can read it."""
    return outputs / f"{folder}.md"
