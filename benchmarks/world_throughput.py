"""How fast worlds become training text, and what a world and a task cost, on one core.

Bar: 80,000 tokens per second and core. Tokens are counted twice: four bytes each, and by a rule
that is near a small byte-level BPE (every digit and mark one token, words in pieces of up to four
letters with their leading space). Processor time is counted, so a busy machine does not matter
much; the median of several rounds is shown.

    python benchmarks/world_throughput.py [--documents 400] [--rounds 5] [--json]
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable

from perilune.world import FAMILIES, Seed, Split, Style, generate_task, render_document
from perilune.world.world import generate_world

PIECE = re.compile(r" ?[^\W\d_]{1,4}|\d|[^\w\s]|\s|_")
BAR = 80_000


def texts_of_worlds(first: int, count: int) -> list[str]:
    """All articles of worlds, prose and lines in turn."""
    return [
        article.text
        for index in range(first, first + count)
        for article in generate_world(Seed(Split.TRAIN, index)).articles(tuple(Style)[index % 2])
    ]


def documents(first: int, count: int) -> list[str]:
    """Documents with questions, each of a fresh world."""
    return [render_document(Seed(Split.TRAIN, index)) for index in range(first, first + count)]


def measure(make: Callable[[int, int], list[str]], count: int, rounds: int) -> dict[str, float]:
    """Median over rounds of tokens per second, by both counts."""
    by_bytes, by_pieces, size = [], [], 0
    for number in range(rounds):
        generate_world.cache_clear()
        start = time.process_time()
        texts = make(number * count, count)
        seconds = time.process_time() - start
        size = sum(len(text.encode()) for text in texts)
        by_bytes.append(size / 4 / seconds)
        by_pieces.append(sum(len(PIECE.findall(text)) for text in texts) / seconds)
    return {
        "tokens_per_s_4_bytes": statistics.median(by_bytes),
        "tokens_per_s_pieces": statistics.median(by_pieces),
        "bytes_each": size / count,
    }


def task_cost(family: str, count: int, first: int) -> float:
    """Milliseconds for one task with its fresh world, articles not written."""
    generate_world.cache_clear()
    start = time.process_time()
    for index in range(first, first + count):
        generate_task(Seed(Split.TRAIN, index), family)
    return (time.process_time() - start) / count * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    kinds = {"documents with questions": documents, "articles of whole worlds": texts_of_worlds}
    result = {
        name: measure(make, options.documents, options.rounds) for name, make in kinds.items()
    }
    costs = {family: task_cost(family, 200, 10**6) for family in FAMILIES}
    if options.json:
        print(json.dumps({"text": result, "task_ms": costs, "bar_tokens_per_s": BAR}))
        return
    print(f"{'':26}{'bytes each':>12}{'tokens/s (4 bytes)':>21}{'tokens/s (pieces)':>20}")
    for name, row in result.items():
        print(
            f"{name:26}{row['bytes_each']:12,.0f}{row['tokens_per_s_4_bytes']:21,.0f}"
            f"{row['tokens_per_s_pieces']:20,.0f}"
        )
    print(f"{'bar':26}{'':12}{BAR:21,}{BAR:20,}")
    print("\none task with its world, ms:")
    for family, cost in costs.items():
        print(f"  {family:16}{cost:7.2f}")


if __name__ == "__main__":
    main()
