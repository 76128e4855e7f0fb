"""An exam's results as a table, as Markdown and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from perilune.exam.suites.runner import Exam, Result
from perilune.exam.suites.statistics import pass_at_k, wilson

HEAD = ("category", "questions", "right", "95 % interval", "score", "steps")


@dataclass(frozen=True, slots=True)
class Row:
    """A category, or all of them. With several samples per question, `rate` is their mean, and the
    interval is that of as many questions."""

    name: str
    questions: int
    rate: float
    low: float
    high: float
    score: float
    steps: float


def rows(exam: Exam) -> list[Row]:
    """A row a category, in the order of the manifest, and one for all."""
    found = [
        _row(category, of_it)
        for category in exam.manifest.categories
        if (of_it := [each for each in exam.results if each.category == category])
    ]
    return [*found, _row("all", exam.results)]


def _row(name: str, results: Sequence[Result]) -> Row:
    questions = len({each.id for each in results})
    count = max(1, len(results))
    rate = sum(each.passed for each in results) / count
    low, high = wilson(rate * questions, questions)
    score = sum(each.score for each in results) / count
    steps = sum(each.steps for each in results) / count
    return Row(name, questions, rate, low, high, score, steps)


def pass_at(exam: Exam) -> dict[int, float]:
    """pass@k for 1 and the number of samples, and powers of two between."""
    samples = exam.manifest.samples
    ks = sorted({1, samples, *(2**n for n in range(samples.bit_length()) if 2**n <= samples)})
    asked = Counter(each.id for each in exam.results)
    right = Counter(each.id for each in exam.results if each.passed)
    whole = [name for name, count in asked.items() if count == samples]
    if not whole:
        return {}
    return {k: sum(pass_at_k(samples, right[name], k) for name in whole) / len(whole) for k in ks}


def as_json(exam: Exam) -> dict[str, Any]:
    """The report as one object."""
    return {
        **msgspec.to_builtins(exam.manifest),
        "rows": [
            {
                "category": row.name,
                "questions": row.questions,
                "rate": round(row.rate, 4),
                "interval_95": [round(row.low, 4), round(row.high, 4)],
                "score": round(row.score, 4),
                "steps": round(row.steps, 2),
            }
            for row in rows(exam)
        ],
        "pass_at": {str(k): round(value, 4) for k, value in pass_at(exam).items()},
        "tokens": sum(each.usage.total_tokens for each in exam.results),
        "seconds": round(sum(each.seconds for each in exam.results), 1),
    }


def _cells(exam: Exam) -> list[tuple[str, ...]]:
    return [
        (
            row.name,
            str(row.questions),
            f"{row.rate:.1%}",
            f"{row.low:.1%} to {row.high:.1%}",
            f"{row.score:.3f}",
            f"{row.steps:.1f}",
        )
        for row in rows(exam)
    ]


def _about(exam: Exam) -> str:
    manifest = exam.manifest
    samples = f", {manifest.samples} answers each" if manifest.samples > 1 else ""
    return f"{manifest.suite} ({manifest.version}), seed {manifest.seed}{samples}: {manifest.model}"


def _pass_line(exam: Exam) -> str:
    return ", ".join(f"pass@{k} {value:.1%}" for k, value in pass_at(exam).items())


def as_table(exam: Exam) -> str:
    """The report for a terminal."""
    cells = [HEAD, *_cells(exam)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(HEAD))]
    lines = [
        "  ".join(
            text.ljust(width) if at == 0 else text.rjust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    extra = [_pass_line(exam)] if exam.manifest.samples > 1 else []
    return "\n".join([_about(exam), *lines, *extra])


def as_markdown(exam: Exam, *, wrong: int = 20) -> str:
    """The report as a page, with the first wrong answers and why they are wrong."""
    lines = [f"# {_about(exam)}", ""]
    lines += [f"| {' | '.join(HEAD)} |", f"| --- |{' ---: |' * (len(HEAD) - 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in _cells(exam)]
    if exam.manifest.samples > 1:
        lines += ["", _pass_line(exam)]
    failed = [each for each in exam.results if not each.passed]
    if failed:
        shown = f", the first {wrong}" if len(failed) > wrong else ""
        lines += ["", f"## {len(failed)} wrong answers{shown}", ""]
        lines += [f"- `{each.id}`: {_one_line(each.reason)}" for each in failed[:wrong]]
    return "\n".join(lines) + "\n"


def _one_line(text: str, most: int = 200) -> str:
    text = " ".join(text.replace("|", "/").split())
    return text if len(text) <= most else f"{text[:most]}..."
