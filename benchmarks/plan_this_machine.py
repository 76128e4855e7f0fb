"""The planner against our own engine on this machine: nano, the tiny K2, a slice of K2.

    python benchmarks/plan_this_machine.py [--slice DIR] [--rounds 3] [--steps 48] [--json]

Each round calibrates anew (three small random models that are none of those judged, about 20
seconds), predicts, and then decodes with the engine: what the machine does changes with its other
load, so a prediction is compared with what was measured right after it. Medians over rounds.
`--slice`: a folder of `perilune models new DIR --like k2-thinking --scale slice --layers 2
--format int4 [--experts N]`. Wanted: within 20 %. The slice from a drive needs an engine that
streams experts; until there is one, the line says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perilune.agent.nano import nano_folder

from perilune.config import CheckpointConfig, Family
from perilune.engine.bench import bench_decode, small_model
from perilune.engine.engine import Engine
from perilune.engine.load import EngineOptions, load_engine
from perilune.formats.int4 import INT4
from perilune.plan.calibration import calibrate
from perilune.plan.model_size import ModelSize, model_size
from perilune.plan.placement import Demand
from perilune.plan.planner import Request, plan
from perilune.plan.this_machine import calibrated, this_machine
from perilune.weights.checkpoint import stored_config

CONTEXT = 64

Subject = tuple[str, ModelSize, Callable[[], Engine]]


def engine_of(model: Any) -> Engine:
    options = EngineOptions(cache_tokens=4 * CONTEXT + 512, speculative_tokens=0)
    return load_engine(model, options, progress=None)


def subjects(slice_folder: Path | None) -> list[Subject]:
    tiny = small_model()
    config = CheckpointConfig(tiny.config, Family.K2_THINKING, INT4)
    nano = nano_folder()
    found: list[Subject] = [
        ("nano", model_size("nano", stored_config(nano)), lambda: engine_of(nano)),
        ("tiny K2", model_size("tiny K2", config), lambda: engine_of(small_model())),
    ]
    if slice_folder is not None:
        size = model_size("slice in memory", stored_config(slice_folder))
        found.append(("slice in memory", size, lambda: engine_of(slice_folder)))
    return found


def one(subject: Subject, steps: int) -> dict[str, float]:
    """Calibrate, predict, measure, in this order and at once."""
    name, size, make = subject
    engine = make()
    calibration = calibrate().for_bytes(size)
    machine = calibrated(this_machine(Path.cwd(), disk=False), calibration)
    found = plan(size, machine, Request(Demand(CONTEXT)), calibration.efficiency())
    if found.decode is None:
        raise SystemExit(f"{name}: {found.refusal}")
    measured = bench_decode(engine, context=CONTEXT, steps=steps).tokens
    return {
        "predicted": found.decode.value,
        "low": found.decode.low,
        "high": found.decode.high,
        "measured": measured,
        "error": found.decode.value / measured - 1,
        "bandwidth": calibration.bandwidth,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slice", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    for subject in subjects(arguments.slice):
        rounds = [one(subject, arguments.steps) for _ in range(arguments.rounds)]
        results[subject[0]] = {
            "rounds": rounds,
            **{key: statistics.median(r[key] for r in rounds) for key in rounds[0]},
        }
        if not arguments.json:
            this = results[subject[0]]
            print(
                f"{subject[0]:<16} predicted {this['predicted']:8.1f} ({this['low']:.1f} to "
                f"{this['high']:.1f})  measured {this['measured']:8.1f} tokens/s  "
                f"error {this['error']:+.0%}  memory {this['bandwidth'] / 1e9:.1f} GB/s"
            )
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        print("slice from disk  not measured: the engine here streams no experts yet")


if __name__ == "__main__":
    main()
