"""What a run knows, as a pure fold of its events: the living run and a resumed one fold alike.

`RunState.apply` is the only place where an event changes the state. So a run that was killed at any
point and resumed has the state of one that was not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from perilune.agent.endings import CONFLICT, DONE, UNVERIFIED
from perilune.agent.journal.repeat_guard import RepeatGuard
from perilune.agent.models.chat_model import Message
from perilune.events import (
    ArgumentNode,
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
    PlanItem,
    PlanUpdated,
    Record,
    RepeatNoticed,
    RunFinished,
    RunResumed,
    RunStarted,
    SnapshotTaken,
    ToolCall,
    ToolFinished,
    ToolStarted,
    Usage,
    UserMessage,
    Verified,
)


class View(msgspec.Struct, frozen=True):
    """How much of the history the model is shown; indices into `RunState.messages`.

    Messages before `dropped_before` are left out, save those of a person; `carry` (summary, plan,
    notes, ledger) stands for them. Tool outputs before `hidden_before` are replaced by a line.
    Pictures before `pictures_before` (of tools) and `given_before` (of persons) are, too.
    """

    hidden_before: int = 0
    dropped_before: int = 0
    carry: str = ""
    summary: str = ""
    pictures_before: int = 0
    given_before: int = 0


@dataclass(frozen=True, slots=True)
class Executed:
    """One line of the ledger: a call that was made, and how it ended."""

    step: int
    name: str
    arguments: dict[str, Any]
    outcome: str
    side_effects: bool


@dataclass(slots=True)
class RunState:
    """The fold. `messages` is the whole conversation without the system prompt; `origins[i]` says
    whose message i is: task, steer, queue (a person's), verifier, guard, house (Perilune itself),
    assistant, tool."""

    started: RunStarted | None = None
    messages: list[Message] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)
    plan: list[PlanItem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    evidence: dict[str, EvidenceKept] = field(default_factory=dict)
    ledger: list[Executed] = field(default_factory=list)
    open_calls: dict[str, ToolCall] = field(default_factory=dict)
    turn_calls: list[str] = field(default_factory=list)
    intents: dict[str, ToolStarted] = field(default_factory=dict)
    inbox: list[MessageReceived] = field(default_factory=list)
    view: View = field(default_factory=View)
    guard: RepeatGuard = field(default_factory=RepeatGuard)
    noticed: int = 0
    allowed: list[str] = field(default_factory=list)
    snapshot_before: str = ""
    snapshot_after: str = ""
    finished: RunFinished | None = None
    step: int = 0
    finish_reason: str = ""
    task_steps: int = 0
    task_usage: Usage = field(default_factory=Usage)
    task_seconds: float = 0.0
    usage: Usage = field(default_factory=Usage)
    verify_attempts: int = 0
    verdict: Verified | None = None
    argument: dict[str, ArgumentNode] = field(default_factory=dict)
    changes: ChangesMade | None = None
    copy: CopyMade | None = None
    call_ids: set[str] = field(default_factory=set)
    sightless: set[str] = field(default_factory=set)  # models that take no pictures
    lost_pictures: set[str] = field(default_factory=set)
    last_time: float = 0.0

    def apply(self, record: Record) -> None:
        """Fold one durable record in."""
        event = record.event
        if not isinstance(event, RunStarted | RunResumed) and not _begins_task(event):
            self.task_seconds += max(0.0, record.time - self.last_time)
        self.last_time = max(self.last_time, record.time)
        match event:
            case RunStarted():
                self.started = event
            case RunResumed():
                self._apply_resumed()
            case UserMessage():
                self._apply_user_message(event)
            case MessageReceived():
                self.inbox.append(event)
            case AssistantMessage():
                self._apply_assistant_message(event)
            case ToolStarted():
                self.intents[event.call_id] = event
                if event.side_effects:
                    self.snapshot_after = ""
            case ToolFinished():
                self._apply_tool_finished(event)
            case EvidenceKept():
                self.evidence[event.id] = event
            case PlanUpdated():
                self.plan = list(event.items)
            case NoteTaken():
                self.notes.append(event.text)
            case Compacted():
                self.view = msgspec.convert(event.state, View)
                self._spend(event.usage)
            case ModelHasNoVision():
                self.sightless.add(event.model)
            case PictureLost():
                self.lost_pictures.add(event.sha256)
            case RepeatNoticed():
                self.noticed = event.count
            case PermissionDecided(by="person", decision="allow") if event.rule:
                self.allowed.append(event.rule)
            case SnapshotTaken(moment="before"):
                self.snapshot_before, self.snapshot_after = event.snapshot, ""
            case SnapshotTaken():
                self.snapshot_after = event.snapshot
            case Verified():
                self.verify_attempts = event.attempt
                self.verdict = event
            case ArgumentUpdated():
                self.argument |= {node.id: node for node in event.nodes}
            case CopyMade():
                self.copy = event
            case ChangesMade():
                self.changes = event
            case RunFinished():
                self.finished = event

    @property
    def system_prompt(self) -> str:
        return self.started.system_prompt if self.started else ""

    @property
    def answer_proposed(self) -> bool:
        """The model's last word is an answer, and nothing was said to it since."""
        return bool(self.messages) and self.origins[-1] == "assistant" and not self.open_calls

    @property
    def last_answer(self) -> str:
        return str(self.messages[-1]["content"]) if self.answer_proposed else ""

    def _add(self, message: Message, origin: str) -> None:
        self.messages.append(message)
        self.origins.append(origin)

    def _apply_resumed(self) -> None:
        # An answer stands; any other end is taken up again, with a fresh chance.
        if self.finished is not None and self.finished.reason not in (DONE, UNVERIFIED, CONFLICT):
            self.finished = None
            self.guard.forget()
            self.noticed = 0

    def _apply_user_message(self, event: UserMessage) -> None:
        if _begins_task(event):
            self.finished = None
            self.task_steps, self.task_usage, self.task_seconds = 0, Usage(), 0.0
            self.verify_attempts, self.verdict, self.changes = 0, None, None
        if event.source in ("steer", "queue"):
            for i, each in enumerate(self.inbox):
                if each.content == event.content:
                    del self.inbox[i]
                    break
        if event.source in ("task", "steer", "queue"):
            self.guard.forget()
            self.noticed = 0
        self._add({"role": "user", "content": event.content}, event.source)

    def _apply_assistant_message(self, event: AssistantMessage) -> None:
        message: Message = {"role": "assistant", "content": event.content}
        if event.reasoning:
            message["reasoning_content"] = event.reasoning
        if event.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in event.tool_calls
            ]
            self.open_calls = {call.id: call for call in event.tool_calls}
            self.turn_calls = list(self.open_calls)
            self.call_ids.update(self.open_calls)
        self._add(message, "assistant")
        self.step = event.step
        self.finish_reason = event.finish_reason
        self.task_steps += 1
        self._spend(event.usage)

    def _apply_tool_finished(self, event: ToolFinished) -> None:
        call = self.open_calls.pop(event.call_id, None)
        intent = self.intents.pop(event.call_id, None)
        arguments: dict[str, Any] = {}
        if intent is not None:
            arguments = intent.arguments
        elif call is not None:
            arguments = {"arguments": call.arguments}
        message: Message = {
            "role": "tool",
            "tool_call_id": event.call_id,
            "name": event.name,
            "content": event.content,
        }
        place = self._place_of_result(event.call_id)
        self.messages.insert(place, message)
        self.origins.insert(place, "tool")
        side_effects = intent is not None and intent.side_effects
        self.ledger.append(Executed(self.step, event.name, arguments, event.outcome, side_effects))
        self.guard.observe(event.name, arguments, event.content)
        if self.guard.repeats[0] == 1:
            self.noticed = 0

    def _place_of_result(self, call_id: str) -> int:
        """Results stand in the order of their calls, however fast each of them was."""
        order = {each: i for i, each in enumerate(self.turn_calls)}
        mine = order.get(call_id, len(order))
        place = len(self.messages)
        while place > 0 and (before := self.messages[place - 1])["role"] == "tool":
            if order.get(before["tool_call_id"], -1) < mine:
                break
            place -= 1
        return place

    def _spend(self, usage: Usage) -> None:
        self.usage += usage
        self.task_usage += usage


def _begins_task(event: object) -> bool:
    return isinstance(event, UserMessage) and event.source in ("task", "queue")


def fold(records: list[Record]) -> RunState:
    """The state after these records."""
    state = RunState()
    for record in records:
        state.apply(record)
    return state
