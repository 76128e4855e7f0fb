"""How often the checks refuse an ordinary answer: advice on code, operations, cooking, arithmetic.

    python benchmarks/check_false_alarms.py [--show]

The answers are those of `tests/agent/checks/data/advice.jsonl`, written by hand, in a dozen
languages, each after a scripted run (`ls`, a file read, tests run, a search, or nothing). They go
through the checks that a task without a recipe has, and `code` but for its tests. Intervals are
Wilson's, of 95 %.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from tests.agent.checks.replay import advice_problems, read_runs  # noqa: E402

from check_wrong_copies import row  # noqa: E402


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--show", action="store_true", help="what was refused")
    options = parser.parse_args()
    runs = read_runs("advice.jsonl")
    refused, checks = Counter[str](), ["citations", "numbers", "facts", "code"]
    answers = 0
    for run in runs:
        found = await advice_problems(run)
        refused.update(name for name, problems in found.items() if problems)
        answers += any(found.values())
        if options.show and any(found.values()):
            print("  refused:", run["answer"], found)
    for name in checks:
        print(row(name, refused[name], len(runs)))
    print(row("any check (bar: at most 1 %)", answers, len(runs)))


if __name__ == "__main__":
    asyncio.run(main())
