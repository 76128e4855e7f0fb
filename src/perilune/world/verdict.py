"""What a verifier says, and what it is asked: the common ground of all verifiers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from perilune.world.numbers import plain

Cell = str | int | float
Submitted = Cell | Sequence[Cell] | Sequence[Mapping[str, Cell]] | Mapping[str, Cell]
"""An answer as text, or as the value that it stands for: number, list, table rows."""

LONGEST_ANSWER = 40
"""Words of a short answer's sentence; who says more has not answered."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`score` is 0 to 1; `passed` means that the whole answer is right. `reason` says why not."""

    passed: bool
    score: float
    reason: str


RIGHT = Verdict(True, 1.0, "right")


def wrong(reason: str, score: float = 0.0) -> Verdict:
    """A verdict against an answer."""
    return Verdict(False, score, reason)


class Verifier(Protocol):
    """Decides about an answer. `type` names the kind of answer that it expects."""

    @property
    def type(self) -> str: ...

    def verify(self, answer: Submitted, workspace: Path | None) -> Verdict: ...


_MARKED = re.compile(
    r"^[ \t*_#>-]*(?:the )?(?:final )?answer(?: is)?[ *_`]*[:=][ \t*_`]*", re.IGNORECASE | re.M
)
_CITED = re.compile(r"\s*\[ev:[0-9a-f]+\]")
_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")


def as_text(answer: Submitted) -> str:
    """An answer as text; structured ones in the form that the verifiers read."""
    if isinstance(answer, str):
        return answer
    if isinstance(answer, bool) or not isinstance(answer, int | float | Sequence | Mapping):
        return ""
    if isinstance(answer, int | float):
        return str(answer)
    if isinstance(answer, Sequence) and not any(isinstance(each, Mapping) for each in answer):
        return ", ".join(str(each) for each in answer)
    return json.dumps(answer, ensure_ascii=False)


def final_answer(answer: Submitted) -> str:
    """The part of an answer that counts: after the last "Answer:", in the last box, or all.

    Citations of evidence, `[ev:1a2b3c4d]`, are left out.
    """
    text = _CITED.sub("", as_text(answer)).strip()
    boxed = _BOXED.findall(text)
    if boxed:
        return str(boxed[-1]).strip()
    marks = list(_MARKED.finditer(text))
    if marks:
        text = text[marks[-1].end() :].strip()
    if text.startswith("{") and text.endswith("}"):
        try:
            fields = json.loads(text)
        except ValueError:
            return text
        if isinstance(fields, dict) and list(fields) == ["answer"]:
            return as_text(fields["answer"]).strip()
    return text


def words(text: str) -> list[str]:
    """The words of a text, case-folded, without Markdown marks."""
    return [word.casefold() for word in re.findall(r"[^\W\d_]+", plain(text))]


def f1(expected: int, given: int, right: int) -> float:
    """Harmonic mean of precision and recall; 0 where nothing is right."""
    return 2 * right / (expected + given) if right else 0.0
