"""The oracle of repair tasks: reproduce, locate, repair, run the tests again."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import PurePosixPath
from typing import Literal

from perilune.agent.models.scripted import Call
from perilune.train.episodes import wording
from perilune.train.episodes.turn import LostError, Policy, Turn
from perilune.world.repair.modules import MODULES
from perilune.world.repair.mutations import apply, edits
from perilune.world.repair.task import smallest_edit
from perilune.world.seed import Stream
from perilune.world.solution import Answer, EditFile
from perilune.world.task import Task

Mistake = Literal["", "mismatch", "wrong_fix"]
MISTAKES: tuple[Mistake, ...] = ("mismatch", "wrong_fix")

NEAR = 4
"""How many of the other bugs of a file are near enough to be taken for its repair."""

_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


class Repairer:
    """Plays one repair. `together` reads the failing test and the broken file in one turn."""

    def __init__(
        self, task: Task, stream: Stream, *, together: bool = False, mistake: Mistake = ""
    ) -> None:
        self._task = task
        self._stream = stream
        self._together = together
        self._mistake = mistake
        (self._edit,) = (step for step in task.solution.serial if isinstance(step, EditFile))
        (self._answer,) = (step for step in task.solution.serial if isinstance(step, Answer))

    def play(self) -> Policy:
        path = self._edit.path
        wrong = self._task.files[path]
        right = wrong.replace(self._edit.old, self._edit.new)
        (report,) = yield self._turn("reproduce", Call("run_tests", {}))
        test = _failing(report)
        paths = [path, test.split("::")[0]] if self._together else [path]
        said = self._say("locate", test=test.split("::")[-1], path=path)
        calls = [Call("read_file", {"path": each}) for each in dict.fromkeys(paths)]
        results = yield Turn(said, tuple(calls))
        if any(text.startswith("Error") for text in results):
            raise LostError(f"{path} cannot be read")
        if self._mistake == "mismatch":
            (text,) = yield self._turn("repair", _call(_misquoted(self._edit)), mistake="mismatch")
            if "nothing was changed" not in text:
                raise LostError("an edit of a text that is not there was not refused")
            (text,) = yield self._turn("mismatch", _call(self._edit))
        elif self._mistake == "wrong_fix":
            (text,) = yield from self._correct_twice(wrong, right)
        else:
            (text,) = yield self._turn("repair", _call(self._edit))
        if not text.startswith("changed"):
            raise LostError(f"the edit was refused: {text}")
        (report,) = yield self._turn("check", Call("run_tests", {}))
        if _FAILED.search(report) or " passed" not in report:
            raise LostError("tests fail after the repair")
        yield Turn(self._say("green"), answer=self._answer.text)

    def _correct_twice(self, wrong: str, right: str) -> Generator[Turn, list[str], list[str]]:
        """Change the right lines in a wrong way, see that the tests fail, and do it right."""
        path = self._edit.path
        other = self._wrong_fix(wrong, right)
        first = smallest_edit(path, wrong, other)
        (text,) = yield self._turn("repair", _call(first), mistake="wrong_fix")
        if not text.startswith("changed"):
            raise LostError(f"the edit was refused: {text}")
        (report,) = yield self._turn("check", Call("run_tests", {}))
        test = _failing(report).split("::")[-1]
        said = self._say("not_it", test=test)
        return (yield Turn(said, (_call(smallest_edit(path, other, right)),)))

    def _wrong_fix(self, wrong: str, right: str) -> str:
        """The file with another bug in place of this one, near it; visible tests catch that too."""
        path = self._edit.path
        bugs = MODULES[PurePosixPath(path).stem].bugs
        others = {apply(right, edits(right, mutation)[site]) for mutation, site in bugs} - {wrong}
        near = sorted(others, key=lambda text: (len(smallest_edit(path, wrong, text).old), text))
        return self._stream.pick(near[:NEAR])

    def _say(self, key: str, **fields: str) -> str:
        return wording.sentence(key, self._stream, **fields)

    def _turn(self, key: str, call: Call, *, mistake: str = "") -> Turn:
        return Turn(self._say(key), (call,), mistake=mistake)


def _call(edit: EditFile) -> Call:
    return Call("edit_file", {"path": edit.path, "old": edit.old, "new": edit.new})


def _misquoted(edit: EditFile) -> EditFile:
    """The edit with one space too many in what it looks for."""
    body = edit.old.lstrip()
    indent = edit.old[: len(edit.old) - len(body)]
    old = indent + (body.replace(" ", "  ", 1) if " " in body.strip() else f" {body}")
    return EditFile(edit.path, old, edit.new)


def _failing(report: str) -> str:
    """The first failing test of a report."""
    match = _FAILED.search(report)
    if match is None:
        raise LostError(f"no test fails: {report[:200]}")
    return match[1]
