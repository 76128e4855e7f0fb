"""How many wrong answers the checks catch, and how many right ones they refuse.

    python benchmarks/check_wrong_copies.py [--count 330] [--seed 0] [--show]

Right runs are those of `tests/agent/checks/data/right_runs.jsonl`: nano's own, over generated
worlds and the almanac, each passed by the task's verifier (`record_runs.py` records more). Into
them wrong copies are planted (`tests/agent/checks/wrong_copies.py`). Intervals are Wilson's, of
95 %.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from tests.agent.checks.replay import problems_of, read_runs  # noqa: E402
from tests.agent.checks.wrong_copies import planted  # noqa: E402

from nano_accuracy import wilson  # noqa: E402


def row(name: str, hits: int, count: int) -> str:
    low, high = wilson(hits, count)
    return f"{name:32} {hits:5}/{count:<5} {hits / max(1, count):7.1%} {low:7.1%} {high:7.1%}"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=330)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="what was missed or refused")
    options = parser.parse_args()
    runs = read_runs()
    refused, counts = Counter[str](), Counter[str]()
    for run in runs:
        counts[run["kind"]] += 1
        if problems := await problems_of(run):
            refused[run["kind"]] += 1
            if options.show:
                print("  refused:", run["question"], "->", run["answer"], problems)
    print("right runs refused")
    for kind, count in counts.items():
        print(row(kind, refused[kind], count))
    print(row("all", refused.total(), counts.total()), "(asked: at most 1 %)\n")
    caught, counts = Counter[str](), Counter[str]()
    for kind, run in planted(runs, options.count, options.seed):
        counts[kind] += 1
        if await problems_of(run):
            caught[kind] += 1
        elif options.show:
            told = [(str(c["arguments"])[:90], c["result"][:120]) for c in run["calls"][-3:]]
            print(f"  missed ({kind}):", run["question"], "->", run["answer"], told)
    print("wrong copies caught")
    for kind, count in counts.items():
        print(row(kind, caught[kind], count))
    print(row("all", caught.total(), counts.total()), "(asked: at least 95 %)")


if __name__ == "__main__":
    asyncio.run(main())
