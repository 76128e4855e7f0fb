"""nano alone against a swarm of itself, on tables and questions that it has never seen.

    python benchmarks/swarm_nano.py [--model NAME=DIR ...] [--single-model DIR] [--count 25]
        [--widths 1,2,3,4,6,8,10,12] [--json FILE] [--plot FILE.png]

Tasks come from exam seeds, which training cannot draw from; width 1 is a look-up or a chain of two.
The single agent has nano's own prompt and `lookup` and `python`; each swarm's orchestrator and its
sub-agents are of one model (the orchestrator's), or of --worker. For each task the single agent and
the swarms run one after the other on the same engine settings, so a load on the machine hits all of
them; nothing else runs beside. Everything is greedy.

Wide tables are scored by item F1, single facts by right or wrong. Critical steps are the sum over
the orchestrator's turns of one and the most steps of any sub-agent of that turn; a single agent's
are its completions. Critical tokens are generated tokens, summed likewise: unlike wall time they do
not depend on what else the machine does. With --model given several times, the plot has a curve for
each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from perilune.agent.budgets import Budget
from perilune.agent.models.engine import EngineModel
from perilune.nano.agent import nano_agent, nano_folder
from perilune.nano.swarm import LIMITS, nano_swarm
from perilune.nano.training.facts import facts_of_seed
from perilune.world.families import generate_task
from perilune.world.seed import Seed, Split
from perilune.world.task import Task

WIDTHS = (1, 2, 3, 4, 6, 8, 10, 12)
WIDE = (8, 10, 12)
SINGLE = "single agent"
ASKED = {"F1 points": 10.0, "critical steps": 3.0, "wall time": 3.0, "spawned at width 1": 0.05}


@dataclass(frozen=True)
class Played:
    """One task, played. `serial_steps` counts all agents' completions, `tokens` all generated."""

    width: int
    score: float
    exact: bool
    critical_steps: int
    serial_steps: int
    critical_tokens: int
    seconds: float
    spawned: int
    tokens: int
    prompt_tokens: int


def task_of(width: int, index: int, reserved: bool) -> Task:
    seed = Seed(Split.EXAM, 10_000 + index)
    if width > 1:
        return generate_task(seed, "wide_table", size=width, reserved_phrasing=reserved)
    if index % 2:
        return generate_task(seed, "hops", size=2, reserved_phrasing=reserved)
    return generate_task(seed, "lookup", reserved_phrasing=reserved)


async def play_alone(model: EngineModel, task: Task, home: Path) -> Played:
    agent = nano_agent(
        model, facts_of_seed(task.seed), workspace=home, home=home, verifiers=(),
        budget=Budget(steps=LIMITS.main_steps),
    )  # fmt: skip
    began = time.perf_counter()
    result = await agent.arun(task.prompt)
    seconds = time.perf_counter() - began
    verdict = task.verify(result.answer)
    return Played(
        task_width(task), verdict.score, verdict.passed, result.steps, result.steps,
        result.usage.completion_tokens, seconds, 0, result.usage.completion_tokens,
        result.usage.prompt_tokens,
    )  # fmt: skip


async def play_swarm(model: EngineModel, worker: EngineModel, task: Task, home: Path) -> Played:
    swarm = nano_swarm(
        model, worker, facts_of_seed(task.seed), workspace=home, home=home, verifiers=()
    )
    began = time.perf_counter()
    async with swarm.session() as session:
        result = await session.run(task.prompt)
        state = session.state
    seconds = time.perf_counter() - began
    verdict = task.verify(result.answer)
    critical = state.main_usage.completion_tokens + sum(
        max(each.usage.completion_tokens for each in stage) for stage in state.stages().values()
    )
    return Played(
        task_width(task), verdict.score, verdict.passed, result.critical_steps,
        result.serial_steps, critical, seconds, result.sub_agents, result.usage.completion_tokens,
        result.usage.prompt_tokens,
    )  # fmt: skip


def task_width(task: Task) -> int:
    return task.width if task.family == "wide_table" else 1


def row_of(played: Sequence[Played]) -> dict[str, float]:
    """Means over the tasks of a width; `f1_spread` is half of the mean's interval of 95 %."""
    scores = [each.score for each in played]
    spread = 1.96 * stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0
    return {
        "count": len(played),
        "f1": mean(scores),
        "f1_spread": spread,
        "exact": mean(each.exact for each in played),
        "critical_steps": mean(each.critical_steps for each in played),
        "serial_steps": mean(each.serial_steps for each in played),
        "critical_tokens": mean(each.critical_tokens for each in played),
        "seconds": mean(each.seconds for each in played),
        "spawned": mean(each.spawned for each in played),
        "splits": mean(each.spawned > 0 for each in played),
        "tokens": mean(each.tokens for each in played),
        "prompt_tokens": mean(each.prompt_tokens for each in played),
    }


