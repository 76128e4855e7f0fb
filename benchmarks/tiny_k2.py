"""A whole tiny K2 (159 M parameters, INT4 experts): Perilune, llama.cpp and transformers.

    python benchmarks/tiny_k2.py [--json] [--repetitions 7] [--threads N]

Decode of one stream (context 64, 64 tokens), prefill of 512 tokens, decode of 16 streams. The
contenders live in processes of their own and take turns; medians over the repetitions. Wanted:
decode >= 1.2 x llama.cpp (Q4_0 and Q8_0) and >= 10 x transformers, prefill >= 2.5 x both, 16
streams >= 5 x the tokens of one. `int8` and `int4` have attention, shared experts and head in these
(llama.cpp's Q8_0 and Q4_0 have everything in 8 and 4 bits; we have bfloat16 by default), `expanded`
the expanded form of attention in the prompt (the engine's default from 2,048 new tokens on).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.tiny_k2_contenders import serve

CONTENDERS = (
    "perilune", "perilune int8", "perilune int4", "perilune expanded",
    "llama.cpp Q4_0", "llama.cpp Q8_0", "transformers",
)  # fmt: skip
STREAMS = 16
PROMPT = 512


class Process:
    """A contender's process and the pipe to it."""

    def __init__(self, name: str, threads: int, folder: Path) -> None:
        # `import perilune` asks for this; the contenders' module loads torch before it. The peers
        # keep their own default, which is faster for them.
        if name.startswith("perilune"):
            os.environ["OMP_WAIT_POLICY"] = "passive"
        else:
            os.environ.pop("OMP_WAIT_POLICY", None)
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(name, threads, folder, theirs))
        self.process.start()
        theirs.close()

    def ready(self) -> None:
        self.pipe.recv()

    def ask(self, method: str, *arguments: Any) -> float:
        self.pipe.send((method, arguments))
        return float(self.pipe.recv())

    def close(self) -> None:
        self.pipe.send(None)
        self.process.join(10)
        self.process.kill()


def measure(threads: int, repetitions: int, folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    processes: dict[str, Process] = {}
    for name in CONTENDERS:  # one after the other: building takes memory and both cores
        processes[name] = Process(name, threads, folder)
        processes[name].ready()
    seconds: dict[tuple[str, str], list[float]] = {}
    for repetition in range(-1, repetitions):  # the first is for warming up
        for name, process in processes.items():
            questions: list[tuple[str, str, tuple[int, ...]]] = [
                ("decode", "decode", ()),
                ("prefill", "prefill", (PROMPT,)),
            ]
            if name.startswith("perilune"):
                questions.append(("streams", "streams", (STREAMS,)))
            for key, method, arguments in questions:
                answer = process.ask(method, *arguments)
                if repetition >= 0:
                    seconds.setdefault((name, key), []).append(answer)
    for process in processes.values():
        process.close()
    work = {"decode": 1, "prefill": PROMPT, "streams": STREAMS}
    rates = {
        name: {
            key: work[key] / statistics.median(values)
            for (who, key), values in seconds.items()
            if who == name
        }
        for name in CONTENDERS
    }
    return {"threads": threads, "tokens_per_second": rates, "ratios": ratios(rates)}


def ratios(rates: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """What the issue asks for, with its bar."""
    ours = rates["perilune"]
    llama = [rates[n] for n in CONTENDERS if n.startswith("llama")]
    plain = rates["transformers"]
    fastest = max(max(r["prefill"] for r in llama), plain["prefill"])
    return {
        "decode / llama.cpp": {
            "value": ours["decode"] / max(r["decode"] for r in llama), "bar": 1.2,
        },
        "  with int8": {
            "value": rates["perilune int8"]["decode"] / max(r["decode"] for r in llama), "bar": 1.2,
        },
        "  with int4": {
            "value": rates["perilune int4"]["decode"] / max(r["decode"] for r in llama), "bar": 1.2,
        },
        "decode / transformers": {"value": ours["decode"] / plain["decode"], "bar": 10.0},
        "prefill / best peer": {"value": ours["prefill"] / fastest, "bar": 2.5},
        "  prompt with int4": {"value": rates["perilune int4"]["prefill"] / fastest, "bar": 2.5},
        "  expanded": {"value": rates["perilune expanded"]["prefill"] / fastest, "bar": 2.5},
        "16 streams / 1 stream": {"value": ours["streams"] / ours["decode"], "bar": 5.0},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, default=Path("runs/tiny_k2"))
    arguments = parser.parse_args()
    result = measure(arguments.threads, arguments.repetitions, arguments.folder)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'tokens/s':16} {'decode':>8} {'prefill':>8} {'streams':>8}")
    for name, rates in result["tokens_per_second"].items():
        cells = [
            f"{rates[k]:8.0f}" if k in rates else " " * 8 for k in ("decode", "prefill", "streams")
        ]
        print(f"{name:16} {' '.join(cells)}")
    for name, ratio in result["ratios"].items():
        print(f"{name:24} {ratio['value']:6.2f}  (wanted {ratio['bar']})")


if __name__ == "__main__":
    main()
