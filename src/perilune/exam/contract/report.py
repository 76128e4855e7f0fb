"""The results as a table, as JSON and as JUnit XML. What a server said is foreign text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from rich.console import Console
from rich.table import Table
from rich.text import Text

from perilune.exam.contract.check import Level, Status
from perilune.exam.contract.runner import Result
from perilune.exam.contract.target import Exchange
from perilune.exam.contract.trigger import Similarity

EXCERPT = 600  # characters of a request or an answer
STYLES = {Status.PASSED: "green", Status.FAILED: "bold red", Status.SKIPPED: "dim"}


def asked(exchange: Exchange) -> str:
    """The request in one line."""
    sent = exchange.sent
    if isinstance(sent, bytes):
        body = sent.decode("utf-8", "replace")
    else:
        body = "" if sent is None else json.dumps(sent, ensure_ascii=False)
    return _short(f"{exchange.method} {exchange.path} {body}")


def came(exchange: Exchange) -> str:
    """The answer in one line."""
    return _short(f"{exchange.status} {exchange.body[: EXCERPT * 8].decode('utf-8', 'replace')}")


def as_json(results: Sequence[Result], about: dict[str, Any]) -> dict[str, Any]:
    return {**about, "summary": summary(results), "checks": [_row(result) for result in results]}


def summary(results: Sequence[Result]) -> dict[str, dict[str, int]]:
    """level -> status -> how many."""
    counts = Counter((result.check.level, result.status) for result in results)
    return {
        level.value: {status.value: counts[level, status] for status in Status} for level in Level
    }


def _row(result: Result) -> dict[str, Any]:
    check, exchange = result.check, result.exchange
    return {
        "id": check.id,
        "api": check.api,
        "level": check.level.value,
        "priority": check.priority or None,
        "status": result.status.value,
        "rule": check.rule,
        "why": check.why,
        "message": result.message or None,
        "asked": asked(exchange) if exchange else None,
        "came": came(exchange) if exchange else None,
        "seconds": round(result.seconds, 3),
    }


def as_junit(results: Sequence[Result], name: str) -> str:
    """JUnit XML, one test case a check."""
    failures = sum(result.status is Status.FAILED for result in results)
    skipped = sum(result.status is Status.SKIPPED for result in results)
    seconds = sum(result.seconds for result in results)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuite name={quoteattr(_xml(name))} tests="{len(results)}" failures="{failures}" '
        f'skipped="{skipped}" time="{seconds:.3f}">',
    ]
    for result in results:
        check = result.check
        group, _, _ = check.id.rpartition(".")
        lines.append(
            f"<testcase classname={quoteattr(f'{check.level.value}.{group}')} "
            f'name={quoteattr(check.id)} time="{result.seconds:.3f}">'
        )
        if result.status is Status.FAILED:
            detail = f"{check.rule}\nWhy: {check.why}"
            if result.exchange:
                detail += f"\nAsked: {asked(result.exchange)}\nCame: {came(result.exchange)}"
            lines.append(
                f"<failure message={quoteattr(_xml(result.message))}>"
                f"{escape(_xml(detail))}</failure>"
            )
        elif result.status is Status.SKIPPED:
            lines.append(f"<skipped message={quoteattr(_xml(result.message))}/>")
        lines.append("</testcase>")
    return "\n".join([*lines, "</testsuite>", ""])


def show(
    console: Console,
    results: Sequence[Result],
    similarity: Similarity | None,
    *,
    passed_too: bool = False,
) -> None:
    """The evidence of each failure, then the table of what did not pass, and the sums."""
    for result in results:
        if result.status is Status.FAILED:
            console.print(_evidence(result))
    table = Table(box=None, pad_edge=False, show_edge=False, expand=True)
    for column in ("check", "level", "result"):
        table.add_column(column, no_wrap=True)
    table.add_column("what", no_wrap=True, overflow="ellipsis", ratio=1)
    for result in results:
        if result.status is Status.PASSED and not passed_too:
            continue
        check = result.check
        table.add_row(
            check.id,
            f"{check.level.value} {check.priority}".rstrip(),
            Text(result.status.value, style=STYLES[result.status]),
            Text(_plain(result.message or check.rule)),
        )
    if table.row_count:
        console.print(table)
        console.print()
    for level, counts in summary(results).items():
        if sum(counts.values()):
            console.print(
                f"{level:<12} {counts['passed']:>4} passed {counts['failed']:>4} failed "
                f"{counts['skipped']:>4} skipped",
                highlight=False,
            )
    if similarity is not None:
        console.print(_similarity(similarity), highlight=False)


def _similarity(similarity: Similarity) -> str:
    f1 = "neither called" if similarity.f1 is None else f"F1 {similarity.f1:.1%}"
    accuracy = similarity.schema_accuracy
    fits = "" if accuracy is None else f", {accuracy:.1%} of the calls fit their schema"
    return (
        f"tool calls: {f1} against the reference over {similarity.samples} samples "
        f"({similarity.called} called here, {similarity.reference_called} there){fits}"
    )


def _evidence(result: Result) -> Text:
    check = result.check
    text = Text(f"{check.id}: ", style="bold")
    text.append(f"{_plain(result.message)}\n", style=STYLES[Status.FAILED])
    text.append(f"  rule:  {check.rule}\n  why:   {check.why}\n", style="not bold")
    if result.exchange:
        text.append(f"  asked: {_plain(asked(result.exchange))}\n", style="dim not bold")
        text.append(f"  came:  {_plain(came(result.exchange))}\n", style="dim not bold")
    return text


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= EXCERPT else f"{text[: EXCERPT - 1]}…"


def _plain(text: str) -> str:
    """Without control characters, which could move the cursor."""
    return "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text)


def _xml(text: str) -> str:
    """Without characters that XML 1.0 forbids."""
    return "".join(
        char
        if char in "\t\n" or "\x20" <= char <= "\ud7ff" or "\ue000" <= char <= "\ufffd"
        or char >= "\U00010000"
        else "\ufffd"
        for char in text
    )  # fmt: skip
