"""Prompts in the absorbed and in the expanded form of latent attention, on the tiny K2.

    python benchmarks/prefill_forms.py [--json] [--repetitions 7] [--threads N]

The last rows of prompts of several lengths, computed in both forms in turn; medians. Beside them
the products that attention needs in each form, which is the gain that could be had of it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.tiny_k2_contenders import CONFIG, int4_model, prompt

from perilune.kernels import native
from perilune.runner.batch import SequenceRows, build_batch
from perilune.runner.cache import PagedLatentCache, pages_for
from perilune.runner.cpu.runner import CpuRunner

ROWS = 512
CONTEXTS = (512, 1024, 2048, 8192)


def products(context: int) -> tuple[int, int]:
    """Multiplications of a head and layer for the last rows of a context: absorbed, expanded."""
    c = CONFIG
    seen = sum(range(context - ROWS + 1, context + 1))
    up = c.kv_lora_rank * (c.qk_nope_head_dim + c.v_head_dim)
    absorbed = seen * (2 * c.kv_lora_rank + c.qk_rope_head_dim) + ROWS * up
    expanded = seen * (c.qk_nope_head_dim + c.qk_rope_head_dim + c.v_head_dim) + context * up
    return absorbed, expanded


def measure(threads: int, repetitions: int) -> list[dict[str, Any]]:
    native.set_threads(threads)
    forms = {
        name: CpuRunner(int4_model(), expanded_prefill=name == "expanded")
        for name in ("absorbed", "expanded")
    }
    cache = PagedLatentCache.for_model(CONFIG, pages_for(max(CONTEXTS)))
    out = []
    for context in CONTEXTS:
        rows = SequenceRows(
            prompt(ROWS), context - ROWS, list(range(pages_for(context))), 1, context
        )
        step = build_batch([rows])
        seconds: dict[str, list[float]] = {name: [] for name in forms}
        for repetition in range(-1, repetitions):  # the first is for warming up
            for name, runner in forms.items():
                start = time.perf_counter()
                runner.execute(step, cache)
                if repetition >= 0:
                    seconds[name].append(time.perf_counter() - start)
        times = {name: statistics.median(values) for name, values in seconds.items()}
        absorbed, expanded = products(context)
        out.append(
            {
                "context": context,
                **{f"{name}_ms": 1e3 * value for name, value in times.items()},
                "ratio": times["absorbed"] / times["expanded"],
                "products_ratio": absorbed / expanded,
            }
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    rows = measure(arguments.threads, arguments.repetitions)
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{ROWS} rows behind   absorbed   expanded   ratio   attention's products")
    for row in rows:
        print(
            f"{row['context'] - ROWS:14}  {row['absorbed_ms']:6.0f} ms  "
            f"{row['expanded_ms']:6.0f} ms   {row['ratio']:5.2f}   {row['products_ratio']:5.2f}"
        )


if __name__ == "__main__":
    main()
