"""Accuracy over tokens spent: what more thinking, more steps and more trajectories buy.

    python benchmarks/test_time_scaling.py --endpoint http://localhost:8000 --model NAME
    python benchmarks/test_time_scaling.py --model path/to/checkpoint [--nano]
    python benchmarks/test_time_scaling.py --scripted 0.6       # a noisy model: right 6 times in 10

Tasks are generated worlds of exam seeds, judged by their own verifiers. For each task eight
trajectories are rolled out at each effort, and the merge once. Printed and drawn are: one
trajectory at low, medium and high effort; the verified majority of the first 1, 2, 4 and 8 of the
eight; and heavy, their reflective merge. Tokens are prompt and completion tokens of all
trajectories (and of the merge), as the model reports them. Error bars are Wilson intervals (95 %).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perilune.agent.agent import Agent, RunResult, resolve_model
from perilune.agent.budgets import Budget
from perilune.agent.effort import EFFORTS, budget_for
from perilune.agent.heavy import run_heavy, verified_majority
from perilune.agent.models.chat_model import ChatModel, Sampling
from perilune.agent.models.endpoint import EndpointModel
from perilune.agent.models.scripted import Call, Reply, ScriptedModel
from perilune.agent.world_tasks import judge, set_scene
from perilune.world import Seed, Split, Style, Task, generate_task

FAMILIES = ("lookup", "hops", "arithmetic", "comparison", "selection")
MAJORITIES = (1, 2, 4, 8)
MERGING = "agents have worked on this task"


@dataclass
class Tally:
    """What one way of working gave: tasks, right answers, tokens."""

    tasks: int = 0
    right: int = 0
    tokens: list[int] = field(default_factory=list)

    def add(self, right: bool, tokens: int) -> None:
        self.tasks += 1
        self.right += right
        self.tokens.append(tokens)

    @property
    def accuracy(self) -> float:
        return self.right / self.tasks

    @property
    def mean_tokens(self) -> float:
        return sum(self.tokens) / len(self.tokens)

    def interval(self, z: float = 1.96) -> tuple[float, float]:
        """Wilson's interval of the accuracy."""
        n, p = self.tasks, self.accuracy
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return middle - half, middle + half


class NoisyModel(ScriptedModel):
    """Looks its task up and then answers rightly with a chance of `share`, and else with the answer
    of another task. Its merge reads the answers that it is shown and follows the majority. The more
    it may think, the more it says, and the likelier it is right."""

    def __init__(self, task: Task, others: Sequence[Task], share: float, seed: int) -> None:
        self._task, self._others, self._share = task, others, share
        self._random = random.Random(f"{seed} {task.prompt}")
        super().__init__(self._turn, name="noisy")
        self._effort = 1.0

    def complete(self, messages: Any, tools: Any, sampling: Sampling) -> Any:
        self._effort = {"low": 0.7, "medium": 1.0, "high": 1.2}[sampling.effort or "medium"]
        return super().complete(messages, tools, sampling)

    def _turn(self, messages: Any, tools: Any) -> Reply:
        shown = [str(m["content"]) for m in messages if MERGING in str(m["content"])]
        if shown:
            parts = shown[0].split("\n## Answer ")[1:]
            answers = [part.partition("\n")[2].strip() for part in parts]
            return Reply(max(answers, key=answers.count), reasoning="I compare them. " * 10)
        if messages[-1]["role"] != "tool" and tools:
            return Reply(calls=[Call("search", {"query": self._task.prompt[:200]})])
        right = self._random.random() < self._share * self._effort
        wrong = self._random.choice(self._others).answer
        thinking = "I weigh what I have found. " * round(40 * self._effort)
        return Reply(self._task.answer if right else wrong, reasoning=thinking)


