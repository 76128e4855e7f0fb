"""`perilune trace undo`, and what an undo did, in words: others' changes are asked about."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import typer

from perilune.errors import UsageError

if TYPE_CHECKING:
    from perilune.agent.journal.journal import History
    from perilune.agent.workspace.snapshot import Undone
    from perilune.agent.workspace.undo import Choice, Conflict

MOST_NAMED = 20  # of what went as it should; what did not is always named


def undo_verb(
    run: str,
    history: History,
    *,
    to: str | None,
    choices: dict[str, bool],
    dry: bool,
    as_json: bool,
) -> None:
    """Undo a run, or go to the snapshot `to`. `choices`: which answer to a conflict was given as a
    flag. Exits with 1 when something of the run's was left alone."""
    from perilune.agent.journal.journal import Journal
    from perilune.agent.journal.state import fold
    from perilune.agent.workspace.snapshot import SnapshotStore
    from perilune.agent.workspace.undo import go_back, undo_run
    from perilune.home import data_home, find_run

    choose = _chooser(choices, ask=sys.stdin.isatty() and sys.stderr.isatty() and not dry)
    state = fold(history.records)
    if not to and not state.snapshot_before:
        raise UsageError(f"run {run} changed no files, or kept no snapshot")
    folder = find_run(run)
    journal = Journal(folder)  # not while the run is at work
    try:
        store = SnapshotStore(data_home())
        if to:
            undone = go_back(
                store, to, run=folder.name, before=state.snapshot_before, choose=choose, dry=dry
            )
        else:
            undone = undo_run(
                store,
                folder.name,
                state.snapshot_before,
                state.snapshot_after,
                choose=choose,
                dry=dry,
            )
    finally:
        journal.release()
    if as_json:
        print(json.dumps(msgspec.to_builtins(undone)))
    else:
        print(undone_text(undone, run=folder.name).encode("utf-8", "replace").decode())
    if undone.kept:
        raise typer.Exit(1)


def undone_text(undone: Undone, *, run: str) -> str:
    """What an undo did, in a few lines. Whatever is someone else's is named, however much it is."""
    would = "would have " if undone.dry else ""
    lines = [f"{would}restored {len(undone.restored)}, removed {len(undone.removed)} path(s)"]
    lines += _named("restored", undone.restored)
    lines += _named("removed", undone.removed)
    lines += [
        f"  kept {path}: {undone.why.get(path, 'it was changed after the run')}"
        for path in undone.kept
    ]
    lines += [f"  your version of {path} is in {name}" for name, path in undone.copies.items()]
    if undone.others:
        lines.append(f"  left alone {len(undone.others)} path(s) that the run did not change")
    if undone.kept:
        lines.append("to undo what was kept: --keep-both (yours goes beside), or --force")
    if not undone.dry:
        lines.append(f"the way back: perilune trace undo {run} --to {undone.before}")
    return "\n".join(lines)


def _named(what: str, paths: list[str]) -> list[str]:
    lines = [f"  {what} {path}" for path in paths[:MOST_NAMED]]
    if len(paths) > MOST_NAMED:
        lines.append(f"  {what} {len(paths) - MOST_NAMED} more")
    return lines


def _chooser(choices: dict[str, bool], *, ask: bool) -> Callable[[Conflict], Choice]:
    """A flag's answer; else, with `ask`, the person's; else the present state is kept."""
    given = [name for name, on in choices.items() if on]
    if len(given) > 1:
        raise UsageError("--force, --keep-both and --keep-mine exclude each other")
    if given:
        answer: Choice = given[0]  # type: ignore[assignment]  # the keys are the choices
        return lambda conflict: answer
    return _ask if ask else lambda conflict: "mine"


def _ask(conflict: Conflict) -> Choice:
    """Ask on the terminal. The end of input keeps what is there."""
    from perilune.cli.agent_view import plain

    answers: dict[str, Choice] = {"k": "mine", "b": "both", "u": "theirs"}
    line = plain(f"{conflict.path}: {conflict.why}").plain
    while True:
        print(
            f"{line}\n[k]eep it, [b]oth (undo, and yours beside), [u]ndo? ",
            end="",
            file=sys.stderr,
            flush=True,
        )
        typed = sys.stdin.readline()
        if not typed:
            return "mine"
        if (word := typed.strip().lower()[:1]) in answers:
            return answers[word]
