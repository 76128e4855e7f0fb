"""How well and how fast the almanac answers: 200 questions, each in two phrasings.

    python benchmarks/almanac_search.py [--questions 200] [--seed 0] [--repeats 5]

A query's time is the best of the repeats, so that others on the machine count less; the worst
first call is printed, too. Limits: the right article among the first 3 hits for 95 % of the
questions, 5 ms a query.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from perilune.search.almanac import Almanac, questions

LIMIT_SHARE = 0.95
LIMIT_MS = 5.0
HITS = 8  # what the tool asks for


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    began = time.perf_counter()
    almanac = Almanac()
    print(f"{len(almanac):,} articles, opened in {1e3 * (time.perf_counter() - began):.1f} ms")
    asked = questions(given.questions, seed=given.seed)
    for style in ("plain", "colloquial"):
        articles = first = within = 0
        searches, facts = Times(), Times()
        for question in asked:
            text = getattr(question, style)
            hits = searches.measure(lambda text=text: almanac.search(text, HITS), given.repeats)
            lines = facts.measure(lambda text=text: almanac.facts(text, HITS), given.repeats)
            wanted = (question.address, question.attribute)
            articles += question.address in [hit.url for hit in hits[:3]]
            first += bool(lines) and (lines[0].address, lines[0].attribute) == wanted
            within += wanted in [(line.address, line.attribute) for line in lines[:3]]
        share = articles / len(asked)
        print(f"\n{style}: {len(asked)} questions")
        print(f"  article in the first 3   {share:7.1%}   limit {LIMIT_SHARE:.0%}")
        print(f"  fact first / in first 3  {first / len(asked):7.1%} / {within / len(asked):.1%}")
        print(f"  search  {searches}   limit {LIMIT_MS:.0f} ms")
        print(f"  facts   {facts}   limit {LIMIT_MS:.0f} ms")


class Times:
    """Times of different queries, in milliseconds."""

    def __init__(self) -> None:
        self.best: list[float] = []
        self.first: list[float] = []

    def measure(self, query: Callable[[], list], repeats: int) -> list:
        taken = []
        for _ in range(repeats):
            began = time.perf_counter()
            answer = query()
            taken.append(1e3 * (time.perf_counter() - began))
        self.first.append(taken[0])
        self.best.append(min(taken))
        return answer

    def __str__(self) -> str:
        return (
            f"median {statistics.median(self.best):5.2f} ms, slowest {max(self.best):5.2f} ms "
            f"(first calls: {max(self.first):5.2f} ms)"
        )


if __name__ == "__main__":
    main()
