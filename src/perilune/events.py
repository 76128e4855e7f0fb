"""The one typed event stream of a run: journal, terminal, `stream-json`, trace and page read it.

A run is a sequence of `Record`s. Durable events carry a strictly increasing `seq` and are written
to the journal; volatile ones (deltas and progress, `seq` 0) are only shown. On the wire a record is
one flat JSON object: `{"v": 1, "seq": 7, "time": 1.5, "run": "...", "agent": "main", "type":
"tool.started", ...}`. Fields may be added with defaults within a version; a reader skips fields and
types that it does not know.
"""

from __future__ import annotations

from typing import Any

import msgspec

from perilune.event.live import (
    AssignmentProgress,
    ContentShown,
    ReasoningShown,
    RequestSent,
    StepStarted,
    StreamDiscarded,
    ToolProgress,
)
from perilune.event.parts import (
    ArgumentKind,
    ArgumentNode,
    CheckMade,
    Content,
    Event,
    PlanItem,
    PlanStatus,
    ToolCall,
    Unknown,
    Usage,
)
from perilune.event.run import (
    ArgumentUpdated,
    AssistantMessage,
    ChangesMade,
    Compacted,
    CopyMade,
    EvidenceKept,
    MessageReceived,
    ModelHasNoVision,
    NoteTaken,
    PermissionDecided,
    PictureLost,
    PlanUpdated,
    RepeatNoticed,
    Retried,
    RunFinished,
    RunResumed,
    RunStarted,
    SnapshotTaken,
    ToolFinished,
    ToolLeftOut,
    ToolStarted,
    TrajectoryFinished,
    UserMessage,
    Verified,
)
from perilune.event.swarm import (
    AssignmentFinished,
    AssignmentStatus,
    ReportsCollected,
    SubAgentCreated,
)
from perilune.text import valid_json

__all__ = [
    "KNOWN",
    "VERSION",
    "ArgumentKind",
    "ArgumentNode",
    "ArgumentUpdated",
    "AssignmentFinished",
    "AssignmentProgress",
    "AssignmentStatus",
    "AssistantMessage",
    "ChangesMade",
    "CheckMade",
    "Compacted",
    "Content",
    "ContentShown",
    "CopyMade",
    "Event",
    "EvidenceKept",
    "MessageReceived",
    "ModelHasNoVision",
    "NoteTaken",
    "PermissionDecided",
    "PictureLost",
    "PlanItem",
    "PlanStatus",
    "PlanUpdated",
    "ReasoningShown",
    "Record",
    "RepeatNoticed",
    "ReportsCollected",
    "RequestSent",
    "Retried",
    "RunFinished",
    "RunResumed",
    "RunStarted",
    "SnapshotTaken",
    "StepStarted",
    "StreamDiscarded",
    "SubAgentCreated",
    "ToolCall",
    "ToolFinished",
    "ToolLeftOut",
    "ToolProgress",
    "ToolStarted",
    "TrajectoryFinished",
    "Unknown",
    "Usage",
    "UserMessage",
    "Verified",
    "decode_event",
    "decode_record",
    "encode_event",
    "encode_record",
    "event_type",
    "valid_event",
]

VERSION = 1

KNOWN: tuple[type[Event], ...] = (
    RunStarted,
    RunResumed,
    UserMessage,
    MessageReceived,
    AssistantMessage,
    ToolStarted,
    ToolFinished,
    ToolLeftOut,
    PermissionDecided,
    EvidenceKept,
    PlanUpdated,
    NoteTaken,
    Compacted,
    SnapshotTaken,
    RepeatNoticed,
    ModelHasNoVision,
    PictureLost,
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
    ReasoningShown,
    ContentShown,
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


def valid_event(event: Event) -> Event:
    """The event with every text in it valid Unicode; one that is so already is returned itself."""
    try:
        msgspec.json.encode(_fields(event))
    except UnicodeEncodeError:
        fields = valid_json(msgspec.to_builtins(_fields(event)))
        return Unknown(fields=fields) if isinstance(event, Unknown) else decode_event(fields)
    return event


def encode_event(event: Event) -> bytes:
    """The event alone as JSON, as the journal stores it; halves of characters become U+FFFD."""
    return msgspec.json.encode(_fields(valid_event(event)))


def decode_event(data: bytes | str | dict[str, Any]) -> Event:
    """Read one event; a type that this version does not know becomes `Unknown`.

    Raises `ValueError` (msgspec's) when the data is not a JSON object or contradicts its type.
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
    return msgspec.json.encode(valid_json(envelope | msgspec.to_builtins(_fields(record.event))))


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
