"""The tests of the workspace pass: as they are now, and those that were there before as they were.

They are run here, in the sandbox, whatever the model says about them. Test files and pytest's
settings that the run changed or removed are laid back in a second copy and run there too, so that
weakening a test gains nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from perilune.agent.tools.run_tests.tool import RunTests
from perilune.agent.verify import Proposal, made
from perilune.agent.working_copy import Changes, WorkingCopy, open_place
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
            if not passed:
                text = f"You changed {names}. With them as before, the tests do not pass: {said}"
                return made(self.name, [text], evidence=evidence)
            evidence.append(f"run_tests with {names} as before: {said}")
        if (skipped := _skipped(said)) > 0:
            everything = [*changes.paths]
            _, base = await _as_before(proposal, copy, changes, everything, before)
            if _skipped(base) < skipped:
                text = f"Your change makes tests be skipped: {said}; before it was: {base[:200]}"
                return made(self.name, [text], evidence=evidence)
        return made(self.name, [], evidence=evidence)


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
    proposal: Proposal, copy: WorkingCopy, changes: Changes, paths: list[str], tests: list[str]
) -> tuple[bool, str]:
    """The tests of before, run in a second copy in which these paths are as they were."""
    place = await asyncio.to_thread(open_place, copy.folder.parent / "tests-as-before")
    try:
        folder = await asyncio.to_thread(copy.restored, paths, place, changes)
        return await _run(proposal, folder, tests)
    finally:
        await asyncio.to_thread(shutil.rmtree, place, True)


async def _run(proposal: Proposal, folder: Path, targets: Sequence[str] = ()) -> tuple[bool, str]:
    """Whether the tests of a folder pass, and what pytest said."""
    context = dataclasses.replace(proposal.tools, workspace=folder)
    try:
        result = await RunTests().run({"target": list(targets)}, context)
    except ToolError as error:
        return False, error.message
    text = str(result.content).strip()
    return not result.is_error, text if result.is_error else text.splitlines()[0]
