"""The planner against published speeds: the table of docs/plan.md.

    python benchmarks/plan_published.py [--json]

Rows that set the efficiencies come first and are not evidence; the others judge. Error: predicted /
published - 1. `in`: the published spread and the predicted interval meet. Wanted: the median of the
absolute errors of the judging rows at most 25 %. No timing here: the same on every machine.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from perilune.plan.efficiency import efficiencies
from perilune.plan.published import Judged, judge, median_error


def cell(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def line(each: Judged) -> str:
    row, said = each.row, each.predicted
    published = cell(row.decode.value)
    if row.decode.low < row.decode.high:
        published += f" ({cell(row.decode.low)} to {cell(row.decode.high)})"
    where = f"{row.source} ({row.date})" + (f". {row.note}" if row.note else "")
    interval = f"{cell(said.value)} ({cell(said.low)} to {cell(said.high)})"
    inside = "in" if each.inside else "out"
    cells = (row.id, row.engine, published, interval, f"{each.error:+.0%}", inside, where)
    return f"| {' | '.join(cells)} |"


def summary(judged: list[Judged]) -> dict[str, Any]:
    return {
        "rows": len(judged),
        "median_error": median_error(judged),
        "inside": sum(each.inside for each in judged),
        "by_engine": {
            name: {"rows": len(own), "median_error": median_error(own)}
            for name in efficiencies()
            if (own := [each for each in judged if each.row.engine == name])
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    fitted, judged = judge("fit"), judge("judge")
    if arguments.json:
        rows = [
            {"id": e.row.id, "published": e.row.decode.value, "predicted": e.predicted.value,
             "error": e.error, "inside": e.inside, "split": e.row.split}
            for e in (*fitted, *judged)
        ]  # fmt: skip
        print(json.dumps({"summary": summary(judged), "rows": rows}, indent=2))
        return
    for title, rows in (("Rows that set the efficiencies", fitted), ("Rows that judge", judged)):
        print(f"\n### {title}\n")
        print("| row | engine | published, tokens/s | predicted (interval) | error | | source |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for each in rows:
            print(line(each))
    found = summary(judged)
    print(
        f"\n{found['rows']} rows judge, median error {100 * found['median_error']:.1f} %; "
        f"{found['inside']} of the published speeds are in the interval."
    )
    print("\n| engine | rows | median error |\n| --- | --- | --- |")
    for name, each in found["by_engine"].items():
        print(f"| {name} | {each['rows']} | {each['median_error']:.0%} |")


if __name__ == "__main__":
    main()
