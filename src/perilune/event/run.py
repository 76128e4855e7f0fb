"""The durable events of a run, as its journal holds them."""

from __future__ import annotations

from typing import Any, Literal

from perilune.event.parts import (
    ArgumentNode,
    CheckMade,
    Content,
    Event,
    PlanItem,
    ToolCall,
    Usage,
)


class RunStarted(Event, frozen=True, kw_only=True, tag="run.started"):
    """First event of a run: all that a resume needs to build the same agent again."""

    task: Content
    system_prompt: str = ""
    model: str = ""
    tools: list[str] = []
    recipe: str = ""
    workspace: str = ""
    settings: dict[str, Any] = {}
    parent_run: str | None = None


class ToolLeftOut(Event, frozen=True, kw_only=True, tag="tool.left_out"):
    """A tool that the run was to have and cannot use: its name as it was given, and why."""

    name: str
    reason: str


class RunResumed(Event, frozen=True, kw_only=True, tag="run.resumed"):
    """Another process goes on; `unknown_calls` had an intent but no result."""

    process: int
    unknown_calls: list[str] = []
    damaged: str = ""


class UserMessage(Event, frozen=True, kw_only=True, tag="user.message"):
    """Words for the model. `source` says whose: the person's, or Perilune's own ("house")."""

    content: Content
    source: Literal["task", "steer", "queue", "verifier", "guard", "house"] = "task"


class MessageReceived(Event, frozen=True, kw_only=True, tag="message.received"):
    """A person spoke while the run works: `steer` is shown at the next step, `queue` starts the
    next turn after the answer. A `UserMessage` of that source follows when the model sees it."""

    content: Content
    mode: Literal["steer", "queue"] = "steer"


class AssistantMessage(Event, frozen=True, kw_only=True, tag="assistant.message"):
    """A whole turn of the model, with its reasoning, so that it can be sent back as it was."""

    step: int
    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = []
    finish_reason: str = "stop"
    usage: Usage = Usage()
    model: str = ""
    response_id: str = ""


class ToolStarted(Event, frozen=True, kw_only=True, tag="tool.started"):
    """The intent, durable before the tool runs. With side effects it is never run twice."""

    call_id: str
    name: str
    arguments: dict[str, Any] = {}
    side_effects: bool = False
    step: int = 0


class ToolFinished(Event, frozen=True, kw_only=True, tag="tool.finished"):
    """What the model is shown for a call. `unknown`: the process died while the tool ran."""

    call_id: str
    name: str
    content: Content = ""
    outcome: Literal["ok", "error", "refused", "denied", "timeout", "cancelled", "unknown"] = "ok"
    seconds: float = 0.0
    files: list[str] = []
    evidence: list[str] = []
    full_output: str | None = None


class PermissionDecided(Event, frozen=True, kw_only=True, tag="permission.decided"):
    call_id: str
    name: str
    decision: Literal["allow", "deny"]
    rule: str = ""
    by: Literal["rule", "person", "default"] = "rule"


class EvidenceKept(Event, frozen=True, kw_only=True, tag="evidence.kept"):
    """A source was kept by content hash; the answer may cite it as `[id]`."""

    id: str
    source: str
    title: str = ""
    sha256: str = ""


class PlanUpdated(Event, frozen=True, kw_only=True, tag="plan.updated"):
    """The whole plan after a change; the last one stands."""

    items: list[PlanItem] = []


class NoteTaken(Event, frozen=True, kw_only=True, tag="note.taken"):
    """Something to remember; notes survive every compaction verbatim."""

    text: str


class Compacted(Event, frozen=True, kw_only=True, tag="context.compacted"):
    """The model's view became smaller; `state` lets a resumed run rebuild the same view."""

    strategy: str
    tokens_before: int
    tokens_after: int
    state: dict[str, Any] = {}
    usage: Usage = Usage()


class SnapshotTaken(Event, frozen=True, kw_only=True, tag="snapshot.taken"):
    """The workspace as it was before the first write, or after a task; `trace undo` uses both."""

    snapshot: str
    files: int
    bytes: int
    moment: Literal["before", "after"] = "before"


class ModelHasNoVision(Event, frozen=True, kw_only=True, tag="model.no_vision"):
    """The model takes no pictures, `reason` in its server's words; it is shown texts instead."""

    model: str
    reason: str = ""


class PictureLost(Event, frozen=True, kw_only=True, tag="picture.lost"):
    """A picture's file is missing or was changed; the model is shown a text in its place."""

    sha256: str
    reason: str = ""


class RepeatNoticed(Event, frozen=True, kw_only=True, tag="repeat.noticed"):
    """The same call with the same result (`period` 1), or a cycle of calls, again."""

    name: str
    count: int
    period: int = 1


class Retried(Event, frozen=True, kw_only=True, tag="model.retried"):
    """A completion failed in a way that may pass; it is asked again after `wait_seconds`."""

    attempt: int
    cause: str
    wait_seconds: float


class Verified(Event, frozen=True, kw_only=True, tag="answer.verified"):
    """The verdict on a proposed answer; with problems the model is asked to revise."""

    passed: bool
    problems: list[str] = []
    attempt: int = 1
    checks: list[CheckMade] = []


class ArgumentUpdated(Event, frozen=True, kw_only=True, tag="argument.updated"):
    """Nodes of the argument that were added, or replaced by id."""

    nodes: list[ArgumentNode] = []


class TrajectoryFinished(Event, frozen=True, kw_only=True, tag="trajectory.finished"):
    """One of the runs that heavy effort merges ended; `run` has a journal of its own."""

    run: str
    number: int
    reason: str
    answer: str = ""
    passed: bool = False
    usage: Usage = Usage()


class CopyMade(Event, frozen=True, kw_only=True, tag="copy.made"):
    """The run works in `folder`, a copy of the workspace as it is in the snapshot `base`."""

    folder: str
    base: str


class ChangesMade(Event, frozen=True, kw_only=True, tag="changes.made"):
    """What a run that works on a copy did to it. `applied`: the workspace has the changes now.

    `diff` is a file with all of them as a patch; `conflicts` are paths that someone else changed
    meanwhile; `reason` says why nothing was applied.
    """

    applied: bool
    files: list[str] = []
    diff: str = ""
    conflicts: list[str] = []
    reason: str = ""
    added: int = 0
    removed: int = 0


class RunFinished(Event, frozen=True, kw_only=True, tag="run.finished"):
    """A task of the run ended. `reason` is "done" or the named reason; a new task may follow."""

    reason: str
    answer: str = ""
    detail: str = ""
    steps: int = 0
    usage: Usage = Usage()
    seconds: float = 0.0
