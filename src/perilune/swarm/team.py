"""The sub-agents of one swarm run: made, given work, listened to, and their reports handed over.

Everything that must survive a crash is in the orchestrator's journal or in a sub-agent's own
folder; what is kept here is a fold of it.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from perilune.agent.journal.journal import FILE_NAME, read_journal
from perilune.agent.tool import ToolContext, ToolResult
from perilune.errors import ToolError, UsageError
from perilune.events import (
    AssignmentFinished,
    AssignmentProgress,
    AssistantMessage,
    Record,
    ReportsCollected,
    SubAgentCreated,
    ToolFinished,
    Usage,
)
from perilune.swarm.assignment import CONTINUED, FAILED, Assignment, Outcome, folder_name
from perilune.swarm.backend import Backend
from perilune.swarm.deliveries import Deliveries, room_for_reports
from perilune.swarm.limits import SwarmLimits
from perilune.swarm.meter import Meter
from perilune.swarm.report import compact_report, worded_report
from perilune.swarm.state import ASSIGN, AssignmentState, SwarmState
from perilune.swarm.sub_agent import evidence_in


class Team:
    """Shared by the orchestrator's tools and the session that drives it."""

    def __init__(
        self,
        backend: Backend,
        limits: SwarmLimits,
        meter: Meter,
        listener: Callable[[Record], None] | None,
        *,
        helpers: bool = True,
        compact: bool = False,
    ) -> None:
        """`helpers`: whether the orchestrator has `collect_reports`; `compact` as in `Swarm`."""
        self._helpers = helpers
        self._compact = compact
        self.state = SwarmState()
        self._backend = backend
        self._limits = limits
        self._meter = meter
        self._listener = listener
        self._folder = Path()
        self._folders: dict[str, str] = {}
        self._expected = 0
        self._used_tokens = 0
        self._deliveries: tuple[int, Deliveries] | None = None

    def open(self, folder: Path, records: Sequence[Record]) -> None:
        """Take up the run in `folder`, of which `records` are known already.

        What unfinished sub-agents had spent is read off their journals.
        """
        self._folder = folder
        for record in records:
            self._note(record)
            self._meter.observe(record)
        for journal in sorted((folder / "swarm").glob(f"*/{FILE_NAME}")):
            for record in read_journal(journal.parent).records:
                self._meter.observe(record)
                self._meter.tool_calls += isinstance(record.event, ToolFinished)
        self._meter.tool_calls += self.state.main_tool_calls

    def observe(self, record: Record) -> None:
        """Hear a record of the orchestrator."""
        self._note(record)
        self._meter.observe(record)
        self._pass_on(record)

    # --- what the tools do ---

    def create(self, name: str, system_prompt: str, context: ToolContext) -> ToolResult:
        known = self.state.agents.get(name)
        if known is not None and known != system_prompt:
            raise ToolError(
                f"there is a sub-agent {name!r} already, with another system prompt; choose another"
                " name, or assign tasks to the one that is there"
            )
        self.state.agents[name] = system_prompt
        context.emit(SubAgentCreated(name=name, system_prompt=system_prompt))
        return ToolResult(f"created {name}")

    async def assign(self, agent: str, prompt: str, context: ToolContext) -> ToolResult:
        # Agents that the same turn creates are made first, wherever they stand in it.
        await asyncio.sleep(0)
        if agent not in self.state.agents:
            known = ", ".join(self.state.agents) or "none"
            raise ToolError(f"there is no sub-agent {agent!r}; there is: {known}")
        outcome, assignment = await self._work(agent, prompt, context)
        return self._hand_over(assignment, outcome, context)

    def collect(self, context: ToolContext) -> ToolResult:
        """Show reports that had to wait, as many as fit."""
        if not self.state.waiting:
            raise ToolError("no report waits")
        room = room_for_reports(context.context_window, self._used_tokens, least=0.05)
        deliveries = Deliveries(room, 0, min(room, self._limits.report_characters))
        shown: list[str] = []
        collected: list[str] = []
        for call_id in self.state.waiting:
            finished = self.state.assignments[call_id].finished
            assert finished is not None
            text = deliveries.show(self._report_of(finished))
            if text is None:
                break
            collected.append(call_id)
            shown.append(f"[{finished.folder}]\n{text}")
        context.emit(ReportsCollected(call_ids=collected))
        left = len(self.state.waiting) - len(collected)
        if left:
            shown.append(f"[{left} more wait]")
        return ToolResult("\n\n".join(shown))

    def reports(self, agents: Sequence[str] | None) -> list[tuple[str, str]]:
        """`(folder, whole report)` of all assignments that ended, or those of some agents."""
        if agents is not None:
            unknown = sorted(set(agents) - set(self.state.agents))
            if unknown:
                raise ToolError(f"there is no sub-agent {', '.join(map(repr, unknown))}")
        return [
            (each.finished.folder, self._report_of(each.finished))
            for each in self.state.assignments.values()
            if each.finished is not None
            and each.status not in FAILED
            and (agents is None or each.agent in agents)
        ]

    # --- what a person does ---

    async def steer(self, who: str, text: str) -> int:
        """Say something to the sub-agents at work with that agent's or folder's name."""
        found = self._at_work(who)
        for each in found:
            await self._backend.steer(each.call_id, text)
        return len(found)

    async def stop(self, who: str, reason: str) -> int:
        found = self._at_work(who)
        for each in found:
            await self._backend.stop(each.call_id, reason)
        return len(found)

    # --- within ---

    async def _work(
        self, agent: str, prompt: str, context: ToolContext
    ) -> tuple[Outcome, Assignment]:
        call_id = context.call_id
        assignment = self._assignment(agent, prompt, call_id)
        refusal = self._refusal(assignment)
        if refusal:
            return Outcome(status="budget", report="", detail=refusal), assignment
        mine = Progress(self, assignment, context)
        outcome = Outcome(status="stopped", report="", detail="the swarm was stopped")
        try:
            outcome = await self._backend.work(
                assignment.in_one_message() if self._compact else assignment,
                self._folder / "swarm" / assignment.folder,
                mine.observe,
            )
        except asyncio.CancelledError:
            # The loop writes what was emitted until now, with the call's result.
            context.emit(mine.finished(outcome))
            raise
        return outcome, assignment

    def _assignment(self, agent: str, prompt: str, call_id: str) -> Assignment:
        folder = folder_name(agent, call_id)
        before = self.state.earlier(agent, prompt)
        earlier: list[AssignmentState] = []
        if before is not None and before.finished is not None and before.status in CONTINUED:
            folder = before.finished.folder
            earlier = [
                each
                for each in self.state.assignments.values()
                if each.finished is not None and each.finished.folder == folder
            ]
        return Assignment(
            call_id=call_id,
            agent=agent,
            system_prompt=self.state.agents[agent],
            prompt=prompt,
            folder=folder,
            earlier_steps=sum(each.steps for each in earlier),
            earlier_tool_calls=sum(each.tool_calls for each in earlier),
            earlier_usage=sum((each.usage for each in earlier), Usage()),
        )

    def _refusal(self, assignment: Assignment) -> str:
        """Why an assignment may not begin; empty when it may."""
        limit = self._limits.sub_agents
        before = self._folders_before(assignment.call_id)
        self._folders[assignment.call_id] = assignment.folder
        if limit is not None and len(before) >= limit and assignment.folder not in before:
            return f"the swarm's limit of {limit} sub-agents is reached; go on without it"
        for each in self.state.assignments.values():
            if each.call_id == assignment.call_id:
                break
            if each.status == "running" and (each.agent, each.prompt) == (
                assignment.agent,
                assignment.prompt,
            ):
                return f"the same task is at work already, in call {each.call_id}"
        return ""

    def _folders_before(self, call_id: str) -> set[str]:
        """The sub-agents of the assignments before this one; one that went on counts once."""
        folders: set[str] = set()
        for each in self.state.assignments.values():
            if each.call_id == call_id:
                break
            if each.finished is not None:
                folders.add(each.finished.folder)
            else:
                own = folder_name(each.agent, each.call_id)
                folders.add(self._folders.get(each.call_id, own))
        return folders

    def _hand_over(
        self, assignment: Assignment, outcome: Outcome, context: ToolContext
    ) -> ToolResult:
        """Keep evidence and report where the orchestrator has them, and show it its share."""
        folder = self._folder / "swarm" / assignment.folder
        evidence: list[str] = []
        if context.evidence is not None and outcome.evidence:
            for known, (source, title, text) in evidence_in(folder).items():
                if known in outcome.evidence:
                    # As short as the sub-agent's own ids, so that its citations hold here too.
                    digits = len(known.removeprefix("ev:"))
                    kept = context.evidence.keep(source, text, title=title, digits=digits)
                    evidence.append(kept.id)
        report = self._keep_report(assignment, outcome)
        shown = self._shares(context).show(outcome.report)
        context.emit(
            AssignmentFinished(
                call_id=assignment.call_id,
                sub_agent=assignment.agent,
                folder=assignment.folder,
                status=outcome.status,
                detail=outcome.detail,
                steps=outcome.steps,
                tool_calls=outcome.tool_calls,
                usage=outcome.usage,
                began=outcome.began,
                ended=outcome.ended,
                evidence=evidence,
                files=outcome.files,
                report=str(report),
                waiting=shown is None,
            )
        )
        if self._compact:
            text = compact_report(outcome, shown)
        else:
            place = "waits for collect_reports" if self._helpers else f"is in {report}"
            text = worded_report(assignment, outcome, shown, report, place, evidence)
        return ToolResult(text, is_error=not outcome.ok, evidence=evidence)

    def _keep_report(self, assignment: Assignment, outcome: Outcome) -> Path:
        outputs = self._folder / "outputs"
        outputs.mkdir(exist_ok=True)
        path = outputs / f"{assignment.folder}.md"
        path.write_text(outcome.report, "utf-8", "surrogatepass")
        source = self._folder / "swarm" / assignment.folder / "files"
        target = outputs / assignment.folder
        if outcome.files and source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        return path

    def _report_of(self, finished: AssignmentFinished) -> str:
        path = self._folder / "outputs" / f"{finished.folder}.md"
        return path.read_text("utf-8", "surrogatepass") if path.exists() else ""

    def _shares(self, context: ToolContext) -> Deliveries:
        """The room of the present turn."""
        stage = self.state.assignments[context.call_id].stage
        if self._deliveries is None or self._deliveries[0] != stage:
            room = room_for_reports(context.context_window, self._used_tokens)
            shares = Deliveries(room, self._expected, self._limits.report_characters)
            self._deliveries = (stage, shares)
        return self._deliveries[1]

    def _at_work(self, who: str) -> list[AssignmentState]:
        running = self.state.running()
        found = [
            each for each in running if who in (each.agent, folder_name(each.agent, each.call_id))
        ]
        if not found:
            names = ", ".join(sorted({each.agent for each in running})) or "none"
            raise UsageError(f"no sub-agent {who!r} is at work", remedy=f"At work: {names}.")
        return found

    def _note(self, record: Record) -> None:
        self.state.apply(record)
        event = record.event
        if isinstance(event, AssistantMessage):
            self._expected = sum(call.name == ASSIGN for call in event.tool_calls)
            self._used_tokens = event.usage.total_tokens

    def _hear(self, record: Record) -> None:
        """Hear a record of a sub-agent."""
        self._meter.observe(record)
        self._pass_on(record)

    def _pass_on(self, record: Record) -> None:
        if self._listener is not None:
            self._listener(record)