def print_table(name: str, rows: dict[int, dict[str, float]]) -> None:
    print(f"\n{name}")
    print("width  item F1          exact  critical  serial  crit. tokens  seconds  spawned  splits")
    for width, row in rows.items():
        print(
            f"{width:5}  {row['f1']:6.1%} +- {row['f1_spread']:5.1%} {row['exact']:6.1%}"
            f"  {row['critical_steps']:8.1f}  {row['serial_steps']:6.1f}"
            f"  {row['critical_tokens']:12.0f}  {row['seconds']:7.2f}"
            f"  {row['spawned']:7.1f}  {row['splits']:6.0%}"
        )


def print_goals(name: str, single: Sequence[Played], swarm: Sequence[Played]) -> None:
    """What is asked of tables of 8 to 12 rows and of single questions, beside what came out."""
    alone = [each for each in single if each.width in WIDE]
    split = [each for each in swarm if each.width in WIDE]
    print(f"\n{name}: measured (asked)")
    if alone and split:
        points = 100 * (mean(e.score for e in split) - mean(e.score for e in alone))
        steps = mean(e.critical_steps for e in alone) / mean(e.critical_steps for e in split)
        wall = mean(e.seconds for e in alone) / mean(e.seconds for e in split)
        tokens = mean(e.critical_tokens for e in alone) / mean(e.critical_tokens for e in split)
        print(f"  item F1 above the single agent, points  {points:6.1f} ({ASKED['F1 points']:g})")
        print(
            f"  critical steps fewer, times             {steps:6.1f} ({ASKED['critical steps']:g})"
        )
        print(f"  critical tokens fewer, times            {tokens:6.1f}")
        print(f"  wall time less, times                   {wall:6.1f} ({ASKED['wall time']:g})")
    ones = [each.spawned > 0 for each in swarm if each.width == 1]
    if ones:
        asked = ASKED["spawned at width 1"]
        print(f"  share of split tasks at width 1         {mean(ones):6.1%} (below {asked:.0%})")


def plot(tables: dict[str, dict[int, dict[str, float]]], file: Path) -> None:
    """Item F1 over critical steps, a curve a model, each width a point."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for marker, (name, rows) in zip("osD^vPX*", tables.items(), strict=False):
        steps = [row["critical_steps"] for row in rows.values()]
        scores = [100 * row["f1"] for row in rows.values()]
        axes.plot(steps, scores, marker=marker, label=name, linewidth=1.2)
        for width, x, y in zip(rows, steps, scores, strict=True):
            axes.annotate(str(width), (x, y), (4, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel("critical steps (mean)")
    axes.set_ylabel("item F1, %")
    axes.set_title("nano on tables of unseen worlds; a point's number is the width")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=150)


async def run(options: argparse.Namespace) -> None:
    folders = dict(each.split("=", 1) if "=" in each else (each, each) for each in options.model)
    loaded: dict[Path, EngineModel] = {}

    async def model_of(folder: Path) -> EngineModel:
        folder = folder.resolve()
        if folder not in loaded:
            settings: dict[str, Any] = {"speculative_tokens": options.speculative}
            loaded[folder] = EngineModel.from_pretrained(folder, **settings)
            await loaded[folder].prepare()
        return loaded[folder]

    swarms = {name: await model_of(Path(folder)) for name, folder in folders.items()}
    single = await model_of(options.single_model or Path(next(iter(folders.values()))))
    worker = await model_of(options.worker) if options.worker else None
    played: dict[str, list[Played]] = {name: [] for name in (SINGLE, *swarms)}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        # The first completions of an engine are slower; they count for nobody.
        await play_alone(single, task_of(2, 0, False), home)
        for model in swarms.values():
            await play_swarm(model, worker or model, task_of(12, 0, False), home)
        for width in options.widths:
            for index in range(options.count):
                task = task_of(width, index, options.reserved)
                played[SINGLE].append(await play_alone(single, task, home))
                for name, model in swarms.items():
                    played[name].append(await play_swarm(model, worker or model, task, home))
            print(f"width {width} is played; load {os.getloadavg()[0]:.1f}", flush=True)
    tables = {
        name: {
            width: row_of([each for each in games if each.width == width])
            for width in options.widths
        }
        for name, games in played.items()
    }
    for name, rows in tables.items():
        print_table(name, rows)
    for name in swarms:
        print_goals(name, played[SINGLE], played[name])
    if options.json:
        tasks = {name: [asdict(each) for each in games] for name, games in played.items()}
        options.json.write_text(json.dumps({"means": tables, "tasks": tasks}, indent=1) + "\n")
    if options.plot:
        plot(tables, options.plot)
    for model in loaded.values():
        await model.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", action="append", help="NAME=DIR, of the orchestrator")
    parser.add_argument("--single-model", type=Path, help="of the single agent")
    parser.add_argument("--worker", type=Path, help="of all sub-agents")
    parser.add_argument("--count", type=int, default=25, help="tasks a width")
    parser.add_argument(
        "--widths", type=lambda text: [int(each) for each in text.split(",")], default=WIDTHS
    )
    parser.add_argument("--reserved", action="store_true", help="phrasings that training lacks")
    parser.add_argument("--speculative", type=int, default=12, help="tokens guessed behind one")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    options.model = options.model or [f"nano={nano_folder()}"]
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
