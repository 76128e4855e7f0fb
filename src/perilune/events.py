"""The one typed event stream of a run: journal, terminal, `stream-json`, trace and page read it.

A run is a sequence of `Record`s. Durable events carry a strictly increasing `seq` and are written
to the journal; volatile ones (deltas and progress, `seq` 0) are only shown. On the wire a record is
one flat JSON object: `{"v": 1, "seq": 7, "time": 1.5, "run": "...", "agent": "main", "type":
"tool.started", ...}`. Fields may be added with defaults within a version; a reader skips fields and
types that it does not know.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

VERSION = 1

Content = str | list[dict[str, Any]]
"""Text, or OpenAI-shaped parts (`text`, `image_url`)."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of all events; `durable` says whether it belongs in the journal."""

    durable: ClassVar[bool] = True


# --- parts of events ---------------------------------------------------------------------------


class ToolCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call that the model asked for; `arguments` is the text exactly as the model wrote it."""

    id: str
    name: str
    arguments: str


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens (and money, where prices are known) of one completion, or of many added up."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    cost: float = 0.0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            cost=self.cost + other.cost,
        )


PlanStatus = Literal["open", "active", "done", "dropped"]


class PlanItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the living plan; a dropped item says why in `note`."""

    text: str
    status: PlanStatus = "open"
    note: str = ""


# --- durable events ----------------------------------------------------------------------------


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


class RunResumed(Event, frozen=True, kw_only=True, tag="run.resumed"):
    """Another process goes on; `unknown_calls` had an intent but no result."""

    process: int
    unknown_calls: list[str] = []
    damaged: str = ""


class UserMessage(Event, frozen=True, kw_only=True, tag="user.message"):
    """Words for the model. `source` says whose: the person's, or the house's own."""

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


