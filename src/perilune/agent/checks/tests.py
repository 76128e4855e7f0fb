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
from pathlib import Path

from perilune.agent.tools.run_tests.tool import RunTests
from perilune.agent.verify import Proposal, made
from perilune.agent.working_copy import Changes, WorkingCopy, open_place
from perilune.errors import ToolError
from perilune.events import CheckMade

_TEST = re.compile(
    r"(?:^|/)(?:test_[^/]*\.py|[^/]*_test\.py|conftest\.py|pytest\.ini|tox\.ini|setup\.cfg|"
    r"pyproject\.toml)$|(?:^|/)tests?/"
)
_NO_TESTS = "no test was found"


class Tests:
    """The tests pass. Without changes there is nothing to test; without tests that is noted."""

    name = "tests"
    __test__ = False  # no class of tests

    async def examine(self, proposal: Proposal) -> CheckMade | None:
        copy = proposal.copy
        changes = (
            await asyncio.to_thread(copy.changes, f"{proposal.tools.run_id}-check")
            if copy
            else None
        )
        if changes is not None and not changes:
            return None
        passed, said = await _run(proposal, proposal.workspace)
        if not passed and said.startswith(_NO_TESTS):
            note = "there are no tests, so nothing shows that the change is right"
            return made(self.name, [], notes=[note])
        if not passed:
            return made(self.name, [f"The tests do not pass: {said}"])
        evidence = [f"run_tests: {said}"]
        altered = [
            path
            for path in (changes.files if changes else ())
            if _TEST.search(path) and copy is not None and path in copy.base.entries
        ]
        if altered and copy is not None and changes is not None:
            passed, said = await self._as_they_were(proposal, copy, changes, altered)
            if not passed:
                names = ", ".join(altered[:5])
                text = f"You changed tests ({names}). As they were before, they do not pass: {said}"
                return made(self.name, [text], evidence=evidence)
            evidence.append(f"run_tests with {', '.join(altered)} as before: {said}")
        return made(self.name, [], evidence=evidence)

    async def _as_they_were(
        self, proposal: Proposal, copy: WorkingCopy, changes: Changes, altered: list[str]
    ) -> tuple[bool, str]:
        place = await asyncio.to_thread(open_place, copy.folder.parent / "tests-as-before")
        try:
            folder = await asyncio.to_thread(copy.restored, altered, place, changes)
            return await _run(proposal, folder)
        finally:
            await asyncio.to_thread(shutil.rmtree, place, True)


async def _run(proposal: Proposal, folder: Path) -> tuple[bool, str]:
    """Whether all tests of a folder pass, and what pytest said."""
    context = dataclasses.replace(proposal.tools, workspace=folder)
    try:
        result = await RunTests().run({}, context)
    except ToolError as error:
        return False, error.message
    text = str(result.content).strip()
    return not result.is_error, text if result.is_error else text.splitlines()[0]
