"""`perilune trace`: look at runs, give them to other programs, and take their changes back.

Everything here reads the one event stream of a run; only `apply`, `undo` and `rm` change anything.
"""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from perilune.cli.trace_apply import apply
from perilune.errors import UsageError

if TYPE_CHECKING:
    from perilune.agent.journal.journal import History
    from perilune.agent.journal.state import RunState

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Show runs and undo them.")
app.command()(apply)

Run = Annotated[str, typer.Argument(help="A run's id, part of the id, or 'last'.")]
LONGEST_WAIT = 2.0


class ExportFormat(StrEnum):
    JSONL = "jsonl"
    MESSAGES = "messages"
    MARKDOWN = "markdown"
    OTEL = "otel"


@app.command("ls")
def list_runs(
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, help="Number of runs to list.")
    ] = 20,
) -> None:
    """List runs, the newest first."""
    from rich.console import Console
    from rich.table import Table

    from perilune.agent.journal.journal import FILE_NAME, read_journal
    from perilune.agent.journal.state import fold
    from perilune.cli.agent_view import first_line, plain
    from perilune.errors import AgentError
    from perilune.home import runs_folder

    table = Table("run", "state", "steps", "tokens", "model", "task", box=None, pad_edge=False)
    folders = sorted(runs_folder().glob(f"*/{FILE_NAME}"), reverse=True)[:count]
    for path in folders:
        try:
            history = read_journal(path.parent)
        except AgentError as error:
            table.add_row(path.parent.name, plain(str(error), "yellow"))
            continue
        state = fold(history.records)
        how = state.finished.reason if state.finished else "unfinished"
        task = first_line(state.started.task) if state.started else ""
        table.add_row(
            path.parent.name,
            plain(how + " (damaged)" * bool(history.damage), "" if how == "done" else "yellow"),
            str(state.step),
            str(state.usage.total_tokens),
            plain(state.started.model if state.started else ""),
            plain(task[:60]),
        )
    Console().print(table if folders else "there are no runs yet", highlight=False)


@app.command()
def show(
    run: Run,
    thoughts: Annotated[bool, typer.Option("--thoughts", help="Show the thinking, too.")] = False,
    graph: Annotated[
        bool, typer.Option("--graph", help="Show its argument instead, as text and as SVG.")
    ] = False,
    svg: Annotated[
        Path | None,
        typer.Option("--svg", help="With --graph: where to write it. Default: the run's folder."),
    ] = None,
    tree: Annotated[bool, typer.Option("--tree", help="A swarm's agents, stage by stage.")] = False,
    timeline: Annotated[
        bool, typer.Option("--timeline", help="A swarm's time, with the critical path.")
    ] = False,
    to: Annotated[
        Path | None, typer.Option("--to", help="Draw the timeline into a .svg or .png file.")
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option("--agent", help="One sub-agent's own run, by its name in the tree."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="All events, a JSON object a line.")
    ] = False,
) -> None:
    """Show a run as it went, its argument as a graph, or its sub-agents."""
    from perilune.events import encode_record

    if as_json and (graph or svg is not None or tree or timeline or to is not None):
        raise UsageError("--json goes with the run as it went, not with a drawing of it")
    if graph or svg is not None:
        show_argument(run, svg)
    elif tree or timeline or to is not None:
        _show_swarm(run, tree=tree, timeline=timeline, to=to)
    elif as_json:
        for record in _read(run, agent).records:
            sys.stdout.buffer.write(encode_record(record) + b"\n")
    else:
        _replay(_read(run, agent), thoughts=thoughts, speed=None)


@app.command()
def replay(
    run: Run,
    speed: Annotated[
        float, typer.Option("--speed", min=0.1, help="Factor of the original speed; 1 keeps it.")
    ] = 4.0,
) -> None:
    """Play a run in the terminal, with its pauses (of at most 2 s)."""
    _replay(_read(run), thoughts=False, speed=speed)


@app.command()
def export(
    run: Run,
    export_format: Annotated[
        ExportFormat,
        typer.Option("--format", help="All events; the messages; Markdown; OpenTelemetry spans."),
    ] = ExportFormat.JSONL,
) -> None:
    """Write a run to stdout for another program (otel: to OTEL_EXPORTER_OTLP_ENDPOINT, if set)."""
    from perilune.agent.journal.state import fold
    from perilune.agent.pictures.store import PictureStore
    from perilune.events import encode_record
    from perilune.home import find_run

    history = _read(run)
    state = fold(history.records)
    if export_format is ExportFormat.JSONL:
        for record in history.records:
            sys.stdout.buffer.write(encode_record(record) + b"\n")
    elif export_format is ExportFormat.MESSAGES:
        system = [{"role": "system", "content": state.system_prompt}] * bool(state.system_prompt)
        shown = PictureStore(find_run(run)).shown(state.messages)
        body = {"messages": [*system, *shown]}
        sys.stdout.buffer.write(msgspec.json.encode(body) + b"\n")
    elif export_format is ExportFormat.MARKDOWN:
        print(as_markdown(state))
    else:
        from perilune.agent.journal.otel import export_run

        print(export_run(history.records), file=sys.stderr)


