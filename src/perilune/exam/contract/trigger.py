"""Trigger similarity: does this server call tools where a reference server calls them?

Requests with tools and tool_choice auto are asked of both, once each; the decisions (finish_reason
tool_calls or not) are compared by F1, as Moonshot compares vendors with its own API. The requests
are our own; two runs of the reference against each other give the noise.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from perilune.errors import UsageError
from perilune.exam.contract.check import Violation
from perilune.exam.contract.target import Target
from perilune.exam.contract.tools import check_calls, from_plain

PLACES = ("Oslo", "Lima", "Pune", "Accra", "Hobart", "Tartu", "Quito", "Suva")
THINGS = ("a lamp", "two notebooks", "a kayak", "green tea", "a bicycle pump", "chess pieces")


def _tool(name: str, description: str, **properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            },
        },
    }


_TEXT = {"type": "string", "maxLength": 60}
_COUNT = {"type": "integer", "minimum": 1, "maximum": 999}
# tool -> questions that need it; {place}, {thing} and {number} are filled in.
NEEDED: tuple[tuple[dict[str, Any], tuple[str, ...]], ...] = (
    (
        _tool("get_weather", "The weather of a place today.", place=_TEXT),
        ("Do I need an umbrella in {place} today?", "How cold is it in {place} right now?"),
    ),
    (
        _tool("search_shop", "Search the shop's stock.", query=_TEXT, limit=_COUNT),
        ("Do you have {thing} in stock?", "Show me {number} offers for {thing}."),
    ),
    (
        _tool("book_room", "Book a meeting room.", place=_TEXT, people=_COUNT),
        ("Book a room in {place} for {number} people.", "We are {number} in {place}: a room, "
         "please."),
    ),
    (
        _tool("read_file", "Read a file of the project.", path=_TEXT),
        ("What does notes/{number}.txt say?", "Summarise docs/chapter{number}.md."),
    ),
)  # fmt: skip
UNNEEDED = (
    "Thanks, that is all for today.",
    "What is {number} plus {number}?",
    "Write one sentence about {place} as a name for a cat.",
    "Translate 'good morning' into French.",
    "Say which of these words is longest: moon, tide, lantern.",
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a server did with one sample."""

    sample: int
    called: bool
    fits: bool  # every call's arguments fit its schema
    finish_reason: str


def draw_samples(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Chat requests without a model: messages and tools. Two of three need a tool."""
    rng = random.Random(seed)  # noqa: S311
    for _ in range(count):
        tools = [tool for tool, _ in rng.sample(NEEDED, rng.randint(1, len(NEEDED)))]
        names = {tool["function"]["name"] for tool in tools}
        questions = [q for tool, qs in NEEDED if tool["function"]["name"] in names for q in qs]
        template = rng.choice(questions if rng.random() < 0.67 else UNNEEDED)
        question = template.format(
            place=rng.choice(PLACES), thing=rng.choice(THINGS), number=rng.randint(2, 90)
        )
        messages = [{"role": "user", "content": question}]
        if rng.random() < 0.5:
            messages.insert(0, {"role": "system", "content": "Use a tool when it helps."})
        yield {"messages": messages, "tools": tools}


def decide(target: Target, count: int, seed: int, parallel: int = 4) -> list[Decision]:
    """Ask every sample. A sample that gets no answer counts as not called. Keeps the order."""

    def ask(numbered: tuple[int, dict[str, Any]]) -> Decision:
        number, sample = numbered
        try:
            called = from_plain(target.chat(max_tokens=target.settings.call_tokens, **sample))
        except Violation as violation:
            return Decision(number, False, False, f"error: {violation}"[:200])
        fits = True
        try:
            check_calls(called, sample["tools"])
        except Violation:
            fits = False
        return Decision(number, called.finish == "tool_calls", fits, str(called.finish))

    with ThreadPoolExecutor(parallel) as pool:
        return list(pool.map(ask, enumerate(draw_samples(count, seed))))


@dataclass(frozen=True, slots=True)
class Similarity:
    """F1 of the decisions against the reference's, and how many called arguments fit."""

    samples: int
    called: int
    reference_called: int
    f1: float | None  # None: neither called at all
    schema_accuracy: float | None  # None: there was no call


def compare(ours: Sequence[Decision], reference: Sequence[Decision]) -> Similarity:
    """Raises UsageError when the two are not of the same samples."""
    if [d.sample for d in ours] != [d.sample for d in reference]:
        raise UsageError(
            f"the reference has {len(reference)} samples, this run {len(ours)}",
            remedy="Use the same --samples and --seed for both",
        )
    both = sum(a.called and b.called for a, b in zip(ours, reference, strict=True))
    mine, theirs = sum(d.called for d in ours), sum(d.called for d in reference)
    called = [d for d in ours if d.called]
    return Similarity(
        len(ours), mine, theirs,
        2 * both / (mine + theirs) if mine + theirs else None,
        sum(d.fits for d in called) / len(called) if called else None,
    )  # fmt: skip


def write_decisions(decisions: Sequence[Decision], path: Path) -> None:
    path.write_text("".join(json.dumps(asdict(d)) + "\n" for d in decisions), "utf-8")


def read_decisions(path: Path) -> list[Decision]:
    """Raises UsageError when the file is no such record."""
    try:
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        return [
            Decision(int(r["sample"]), bool(r["called"]), bool(r["fits"]), str(r["finish_reason"]))
            for r in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a record of decisions: {error}") from None