class CheckMade(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One check of an answer. `noted`: it saw something that it cannot decide, said in `notes`.

    `evidence` is what the outcome rests on: evidence ids, equations, commands and how they ended.
    """

    name: str
    outcome: Literal["passed", "failed", "noted"]
    problems: list[str] = []
    notes: list[str] = []
    evidence: list[str] = []


class Verified(Event, frozen=True, kw_only=True, tag="answer.verified"):
    """The verdict on a proposed answer; with problems the model is asked to revise."""

    passed: bool
    problems: list[str] = []
    attempt: int = 1
    checks: list[CheckMade] = []


ArgumentKind = Literal["question", "hypothesis", "claim", "source", "check", "conclusion"]


class ArgumentNode(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node of an argument. `supports` and `against` are ids of other nodes that it speaks for or
    against. `result` is what a check gave, as it stands in a tool's output; `evidence` the id of a
    source."""

    id: str
    kind: ArgumentKind
    text: str
    state: Literal["open", "holds", "fails"] = "open"
    supports: list[str] = []
    against: list[str] = []
    result: str = ""
    evidence: str = ""


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


# --- durable events of a swarm ------------------------------------------------------------------


AssignmentStatus = Literal[
    "running", "done", "unverified", "nonsense", "looped", "budget", "hung", "died", "stopped"
]


class SubAgentCreated(Event, frozen=True, kw_only=True, tag="agent.created"):
    """The orchestrator made a kind of sub-agent; tasks are assigned to it by its name."""

    name: str
    system_prompt: str


class AssignmentFinished(Event, frozen=True, kw_only=True, tag="assignment.finished"):
    """A sub-agent's work on one prompt ended; the sub-agent's own journal is in `folder`.

    `steps`, `tool_calls` and `usage` are what this assignment took; `began` and `ended` are seconds
    since 1970. `report` names the file of the whole report; `waiting` says that the orchestrator
    was not shown it yet.
    """

    call_id: str
    sub_agent: str
    folder: str
    status: AssignmentStatus
    detail: str = ""
    steps: int = 0
    tool_calls: int = 0
    usage: Usage = Usage()
    began: float = 0.0
    ended: float = 0.0
    evidence: list[str] = []
    files: list[str] = []
    report: str = ""
    waiting: bool = False


class ReportsCollected(Event, frozen=True, kw_only=True, tag="reports.collected"):
    """The orchestrator was shown reports that had waited, by the call ids of their assignments."""

    call_ids: list[str] = []


# --- volatile events ---------------------------------------------------------------------------


class StepStarted(Event, frozen=True, kw_only=True, tag="step.started"):
    """One turn of the model begins; `prompt_tokens` is our own count of what it is shown."""

    durable: ClassVar[bool] = False
    step: int
    prompt_tokens: int = 0


class RequestSent(Event, frozen=True, kw_only=True, tag="request.sent"):
    """The step's request left the queue of its endpoint's limiter: from here on, a model works."""

    durable: ClassVar[bool] = False


class ReasoningDelta(Event, frozen=True, kw_only=True, tag="reasoning.delta"):
    durable: ClassVar[bool] = False
    text: str


class ContentDelta(Event, frozen=True, kw_only=True, tag="content.delta"):
    durable: ClassVar[bool] = False
    text: str


class ToolProgress(Event, frozen=True, kw_only=True, tag="tool.progress"):
    """A sign of life from a running tool."""

    durable: ClassVar[bool] = False
    call_id: str
    text: str


class AssignmentProgress(Event, frozen=True, kw_only=True, tag="assignment.progress"):
    """How far a sub-agent is with an assignment."""

    durable: ClassVar[bool] = False
    call_id: str
    sub_agent: str
    steps: int = 0
    tool_calls: int = 0
    usage: Usage = Usage()


class StreamDiscarded(Event, frozen=True, kw_only=True, tag="stream.discarded"):
    """The deltas since the last `step.started` are void: the completion is asked again."""

    durable: ClassVar[bool] = False


class Unknown(Event, frozen=True, kw_only=True, tag="unknown"):
    """An event of a newer version, kept as it was read."""

    fields: dict[str, Any] = {}


KNOWN: tuple[type[Event], ...] = (
    RunStarted,
    RunResumed,
    UserMessage,
    MessageReceived,
    AssistantMessage,
    ToolStarted,
    ToolFinished,
    PermissionDecided,
    EvidenceKept,
    PlanUpdated,
    NoteTaken,
    Compacted,
    SnapshotTaken,
    RepeatNoticed,
    Retried,
    Verified,
    ArgumentUpdated,
    TrajectoryFinished,
    CopyMade,
    ChangesMade,
    RunFinished,
    SubAgentCreated,
    AssignmentFinished,
    ReportsCollected,
    StepStarted,
    RequestSent,
    ReasoningDelta,
    ContentDelta,
    ToolProgress,
    AssignmentProgress,
    StreamDiscarded,
)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """An event with its place: `seq` in the run (0: volatile), `time` in seconds since 1970."""

    event: Event
    run: str
    seq: int = 0
    time: float = 0.0
    agent: str = "main"


_BY_TAG: dict[str, type[Event]] = {str(kind.__struct_config__.tag): kind for kind in KNOWN}
_ENVELOPE = ("v", "seq", "time", "run", "agent")


def event_type(event: Event) -> str:
    """The event's name on the wire, e.g. "tool.started"."""
    if isinstance(event, Unknown):
        return str(event.fields.get("type", "unknown"))
    return str(type(event).__struct_config__.tag)


def encode_event(event: Event) -> bytes:
    """The event alone as JSON, as the journal stores it."""
    return msgspec.json.encode(event.fields if isinstance(event, Unknown) else event)


def decode_event(data: bytes | str | dict[str, Any]) -> Event:
    """Read one event; a type that this version does not know becomes `Unknown`.

    Raises `ValueError` (msgspec's) when the data is no JSON object or contradicts its type.
    """
    fields = data if isinstance(data, dict) else msgspec.json.decode(data, type=dict[str, Any])
    kind = _BY_TAG.get(str(fields.get("type")))
    if kind is None:
        return Unknown(fields=fields)
    return msgspec.convert(fields, kind)


def encode_record(record: Record) -> bytes:
    """One line of `--output-format stream-json` (without the newline)."""
    envelope = {
        "v": VERSION,
        "seq": record.seq,
        "time": round(record.time, 3),
        "run": record.run,
        "agent": record.agent,
    }
    return msgspec.json.encode(envelope | msgspec.to_builtins(_fields(record.event)))


def decode_record(line: bytes | str) -> Record:
    """Read a line that `encode_record` (of any version) wrote."""
    fields = msgspec.json.decode(line, type=dict[str, Any])
    body = {name: value for name, value in fields.items() if name not in _ENVELOPE}
    return Record(
        event=decode_event(body),
        run=str(fields["run"]),
        seq=int(fields.get("seq", 0)),
        time=float(fields.get("time", 0.0)),
        agent=str(fields.get("agent", "main")),
    )


def _fields(event: Event) -> Event | dict[str, Any]:
    return event.fields if isinstance(event, Unknown) else event