class Bench:
    """Runs tasks; `tallies` holds what came of each way of working."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.tallies: dict[str, Tally] = defaultdict(Tally)
        self.home = Path(tempfile.mkdtemp(prefix="perilune-scaling-"))
        self.model = self._model()

    def _model(self) -> ChatModel | None:
        options = self.options
        if options.scripted is not None:
            return None
        if options.endpoint:
            key = {"api_key_env": options.api_key_env} if options.api_key_env else {}
            return EndpointModel(options.endpoint, options.model or "", **key)
        if not options.model:
            raise SystemExit("name a model: --endpoint, --model or --scripted")
        return resolve_model(Path(options.model))

    async def run(self) -> None:
        tasks = [
            generate_task(Seed(Split.EXAM, self.options.seed + number), family)
            for number in range(self.options.tasks)
            for family in self.options.families
        ]
        for number, task in enumerate(tasks, 1):
            # A wrong answer must have the form of a right one.
            others = [t for t in tasks if t.family == task.family and t.answer != task.answer]
            model = self.model or NoisyModel(
                task, others or tasks, self.options.scripted, self.options.seed
            )
            for effort in ("low", "medium", "high"):
                await self._one(model, task, effort)
            await self._heavy(model, task)
            print(f"\r{number} of {len(tasks)} tasks", end="", flush=True)
        print()
        if self.model is not None:
            await self.model.close()

    def _agent(self, model: ChatModel, scene: Any, effort: str) -> Agent:
        budget = budget_for(EFFORTS[effort], Budget(steps=self.options.steps))
        options: dict[str, Any] = {
            "workspace": scene.workspace,
            "home": self.home,
            "budget": budget,
            "snapshot": False,
            "sampling": Sampling(
                effort=EFFORTS[effort].model, temperature=self.options.temperature, seed=1
            ),
        }
        if self.options.nano:
            from perilune.nano.agent import nano_agent
            from perilune.nano.training.facts import facts_of_seed

            options["sampling"] = Sampling(
                temperature=self.options.temperature, max_tokens=512, seed=1
            )
            return nano_agent(model, facts_of_seed(scene.task.seed), **options)
        return Agent(model, scene.tools, context="keep", **options)

    async def _one(self, model: ChatModel, task: Task, effort: str) -> None:
        with set_scene(task, Style.LINES) as scene:
            result = await self._agent(model, scene, effort).arun(task.prompt)
            await self._tally(f"{effort}, one trajectory", scene, result)

    async def _heavy(self, model: ChatModel, task: Task) -> None:
        with set_scene(task, Style.LINES) as scene:
            agent = self._agent(model, scene, "heavy")
            seen: list[Any] = []
            async with agent.session() as session:
                result = await run_heavy(
                    session, task.prompt, trajectories=max(MAJORITIES), on_trajectories=seen.extend
                )
            await self._tally("heavy: eight, merged", scene, result)
            for count in MAJORITIES:
                some = seen[:count]
                chosen = verified_majority(some) or (some[0] if some else None)
                if chosen is not None:
                    tokens = sum(each.result.usage.total_tokens for each in some)
                    await self._tally(f"majority of {count}", scene, chosen.result, tokens)

    async def _tally(
        self, way: str, scene: Any, result: RunResult, tokens: int | None = None
    ) -> None:
        verdict = await judge(scene, result.answer)
        spent = result.usage.total_tokens if tokens is None else tokens
        self.tallies[way].add(verdict.passed, spent)


def table(tallies: dict[str, Tally]) -> str:
    lines = [f"{'way of working':24}{'tasks':>7}{'right':>8}{'95 % interval':>18}{'tokens':>10}"]
    for way, tally in sorted(tallies.items(), key=lambda each: each[1].mean_tokens):
        low, high = tally.interval()
        lines.append(
            f"{way:24}{tally.tasks:7}{100 * tally.accuracy:7.1f}%"
            f"{100 * low:9.1f} to {100 * high:4.1f}{tally.mean_tokens:10,.0f}"
        )
    return "\n".join(lines)


def draw(tallies: dict[str, Tally], path: Path, title: str) -> None:
    """Accuracy over mean tokens of a task, as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    groups = {"effort": ", one", "verified majority": "majority", "reflective merge": "heavy"}
    for label, part in groups.items():
        ways = sorted((t.mean_tokens, way, t) for way, t in tallies.items() if part in way)
        if not ways:
            continue
        x = [tokens for tokens, _, _ in ways]
        y = [tally.accuracy for _, _, tally in ways]
        bounds = [tally.interval() for _, _, tally in ways]
        error = [
            [max(0.0, a - low) for a, (low, _) in zip(y, bounds, strict=True)],
            [max(0.0, high - a) for a, (_, high) in zip(y, bounds, strict=True)],
        ]
        axes.errorbar(x, y, yerr=error, marker="o", capsize=3, label=label)
        for tokens, way, tally in ways:
            axes.annotate(
                way.split(",")[0].split(":")[0].removeprefix("majority of "),
                (tokens, tally.accuracy),
                textcoords="offset points",
                xytext=(6, 6),
                fontsize=8,
            )
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("tokens per task (mean)")
    axes.set_ylabel("share of tasks right")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--endpoint")
    parser.add_argument("--model", help="its name at the endpoint, or a checkpoint folder")
    parser.add_argument("--api-key-env")
    parser.add_argument("--scripted", type=float, metavar="SHARE", help="a noisy scripted model")
    parser.add_argument("--nano", action="store_true", help="run the model as nano is run")
    parser.add_argument("--tasks", type=int, default=10, help="tasks of each family")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--steps", type=int, default=30, help="the whole budget of steps")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("test_time_scaling.png"))
    options = parser.parse_args()
    bench = Bench(options)
    asyncio.run(bench.run())
    print(table(bench.tallies))
    name = (
        options.model or options.endpoint or f"scripted, right {options.scripted:.0%} of the time"
    )
    draw(bench.tallies, options.out, f"Test-time scaling: {name}")
    figures = {
        way: {"tasks": t.tasks, "right": t.right, "mean_tokens": round(t.mean_tokens)}
        for way, t in bench.tallies.items()
    }
    options.out.with_suffix(".json").write_text(json.dumps(figures, indent=1))
    print(f"wrote {options.out} and {options.out.with_suffix('.json')}")


if __name__ == "__main__":
    main()
