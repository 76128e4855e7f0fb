"""The tests of the workspace pass: as they are now, and those that were there before as they were.

They are run here, in the sandbox, whatever the model says about them. Test files and pytest's
settings that the run changed or removed are laid back in a second copy and run there too, so that
weakening a test gains nothing. Where the run renamed what they import, as it was asked to, they are
run after the same renaming; where the person asked for other tests, or says yes when asked, the new
ones stand, as long as they demand no less.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from perilune.agent.checks.check import Proposal, made
from perilune.agent.checks.renaming import (
    asks_for_removal,
    asks_for_renaming,
    asks_for_tests,
    asserts,
    renamed,
    test_functions,
    with_names,
)
from perilune.agent.tools.run_tests.tool import RunTests
from perilune.agent.workspace.working_copy import Changes, WorkingCopy, open_place
from perilune.errors import ToolError
from perilune.events import CheckMade

_TEST = re.compile(r"(?:^|/)(?:test_[^/]*|[^/]*_test)\.py$")
_HELPER = re.compile(r"(?:^|/)tests?/")
_SETTING = re.compile(
    r"(?:^|/)(?:conftest\.py|\.?pytest\.ini|tox\.ini|setup\.cfg|pyproject\.toml)$"
)
_SKIPPED = re.compile(r"\b(\d+) skipped")
_NO_TESTS = "no test was found"


class Tests:
    """The tests pass. Without changes there is nothing to test; without tests that is noted."""

    name = "tests"
    __test__ = False  # no class of tests

    async def examine(self, proposal: Proposal) -> CheckMade | None:
        copy = proposal.copy
        if copy is None:
            passed, said = await _run(proposal, proposal.workspace)
            return _judged(passed, said)
        changes = await asyncio.to_thread(copy.changes, f"{proposal.tools.run_id}-check")
        if not changes:
            return None
        passed, said = await _run(proposal, proposal.workspace)
        check = _judged(passed, said)
        before = [path for path in copy.base.entries if _TEST.search(path)]
        if check.outcome == "noted" and before:
            names = ", ".join(before[:5])
            return made(self.name, [f"No test is run any more, though there were some: {names}"])
        if check.outcome == "failed" or not before:
            return check
        evidence = list(check.evidence)
        altered = [path for path in changes.files if _is_altered(path, copy)]
        if altered:
            passed, said = await _as_before(proposal, copy, changes, altered, before)
            names = ", ".join(altered[:5])
            if passed:
                evidence.append(f"run_tests with {names} as before: {said}")
            else:
                why = await self._excused(proposal, copy, changes, altered, before)
                if not why:
                    text = (
                        f"You changed {names}. With them as before, the tests do not pass: {said}\n"
                        "Only the person can ask for other tests. Leave these as they were, or say "
                        "why they must change."
                    )
                    return made(self.name, [text], evidence=evidence)
                evidence.append(f"{names} changed: {why}")
                said = evidence[0].partition(": ")[2]
        if (skipped := _skipped(said)) > 0:
            everything = [*changes.paths]
            _, base = await _as_before(proposal, copy, changes, everything, before)
            if _skipped(base) < skipped:
                text = f"Your change makes tests be skipped: {said}; before it was: {base[:200]}"
                return made(self.name, [text], evidence=evidence)
        return made(self.name, [], evidence=evidence)

    async def _excused(
        self,
        proposal: Proposal,
        copy: WorkingCopy,
        changes: Changes,
        altered: list[str],
        before: list[str],
    ) -> str:
        """Why tests that do not pass as they were may be changed; "" where they may not."""
        words = [each for each in proposal.said() if each]
        old, new = await asyncio.to_thread(_texts, copy, changes)
        names = renamed(_without_tests(old), _without_tests(new))
        if names and asks_for_renaming(words, names):
            passed, said = await _as_before(proposal, copy, changes, altered, before, names)
            if passed:
                shown = ", ".join(f"{one} to {other}" for one, other in names.items())
                return f"as before, but for {shown}, they pass: {said}"
        settings = [path for path in altered if _SETTING.search(path)]
        one, other = _only_tests(old), _only_tests(new)
        weaker = asserts(other) < asserts(one) or test_functions(other) < test_functions(one)
        if settings or (weaker and not asks_for_removal(words)):
            return ""
        if asks_for_tests(words):
            return "the task asks for it"
        shown = ", ".join(altered)
        if proposal.confirm is not None and await proposal.confirm(
            f"change these tests, which do not pass as they were: {shown}"
        ):
            return "the person agreed"
        return ""


def _texts(copy: WorkingCopy, changes: Changes) -> tuple[dict[str, str], dict[str, str]]:
    """The changed Python files before and after, by their paths."""
    old: dict[str, str] = {}
    new: dict[str, str] = {}
    for path in changes.files:
        if path.endswith(".py"):
            before, after = copy.text(copy.base, path), copy.text(changes.after, path)
            if before is not None:
                old[path] = before
            if after is not None:
                new[path] = after
    return old, new


def _is_test(path: str) -> bool:
    return bool(_TEST.search(path) or _HELPER.search(path) or _SETTING.search(path))


def _without_tests(texts: dict[str, str]) -> dict[str, str]:
    return {path: text for path, text in texts.items() if not _is_test(path)}


def _only_tests(texts: dict[str, str]) -> list[str]:
    return [text for path, text in texts.items() if _is_test(path)]


def _judged(passed: bool, said: str) -> CheckMade:
    if not passed and said.startswith(_NO_TESTS):
        note = "there are no tests, so nothing shows that the change is right"
        return made(Tests.name, [], notes=[note])
    if not passed:
        return made(Tests.name, [f"The tests do not pass: {said}"])
    return made(Tests.name, [], evidence=[f"run_tests: {said}"])


def _is_altered(path: str, copy: WorkingCopy) -> bool:
    """A test of before that was changed or removed, or a setting of pytest, old or new."""
    if _SETTING.search(path):
        return True
    return path in copy.base.entries and bool(_TEST.search(path) or _HELPER.search(path))


def _skipped(said: str) -> int:
    match = _SKIPPED.search(said.partition("\n")[0])
    return int(match[1]) if match else 0


async def _as_before(
    proposal: Proposal,
    copy: WorkingCopy,
    changes: Changes,
    paths: list[str],
    tests: list[str],
    names: dict[str, str] | None = None,
) -> tuple[bool, str]:
    """The tests of before, run in a second copy in which these paths are as they were, but for
    `names`, which are exchanged in them."""
    place = await asyncio.to_thread(open_place, copy.folder.parent / "tests-as-before")
    try:
        folder = await asyncio.to_thread(copy.restored, paths, place, changes)
        if names:
            await asyncio.to_thread(_rename_in, folder, tests, names)
        return await _run(proposal, folder, tests)
    finally:
        await asyncio.to_thread(shutil.rmtree, place, True)


def _rename_in(folder: Path, tests: Sequence[str], names: dict[str, str]) -> None:
    """Exchange names in the files of tests, and in what stands beside them to help."""
    helpers = [each.relative_to(folder).as_posix() for each in folder.rglob("conftest.py")]
    for path in dict.fromkeys((*tests, *helpers)):
        file = folder / path
        if file.is_symlink() or not file.is_file():
            continue
        with contextlib.suppress(UnicodeDecodeError):
            text = file.read_text("utf-8")
            changed = with_names(text, names)
            if changed != text:
                file.write_text(changed, "utf-8")


async def _run(proposal: Proposal, folder: Path, targets: Sequence[str] = ()) -> tuple[bool, str]:
    """Whether the tests of a folder pass, and what pytest said."""
    context = dataclasses.replace(proposal.tools, workspace=folder)
    try:
        result = await RunTests().run({"target": list(targets)}, context)
    except ToolError as error:
        return False, error.message
    text = str(result.content).strip()
    return not result.is_error, text if result.is_error else text.splitlines()[0]
