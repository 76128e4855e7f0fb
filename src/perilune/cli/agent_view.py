"""A run on a terminal: a reader of its event stream.

Thinking is folded into one line, a tool call is a card, the rest are notes. What a model or a tool
wrote is shown as plain text; its control characters cannot move the cursor.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.status import Status
from rich.text import Text

from perilune.events import (
    ArgumentUpdated,
    AssistantMessage,
    ChangesMade,
    CheckMade,
    Compacted,
    Content,
    ContentShown,
    CopyMade,
    Event,
    ModelHasNoVision,
    PermissionDecided,
    PictureLost,
    PlanUpdated,
    ReasoningShown,
    Record,
    RepeatNoticed,
    Retried,
    RunFinished,
    RunResumed,
    RunStarted,
    SnapshotTaken,
    StepStarted,
    StreamDiscarded,
    ToolFinished,
    ToolLeftOut,
    ToolProgress,
    ToolStarted,
    TrajectoryFinished,
    UserMessage,
    Verified,
)

CARD_LINES = 8
DIFF_LINES = 60
ARGUMENT_MARKS = {"open": "?", "holds": "✓", "fails": "✗"}
MARKS = {"open": "○", "active": "◐", "done": "●", "dropped": "×"}
OUTCOME_STYLES = {"ok": "green", "unknown": "yellow", "denied": "yellow", "cancelled": "yellow"}


class AgentView:
    """Draws records as they come. `answers` also shows the model's text (a chat), `quiet` keeps to
    problems and the end, `thoughts` unfolds the thinking."""

    def __init__(
        self,
        console: Console,
        *,
        answers: bool = False,
        quiet: bool = False,
        thoughts: bool = False,
    ) -> None:
        self._console = console
        self._answers = answers
        self._quiet = quiet
        self._thoughts = thoughts
        self._status: Status | None = None
        self._thinking: list[str] = []
        self._thinking_since = 0.0
        self._midline = False
        self._streamed = False
        self._asked: dict[str, str] = {}  # what each call is, in a line
        self._planned = False
        self._run = ""

    def __call__(self, record: Record) -> None:
        self._run = record.run
        self._show(record.event)

    def status(self, text: str) -> None:
        """What the spinner says."""
        self._spin(text)

    def wait(self) -> None:
        """Take the spinner away, e.g. while a person is asked."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _show(self, event: Event) -> None:
        match event:
            case StepStarted():
                self._streamed = False
                self._spin("thinking")
            case ReasoningShown(text=text):
                self._think(text)
            case ContentShown(text=text):
                self._fold_thinking()
                if self._answers:
                    self._stream(text)
            case StreamDiscarded():
                self._thinking.clear()
                self._end_line()
            case AssistantMessage():
                self._show_message(event)
            case ToolStarted():
                self._end_line()
                self._spin(event.name)
            case ToolProgress(text=text):
                self._spin(text[-80:])
            case ToolFinished():
                self._show_tool(event)
            case PlanUpdated(items=items):
                lines = [f"{MARKS[item.status]} {item.text}" for item in items]
                self._card("plan", "\n".join(lines), "cyan")
                self._planned = True
            case UserMessage(source="task" | "steer" | "queue" | "verifier"):
                pass  # what a check objects to is said by the check
            case UserMessage(content=content, source=source):
                self._note(f"{source}: {first_line(content)}")
            case RunStarted():
                self._note(f"model {event.model}, workspace {event.workspace}")
                if why := event.settings.get("recipe_why"):
                    self._note(f"recipe {event.recipe or 'none'}, for {why}")
            case ToolLeftOut(name=name, reason=reason):
                self._problem(f"{name!r} is left out: {reason}")
            case RunResumed():
                unknown = len(event.unknown_calls)
                self._note(f"resumed{f', {unknown} call(s) of unknown outcome' * (unknown > 0)}")
                if event.damaged:
                    self._problem(f"the journal was damaged: {event.damaged}")
            case PermissionDecided(decision="deny", name=name, rule=rule):
                self._note(f"{name} was denied{f' by {rule}' if rule else ''}")
            case Compacted():
                self._note(
                    f"context {event.strategy}: {event.tokens_before} tokens "
                    f"became {event.tokens_after}"
                )
            case SnapshotTaken(moment="before", files=files):
                self._note(
                    f"kept the workspace as it was ({files} paths); `trace undo` restores it"
                )
            case ModelHasNoVision(model=model, reason=reason):
                self._problem(f"{model} takes no pictures; it is told their names and sizes")
                self._note(reason)
            case PictureLost(sha256=sha256, reason=reason):
                self._problem(f"picture {sha256[:8]} is lost, {reason}; the model is told so")
            case RepeatNoticed():
                self._note(f"{event.name} repeats itself, {event.count} times")
            case Retried():
                self._problem(f"{event.cause}; asking again in {event.wait_seconds:.1f} s")
            case Verified(passed=False, problems=problems, checks=checks):
                self._note("check: " + "; ".join(problems))
                self._show_pages(checks)
            case Verified(checks=checks) if checks:
                self._note("verdict: " + ", ".join(map(verdict_word, checks)))
                self._show_pages(checks)
            case ArgumentUpdated(nodes=nodes):
                lines = [f"{ARGUMENT_MARKS[n.state]} {n.kind} {n.id}: {n.text}" for n in nodes]
                self._card("argument", "\n".join(lines), "magenta")
                self._planned = True
            case CopyMade():
                pass
            case ChangesMade():
                self._show_changes(event)
            case TrajectoryFinished():
                how = "passed" if event.passed else event.reason
                self._note(
                    f"trajectory {event.number} ({event.run}): {how}, "
                    f"{event.usage.total_tokens} tokens: {first_line(event.answer)[:60]}"
                )
            case RunFinished():
                self._show_end(event)
            case _:
                pass

    def _think(self, text: str) -> None:
        if not self._thinking:
            self._thinking_since = time.monotonic()
        self._thinking.append(text)
        if self._thoughts:
            self.wait()
            self._print(plain(text, "dim italic"), end="")
            self._midline = not text.endswith("\n")
        else:
            tail = " ".join("".join(self._thinking[-20:]).split())[-60:]
            self._spin(f"thinking: {tail}")

    def _fold_thinking(self) -> None:
        if not self._thinking:
            return
        text = "".join(self._thinking)
        self._thinking.clear()
        self._end_line()
        if not self._quiet and not self._thoughts:
            seconds = time.monotonic() - self._thinking_since
            words = len(text.split())
            line = f"▸ thought for {seconds:.1f} s, {words} words: {first_line(text)[:80]}"
            self._print(plain(line, "dim"))

    def _stream(self, text: str) -> None:
        self.wait()
        self._print(plain(text), end="")
        self._streamed = True
        self._midline = not text.endswith("\n")

    def _show_message(self, event: AssistantMessage) -> None:
        self._fold_thinking()
        self._end_line()
        self._asked = {call.id: _one_line(call.arguments) for call in event.tool_calls}
        if self._answers and event.content and not self._streamed:
            self._print(plain(event.content))
        elif not self._answers and event.tool_calls and event.content.strip():
            self._note(event.content.strip())

    def _show_pages(self, checks: list[CheckMade]) -> None:
        """Pages that a check drew, for the person to look at."""
        for page in (each for check in checks for each in check.evidence):
            if page.endswith(".html") and Path(page).is_absolute():
                self._note(f"side by side: {page}")

    def _show_tool(self, event: ToolFinished) -> None:
        planned, self._planned = self._planned, False
        if planned and event.outcome == "ok":
            return  # the plan itself is on the screen
        title = f"{event.name} {self._asked.get(event.call_id, '')}".strip()
        style = OUTCOME_STYLES.get(event.outcome, "red")
        self._card(title, text_of(event.content), style, f"{event.outcome}, {event.seconds:.1f} s")

    def _show_changes(self, event: ChangesMade) -> None:
        files = f"{len(event.files)} files, +{event.added} -{event.removed}"
        if not self._quiet:
            try:
                patch = Path(event.diff).read_text("utf-8", "replace").splitlines()
            except OSError:
                patch = []
            shown = patch if len(patch) <= DIFF_LINES else patch[: DIFF_LINES - 1]
            text = Text("\n").join(plain(line, diff_style(line)) for line in shown)
            if len(patch) > len(shown):
                text.append(f"\n... {len(patch) - len(shown)} more lines in {event.diff}", "dim")
            self._end_line()
            self.wait()
            self._print(Panel(text, title=plain(f"changes: {files}"), title_align="left"))
        if event.applied:
            self._note(f"applied to the workspace: {', '.join(event.files[:8])}")
        else:
            self._problem(
                f"not applied: {event.reason}. The changes are in {event.diff}; to take them: "
                f"perilune trace apply {self._run}"
            )

    def _show_end(self, event: RunFinished) -> None:
        self._end_line()
        self.wait()
        usage = event.usage
        numbers = (
            f"{event.steps} steps, {usage.prompt_tokens} + {usage.completion_tokens} tokens, "
            f"{event.seconds:.1f} s"
        )
        if event.reason == "done":
            self._note(numbers)
        else:
            self._problem(f"ended: {event.reason}. {event.detail} ({numbers})")

    def _card(self, title: str, body: str, style: str, subtitle: str = "") -> None:
        if self._quiet:
            return
        self.wait()
        self._end_line()
        lines = body.strip().splitlines()
        if len(lines) > CARD_LINES:
            lines = [*lines[: CARD_LINES - 1], f"... {len(lines) - CARD_LINES + 1} more lines"]
        width = max(20, self._console.width - 6)
        self._print(
            Panel(
                plain("\n".join(line[: 4 * width] for line in lines)),
                title=plain(title[:width]),
                title_align="left",
                subtitle=plain(subtitle),
                subtitle_align="right",
                border_style=style,
            )
        )

    def _note(self, text: str) -> None:
        if not self._quiet:
            self.wait()
            self._end_line()
            self._print(plain(f"· {text}", "dim"))

    def _problem(self, text: str) -> None:
        self.wait()
        self._end_line()
        self._print(plain(f"! {text}", "yellow"))

    def _spin(self, text: str) -> None:
        if self._quiet or self._midline or not self._console.is_terminal:
            return
        if self._status is None:
            self._status = self._console.status(plain(text, "dim"))
            self._status.start()
        else:
            self._status.update(plain(text, "dim"))

    def _end_line(self) -> None:
        if self._midline:
            self._console.print()
            self._midline = False

    def _print(self, what: Text | Panel, *, end: str = "\n") -> None:
        self._console.print(what, end=end, markup=False, highlight=False, soft_wrap=end == "")


def plain(text: str, style: str = "") -> Text:
    """Foreign text without control characters, which could rewrite the screen."""
    kept = "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    return Text(kept, style=style)


def text_of(content: Content) -> str:
    """The text of a message; a picture is a line with its size and its file in the run's folder."""
    from perilune.agent.pictures.part import text_of as words_of

    return words_of(content)


def diff_style(line: str) -> str:
    if line.startswith(("+++", "---")):
        return "bold"
    return {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")


def verdict_word(check: CheckMade) -> str:
    """One check in a verdict's line."""
    count = f" ({len(check.evidence)})" if check.evidence else ""
    note = f": {check.notes[0][:80]}" if check.notes else ""
    return f"{check.name} {check.outcome}{count}{note}"


def first_line(content: Content) -> str:
    return next((line for line in text_of(content).splitlines() if line.strip()), "")


def _one_line(arguments: str) -> str:
    """The arguments of a call, each with the beginning of its value."""
    try:
        values = json.loads(arguments)
    except ValueError:
        return arguments[:80]
    if not isinstance(values, dict):
        return arguments[:80]
    parts = []
    for name, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        text = " ".join(text.split())
        parts.append(f"{name}={text[:80]}{'...' * (len(text) > 80)}")
    return " ".join(parts)