class Progress:
    """Counts one assignment while it is at work, and shows how far it is."""

    def __init__(self, team: Team, assignment: Assignment, context: ToolContext) -> None:
        self._team = team
        self._assignment = assignment
        self._context = context
        self.steps = self.tool_calls = 0
        self.usage = Usage()

    def observe(self, record: Record) -> None:
        self._team._hear(record)
        match record.event:
            case AssistantMessage(usage=usage):
                self.steps += 1
                self.usage += usage
            case ToolFinished():
                self.tool_calls += 1
                return
            case _:
                return
        self._context.emit(
            AssignmentProgress(
                call_id=self._assignment.call_id,
                sub_agent=self._assignment.agent,
                steps=self.steps,
                tool_calls=self.tool_calls,
                usage=self.usage,
            )
        )

    def finished(self, outcome: Outcome) -> AssignmentFinished:
        """The end of an assignment that was cut off, with what was counted here."""
        state = self._team.state.assignments[self._assignment.call_id]
        return AssignmentFinished(
            call_id=self._assignment.call_id,
            sub_agent=self._assignment.agent,
            folder=self._assignment.folder,
            status=outcome.status,
            detail=outcome.detail,
            steps=self.steps,
            tool_calls=self.tool_calls,
            usage=self.usage,
            began=state.began,
            ended=max(state.began, state.ended),
        )
