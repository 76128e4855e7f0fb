"""What nano can do, on tasks that it has never seen, through the real loop and tools, greedily.

    python benchmarks/nano_accuracy.py [--model DIR] [--count 500] [--family NAME ...] [--json FILE]

Worlds, names and entities come from exam seeds, which training cannot draw from. Each row gives the
share that the task's own verifier passed, with a Wilson interval of 95 %, beside the asked share.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perilune.agent.evidence.store import CITATION
from perilune.agent.models.engine import EngineModel
from perilune.agent.tool import ToolContext, ToolResult
from perilune.errors import ToolError
from perilune.events import Record, ToolFinished
from perilune.nano.agent import nano_agent, nano_folder
from perilune.nano.tools import CompactLookup, CompactPython
from perilune.nano.training.facts import facts_of_seed
from perilune.search.almanac import questions as almanac_questions
from perilune.search.almanac.text import key
from perilune.search.facts import FactStore
from perilune.world.families import generate_task
from perilune.world.seed import Seed, Split

FAULTS = ("the request timed out", "the service is overloaded, try again", "connection reset")


@dataclass(frozen=True)
class Case:
    """A question, the facts it is asked over, who judges, and which call fails, if any."""

    question: str
    store: FactStore | None
    judge: Callable[[str], bool]
    fault: int | None = None


@dataclass
class Tally:
    passed: int = 0
    count: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[str, str]] = field(default_factory=list)


class FaultyLookup:
    """`lookup` whose first call fails, or finds nothing."""

    name = "lookup"
    side_effects = False
    parallel_safe = True
    timeout = 30.0

    def __init__(self, store: FactStore | None, fault: int) -> None:
        self._lookup = CompactLookup(store)
        self.description, self.parameters = self._lookup.description, self._lookup.parameters
        self._fault, self._calls = fault, 0

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        self._calls += 1
        if self._calls == 1:
            if self._fault % (len(FAULTS) + 1) == len(FAULTS):
                return ToolResult("Not found.")
            raise ToolError(FAULTS[self._fault % len(FAULTS)])
        return await self._lookup.run(arguments, context)


def says_so(answer: str) -> bool:
    """Whether an answer admits that it does not know."""
    return "unknown" in answer.casefold() or "could not" in answer.casefold()


def world_cases(
    family: str, count: int, sizes: tuple[int, ...] = (), *, reserved: bool = False
) -> Iterator[Case]:
    for index in range(count):
        seed = Seed(Split.EXAM, index)
        size = sizes[index % len(sizes)] if sizes else None
        task = generate_task(seed, family, size=size, reserved_phrasing=reserved)
        yield Case(
            task.prompt, facts_of_seed(seed), lambda answer, task=task: task.verify(answer).passed
        )


def almanac_cases(count: int, style: str, seed: int) -> Iterator[Case]:
    """Real questions about entities that training keeps away from. `style`: "plain" (phrasings
    that were trained), "colloquial" (not trained, but the tool's aliases were made with them in
    mind) or "unseen" (an author's who knew neither; nothing was tuned on them)."""
    for question in almanac_questions(count, seed=seed):
        asked = getattr(question, style)
        yield Case(asked, None, lambda answer, q=question: says(answer, q.answer))


def says(answer: str, value: float | str) -> bool:
    """Whether an answer gives a value: the number, or all of the text up to its first comma."""
    said = CITATION.sub("", answer)
    if isinstance(value, str):
        return key(value.split(",")[0]) in key(said)
    return any(float(each) == value for each in re.findall(r"-?\d+(?:\.\d+)?", said))


def mixed(*cases: Iterator[Case]) -> Iterator[Case]:
    for each in zip(*cases, strict=True):
        yield from each


def faulty_cases(count: int) -> Iterator[Case]:
    for index, case in enumerate(world_cases("lookup", count)):
        yield Case(
            case.question, case.store,
            lambda answer, case=case: case.judge(answer) or says_so(answer), fault=index,
        )  # fmt: skip


def families(count: int, seed: int) -> dict[str, tuple[float, Callable[[], Iterator[Case]]]]:
    """Row -> (share asked for, its cases)."""
    half, third = count // 2, count // 3
    rows: dict[str, tuple[float, Callable[[], Iterator[Case]]]] = {
        "lookup": (0.97, lambda: world_cases("lookup", count)),
        "reverse lookup": (0.97, lambda: world_cases("reverse_lookup", count)),
        "2 to 4 hops": (0.88, lambda: world_cases("hops", count, (2, 3, 4))),
        "arithmetic by python, 2 to 4 entities": (
            0.88, lambda: world_cases("arithmetic", count, (2, 3, 4)),
        ),
        "comparison of 2 to 4": (0.92, lambda: world_cases("comparison", count, (2, 3, 4))),
        "unanswerable": (0.85, lambda: world_cases("unanswerable", count)),
        "empty hits, tool errors": (0.85, lambda: faulty_cases(count)),
        "real almanac questions": (0.85, lambda: almanac_cases(min(count, 200), "plain", seed)),
        "... in colloquial phrasings": (
            0.70, lambda: almanac_cases(min(count, 200), "colloquial", seed),
        ),
        "... in phrasings of an outsider": (
            0.70, lambda: almanac_cases(min(count, 200), "unseen", seed),
        ),
        "lookup, reserved phrasings": (
            0.0, lambda: world_cases("lookup", count, reserved=True),
        ),
        "hops and arithmetic, reserved phrasings": (
            0.0,
            lambda: mixed(
                world_cases("hops", half, (2, 3), reserved=True),
                world_cases("arithmetic", half, (2, 3), reserved=True),
            ),
        ),
        "selection, conflicts": (
            0.0,
            lambda: mixed(world_cases("selection", third, (3, 4)), world_cases("conflict", third)),
        ),
    }  # fmt: skip
    return rows


async def examine(model: EngineModel, cases: Iterator[Case], streams: int) -> Tally:
    """Run all cases, `streams` at a time."""
    tally = Tally()
    room = asyncio.Semaphore(streams)

    async def one(case: Case, home: Path) -> None:
        def listen(record: Record) -> None:
            if isinstance(record.event, ToolFinished):
                tally.calls[record.event.outcome] += 1

        async with room:
            agent = nano_agent(model, case.store, workspace=home, home=home, on_record=listen)
            if case.fault is not None:
                agent.tools = [FaultyLookup(case.store, case.fault), CompactPython()]
            answer = (await agent.arun(case.question)).answer
        tally.count += 1
        if case.judge(answer):
            tally.passed += 1
        elif len(tally.wrong) < 5:
            tally.wrong.append((case.question, answer))

    with tempfile.TemporaryDirectory() as home:
        async with asyncio.TaskGroup() as group:
            for case in cases:
                group.create_task(one(case, Path(home)))
    return tally


def wilson(passed: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share (Wilson 1927)."""
    if not count:
        return 0.0, 1.0
    share, spread = passed / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return middle - half, middle + half


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=nano_folder())
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--family", action="append", help="rows whose name holds this")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1, help="of the questions about the almanac")
    parser.add_argument("--show", action="store_true", help="some wrong answers")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = EngineModel.from_pretrained(options.model)
    await model.prepare()
    out, calls = {}, Counter[str]()
    print(f"{'family':42} {'passed':>10} {'share':>7} {'95 % interval':>15} {'asked':>6} {'s':>6}")
    for name, (asked, cases) in families(options.count, options.seed).items():
        if options.family and not any(each in name for each in options.family):
            continue
        began = time.monotonic()
        tally = await examine(model, cases(), options.streams)
        calls += tally.calls
        low, high = wilson(tally.passed, tally.count)
        share = tally.passed / max(1, tally.count)
        print(
            f"{name:42} {tally.passed:5}/{tally.count:<4} {share:7.1%} {low:7.1%} {high:7.1%} "
            f"{asked or '':>6} {time.monotonic() - began:6.0f}",
            flush=True,
        )
        if options.show:
            for question, answer in tally.wrong:
                print(f"    {question}\n      -> {answer!r}")
        out[name] = {"passed": tally.passed, "count": tally.count, "low": low, "high": high}
    valid = sum(calls.values()) - calls["refused"]
    low, high = wilson(valid, sum(calls.values()))
    share = valid / max(1, sum(calls.values()))
    print(
        f"{'valid tool calls without grammar':42} {valid:5}/{sum(calls.values()):<4} {share:7.1%} "
        f"{low:7.1%} {high:7.1%} {0.98:>6}"
    )
    out["valid tool calls"] = {
        "passed": valid,
        "count": sum(calls.values()),
        "low": low,
        "high": high,
    }
    if options.json:
        options.json.write_text(json.dumps(out, indent=1) + "\n", "utf-8")
    await model.close()


if __name__ == "__main__":
    asyncio.run(main())