@app.command()
def undo(
    run: Run,
    to: Annotated[
        str | None, typer.Option("--to", help="Another snapshot, e.g. the one from before an undo.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Undo what others changed since, too.")
    ] = False,
    keep_both: Annotated[
        bool,
        typer.Option("--keep-both", help="Undo it, and keep the version of others beside it."),
    ] = False,
    keep_mine: Annotated[
        bool, typer.Option("--keep-mine", help="Keep what others changed, and do not ask.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Bring a run's workspace back to what it was before the run's first write.

    A file that someone else changed since is asked about on a terminal, and else left alone, which
    is exit code 1. The present state is kept first, so an undo can be undone.
    """
    from perilune.cli.undo import undo_verb

    history = _read(run)
    choices = {"theirs": force, "both": keep_both, "mine": keep_mine}
    undo_verb(run, history, to=to, choices=choices, dry=dry_run, as_json=as_json)


@app.command()
def rm(run: Run) -> None:
    """Remove a run: its journal, outputs and evidence, and snapshots that no other run needs."""
    import shutil

    from perilune.agent.journal.journal import Journal
    from perilune.agent.journal.state import fold
    from perilune.agent.workspace.snapshot import SnapshotStore
    from perilune.agent.workspace.working_copy import COPY_PREFIX
    from perilune.home import data_home, find_run

    folder = find_run(run)
    Journal(folder).release()  # not while the run is at work
    copy = fold(_read(run).records).copy
    place = Path(copy.folder).parent if copy else folder
    if place.name.startswith(COPY_PREFIX):
        shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(folder)
    freed = SnapshotStore(data_home()).forget(folder.name)
    print(f"removed {folder.name}, freed {freed / 1e6:.1f} MB of snapshots")


def show_argument(run: str, svg: Path | None) -> None:
    """Print a run's argument and write its picture."""
    from perilune.agent.evidence.argument_drawing import as_svg, as_text
    from perilune.agent.journal.state import fold
    from perilune.cli.agent_view import plain
    from perilune.home import find_run

    argument = fold(_read(run).records).argument
    if not argument:
        raise UsageError(
            f"run {run} kept no argument", remedy="`perilune run --recipe reason` keeps one."
        )
    print(plain(as_text(argument)).plain)
    path = svg or find_run(run) / "argument.svg"
    try:
        path.write_text(as_svg(argument), "utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    print(f"picture: {path}", file=sys.stderr)


def as_markdown(state: RunState) -> str:
    """A conversation for people to read."""
    from perilune.cli.agent_view import text_of

    names = {
        "task": "User",
        "steer": "User (while it worked)",
        "queue": "User",
        "assistant": "Agent",
    }
    parts = [f"# Run of {state.started.model}" if state.started else "# Run"]
    for message, origin in zip(state.messages, state.origins, strict=True):
        heading = (
            f"Result of `{message['name']}`" if origin == "tool" else names.get(origin, origin)
        )
        parts.append(f"## {heading}")
        if message.get("reasoning_content"):
            parts.append("> " + message["reasoning_content"].strip().replace("\n", "\n> "))
        text = text_of(message.get("content") or "").strip()
        if text:
            parts.append(_fenced(text) if origin == "tool" else text)
        for call in message.get("tool_calls") or ():
            function = call["function"]
            parts.append(f"Calls `{function['name']}`:\n\n{_fenced(function['arguments'])}")
    return "\n\n".join(parts) + "\n"


def _fenced(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"


def _show_swarm(run: str, *, tree: bool, timeline: bool, to: Path | None) -> None:
    from rich.console import Console

    from perilune.home import find_run
    from perilune.swarm.timeline import render_timeline, save_timeline
    from perilune.swarm.trace import read_trace
    from perilune.swarm.tree import render_tree

    trace = read_trace(find_run(run))
    console = Console()
    if tree:
        console.print(render_tree(trace), highlight=False)
    if timeline:
        console.print(render_timeline(trace, console.width), highlight=False)
    if to is not None:
        save_timeline(trace, to)


def _read(run: str, agent: str | None = None) -> History:
    from perilune.agent.journal.journal import read_journal
    from perilune.home import find_run

    folder = find_run(run)
    if agent is not None:
        names = sorted(each.name for each in (folder / "swarm").glob("*"))
        if agent not in names:
            known = ", ".join(names) or "none"
            raise UsageError(f"run {folder.name} has no sub-agent {agent!r}; it has: {known}")
        folder = folder / "swarm" / agent
    history = read_journal(folder)
    if history.damage:
        print(f"perilune: this journal is damaged: {history.damage}", file=sys.stderr)
    return history


def _replay(history: History, *, thoughts: bool, speed: float | None) -> None:
    from rich.console import Console

    from perilune.cli.agent_view import AgentView, plain, text_of
    from perilune.events import AssistantMessage, ReasoningShown, Record, UserMessage

    console = Console()
    view = AgentView(console, answers=True, thoughts=thoughts)
    last = history.records[0].time if history.records else 0.0
    for record in history.records:
        if speed is not None:
            time.sleep(min(LONGEST_WAIT, max(0.0, record.time - last) / speed))
        last = record.time
        event = record.event
        if isinstance(event, UserMessage) and event.source in ("task", "steer", "queue"):
            console.print(plain(f"› {text_of(event.content)}", "bold cyan"))
        if isinstance(event, AssistantMessage) and event.reasoning:
            view(Record(event=ReasoningShown(text=event.reasoning), run=record.run))
        view(record)
    view.wait()
