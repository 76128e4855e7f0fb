"""How many tasks the oracle solves through the real loop, tools and sandbox, and how fast.

    python benchmarks/oracle_episodes.py --count 2000 --jobs 2
    python benchmarks/oracle_episodes.py --family code_repair --count 200

Bar: every task of every family verified. Exits with 1 where one is not.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from perilune.train.episodes import Rejected, record_all
from perilune.world import FAMILIES, Seed, Split


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--family", action="append", choices=list(FAMILIES))
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    failed = 0
    print(f"{'family':<16}{'tasks':>7}{'verified':>10}{'mistakes':>10}{'steps':>7}{'per s':>8}")
    for family in arguments.family or FAMILIES:
        wanted = [(Seed(Split.TRAIN, arguments.seed + n), family) for n in range(arguments.count)]
        seen: Counter[str] = Counter()
        rejected: list[Rejected] = []
        began = time.monotonic()
        for episode in record_all(wanted, jobs=arguments.jobs):
            if isinstance(episode, Rejected):
                rejected.append(episode)
            else:
                seen.update(verified=1, mistakes=bool(episode.mistakes), steps=episode.steps)
        rate = len(wanted) / (time.monotonic() - began)
        steps = seen["steps"] / max(1, seen["verified"])
        counts = f"{len(wanted):>7}{seen['verified']:>10}{seen['mistakes']:>10}"
        print(f"{family:<16}{counts}{steps:>7.1f}{rate:>8.1f}", flush=True)
        for bad in rejected[:10]:
            print(f"  rejected: seed {bad.seed.index}: {bad.reason}", flush=True)
        failed += len(rejected)
    print(f"bar: all verified. {'kept' if not failed else f'{failed} rejected'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
