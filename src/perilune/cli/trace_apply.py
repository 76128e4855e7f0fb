"""`perilune trace apply`: takes the changes of a run that were not applied when it ended."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from perilune.errors import UsageError

EXIT_CONFLICT = 1


def apply(
    run: Annotated[str, typer.Argument(help="A run's id, part of the id, or 'last'.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the changes, and apply nothing.")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="With conflicts: apply the other files.")
    ] = False,
    agent: Annotated[
        str | None, typer.Option("--agent", help="A swarm's sub-agent, by its name in the tree.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Apply what a run changed in its copy to the workspace; `trace undo` takes it back.

    Files that were changed in the workspace since the run began are conflicts. With one, nothing is
    applied, and their patch is written beside the journal. Exit codes: 0 applied (or shown), 1
    conflicts, 2 wrong usage.
    """
    from perilune.agent.loop.taking_over import take_over
    from perilune.home import data_home, find_run

    folder = find_run(run)
    if agent is not None:
        folder = folder / "swarm" / agent
        if not (folder / "journal.db").exists():
            raise UsageError(f"run {folder.parents[1].name} has no sub-agent {agent!r}")
    taken = take_over(folder, data_home(), dry_run=dry_run, partial=partial)
    if as_json:
        fields = {
            "run": taken.run, "workspace": taken.workspace, "files": taken.files,
            "applied": taken.applied, "conflicts": taken.conflicts, "diff": taken.diff,
            "conflicts_diff": taken.rest, "dry_run": dry_run,
        }  # fmt: skip
        if dry_run:
            fields["patch"] = taken.patch
        print(json.dumps(fields, ensure_ascii=False))
    elif dry_run:
        from perilune.cli.agent_view import plain

        print(plain(taken.patch).plain, end="")
        for each in taken.conflicts:
            print(f"conflict: {each} was changed in the workspace meanwhile", file=sys.stderr)
    else:
        _say(taken.run, taken.workspace, taken.applied, taken.conflicts, taken.rest)
    if taken.conflicts:
        raise typer.Exit(EXIT_CONFLICT)


def _say(run: str, workspace: str, applied: list[str], conflicts: list[str], rest: str) -> None:
    if applied:
        print(f"applied to {workspace}: {', '.join(applied)}")
        print(f"to take it back: perilune trace undo {run}")
    if conflicts:
        print(
            f"perilune: {', '.join(conflicts)} changed in the workspace since the run began, and "
            f"{'was left as it is' if applied else 'so nothing was applied'}; the run's change to "
            f"it is in {rest}"
            + ("" if applied else ". `--partial` applies the other files, if there are any."),
            file=sys.stderr,
        )
