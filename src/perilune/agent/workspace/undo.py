"""Undo of a run: its changes go back, and nothing that anyone else wrote is lost.

A path that only the run changed becomes what it was. A path that someone else changed after the
run's last write is a conflict: it is decided by who asks for the undo. Versions of someone else's
that the run itself wrote over are laid beside, under a name that the result says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from perilune.agent.workspace.change_log import RUN, UNKNOWN, ChangeLog, Ledger, read_ledger
from perilune.agent.workspace.manifest import Entry, Manifest, SnapshotError, same_entry
from perilune.agent.workspace.snapshot import SnapshotStore, Undone

Choice = Literal["mine", "both", "theirs"]
"""Keep the present state; restore, with the present one beside; restore."""
CUT_OFF = "it changed when a call of the run was cut off, and nobody knows whose the change is"


@dataclass(frozen=True, slots=True)
class Conflict:
    """A path that is not what the run left there; `why` in words."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class _Step:
    path: str
    wanted: Entry | None
    present: Entry | None
    why: str = ""  # of a conflict


@dataclass(slots=True)
class _Plan:
    steps: list[_Step] = field(default_factory=list)
    versions: dict[str, list[Entry]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def undo_run(
    store: SnapshotStore,
    run: str,
    before: str,
    after: str = "",
    *,
    choose: Callable[[Conflict], Choice] = lambda conflict: "mine",
    dry: bool = False,
) -> Undone:
    """Bring a run's workspace back to what it was before the run's first write.

    `after` is the snapshot of the run's end, for runs that kept no change log. `dry` changes
    nothing, and says what would be done. Raises `SnapshotError` when nothing can be done.
    """
    wanted = store.load(before)
    root = Path(wanted.workspace)
    if not root.is_dir():
        raise SnapshotError(f"the workspace {root} no longer exists")
    present = store.take(root, "undo")
    ledger = read_ledger(store, run)
    if ledger is None:
        # An old run, or one that ended before its first call began.
        who = RUN if after else UNKNOWN
        ledger = _ledger_of(wanted, store.load(after) if after else present, who)
    undone = Undone(before=present.id, dry=dry)
    plan = _plan(wanted, ledger, present)
    undone.others = plan.others
    change: dict[str, Entry | None] = {}
    for step in plan.steps:
        if step.why:
            choice = choose(Conflict(step.path, step.why))
            if choice == "mine":
                undone.kept.append(step.path)
                undone.why[step.path] = step.why
                found = step.wanted
                if found is not None and not same_entry(found, wanted.entries.get(step.path)):
                    # What someone else had made of it before the run first wrote over it.
                    _note_version(plan, step.path, found)
                continue
            if choice == "both" and step.present is not None:
                _note_version(plan, step.path, step.present)
        change[step.path] = step.wanted
    _keep_children(change, undone.kept)
    if not dry:
        _do(store, root, change, undone)
    _lay_beside(store, root, plan.versions, undone)
    undone.removed = [p for p in change if change[p] is None and p not in undone.kept]
    undone.restored = [p for p in change if change[p] is not None and p not in undone.kept]
    if not dry:
        store.take(root, f"{present.id}-after")
        _tell(store, run, before, undone)
    return undone


def go_back(
    store: SnapshotStore,
    to: str,
    *,
    run: str = "",
    before: str = "",
    choose: Callable[[Conflict], Choice] = lambda conflict: "mine",
    dry: bool = False,
) -> Undone:
    """Bring a workspace to any snapshot, e.g. to that of before an undo (redo). What changed since
    that undo ended is a conflict; without one, the present is taken for known. `run`, with the
    snapshot `before` it, is told in its change log."""
    after = store.find(f"{to}-after") or store.take(Path(store.load(to).workspace), "undo").id
    undone = undo_run(store, f"{to}-none", to, after, choose=choose, dry=dry)
    if run and not dry:
        _tell(store, run, before, undone)
    return undone


def _tell(store: SnapshotStore, run: str, before: str, undone: Undone) -> None:
    if read_ledger(store, run) is not None:
        root = Path(store.load(before).workspace)
        done = {*undone.restored, *undone.removed, *undone.copies}
        ChangeLog(store, run, root, before).undone(done)


def _ledger_of(before: Manifest, after: Manifest, who: str) -> Ledger:
    """For runs without a log: whose all that differs between two snapshots is."""
    ledger = Ledger()
    for path in before.entries.keys() | after.entries.keys():
        was, became = before.entries.get(path), after.entries.get(path)
        if not same_entry(was, became):
            ledger.changes[path] = [(who, became)]
    return ledger


def _note_version(plan: _Plan, path: str, entry: Entry) -> None:
    if entry.kind != "dir":
        plan.versions.setdefault(path, []).append(entry)


def _plan(wanted: Manifest, ledger: Ledger, present: Manifest) -> _Plan:
    plan = _Plan()
    known = ledger.known(wanted.entries)
    unread = {*wanted.unread, *present.unread}
    for path in sorted({*wanted.entries, *present.entries, *ledger.changes} - unread):
        now = present.entries.get(path)
        was = ledger.wanted(path, wanted.entries.get(path))
        left = ledger.left(path)
        if left is not None:
            seen = {entry.content for entry in (was, now) if entry is not None}
            versions = [each for each in ledger.overwritten(path) if each.content not in seen]
            if versions:
                plan.versions[path] = versions
        cut_off = ledger.cut_off and not same_entry(known.get(path), now)
        if same_entry(was, now) and (left is not None or cut_off):
            continue
        if cut_off or (left is None and ledger.is_unknown(path) and not same_entry(was, now)):
            plan.steps.append(_Step(path, was, now, CUT_OFF))
        elif left is None:
            if not same_entry(wanted.entries.get(path), now):
                plan.others.append(path)
        elif same_entry(left[0], now):
            plan.steps.append(_Step(path, was, now))
        else:
            plan.steps.append(_Step(path, was, now, _why(left[0], now)))
    return plan


def _why(left: Entry | None, now: Entry | None) -> str:
    if now is None:
        return "it was deleted after the run's last write"
    if left is None:
        return "it was made again after the run had deleted it"
    if (left.kind, left.content) == (now.kind, now.content):
        return "its mode was changed after the run's last write"
    return "it was changed after the run's last write"


def _keep_children(change: dict[str, Entry | None], kept: list[str]) -> None:
    """A folder with something kept in it stays, whatever the run did to it."""
    for path in kept:
        for parent in Path(path).parents:
            if change.get(str(parent), ...) is None:
                del change[str(parent)]


def _do(store: SnapshotStore, root: Path, change: dict[str, Entry | None], undone: Undone) -> None:
    for path in store.put(root, change, as_owner=False):
        undone.kept.append(path)
        undone.why[path] = "something that is kept stands in its way"
    for path, entry in change.items():
        # A folder of the run's with something of others in it stays, and that is no failure.
        place = root / path
        if entry is None and place.is_dir() and not place.is_symlink():
            undone.kept.append(path)
            undone.why[path] = "it holds what others put there"


def _lay_beside(
    store: SnapshotStore, root: Path, versions: dict[str, list[Entry]], undone: Undone
) -> None:
    for path, entries in versions.items():
        for entry in dict.fromkeys(entries):
            name = _free_name(store, root, path, entry, set(undone.copies))
            undone.copies[name] = path
            if not undone.dry and store.put(root, {name: entry}, as_owner=False):
                raise SnapshotError(f"{name} cannot be written", remedy="Make room for it.")


def _free_name(store: SnapshotStore, root: Path, path: str, entry: Entry, taken: set[str]) -> str:
    """`NAME.yours`, `NAME.yours-2`, ...: the first that is free, or holds just this already."""
    number = 1
    while True:
        name = f"{path}.yours" + f"-{number}" * (number > 1)
        place = root / name
        if name not in taken:
            if not place.exists() and not place.is_symlink():
                return name
            a_file = entry.kind == "file" and place.is_file() and not place.is_symlink()
            if a_file and place.read_bytes() == store.read(entry):
                return name
        number += 1
