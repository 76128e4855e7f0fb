"""What the agent adds to a step, and what it keeps in memory: a run of 300 steps, measured.

    python benchmarks/agent_overhead.py [--steps 300] [--repeats 5]

Overhead is wall time less the time inside the model and inside the tool. Two parts of it are named:
the wait for the disk, which grows when others write to it, and processor time, which does not grow
when others compute. The floor is the cost of making one small record durable on this disk (write
and fsync), measured in turns with the runs: a step with a side effect cannot be cheaper. The model
takes 20 ms per step (a real one takes seconds), during which the previous step's result goes to the
disk. Limits: 10 ms per step, 50 MB over the run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import perilune.agent.loop.session as session_module
from perilune.agent.agent import Agent
from perilune.agent.budgets import Budget
from perilune.agent.loop.run import Run
from perilune.agent.models.chat_model import Message, Sampling
from perilune.agent.models.scripted import Call, Reply, ScriptedModel
from perilune.agent.tool import FunctionTool, ToolContext, ToolResult, tool
from perilune.chat.deltas import Delta

LIMIT_MS = 10.0
LIMIT_MB = 50.0
MODEL_SECONDS = 0.02


class Stopwatch:
    """Wall and processor time spent outside of the loop."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def add(self, began: tuple[float, float]) -> None:
        wall, cpu = now()
        self.wall += wall - began[0]
        self.cpu += cpu - began[1]


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


DISK = Stopwatch()


class TimedRun(Run):
    """Counts the time in which the loop waits for its journal."""

    async def durable(self) -> None:
        began = now()
        await super().durable()
        DISK.add(began)


session_module.Run = TimedRun  # type: ignore[misc]


class TimedModel(ScriptedModel):
    """Counts the time from the request to the last delta."""

    def __init__(self, tape: Any, watch: Stopwatch) -> None:
        super().__init__(tape, context_window=262_144)
        self._watch = watch

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], sampling: Sampling
    ) -> AsyncGenerator[Delta, None]:
        began = now()
        async for delta in super().complete(messages, tools, sampling):
            self._watch.add(began)
            yield delta
            began = now()


class TimedTool:
    """Counts the time inside a tool."""

    def __init__(self, inner: FunctionTool, watch: Stopwatch) -> None:
        self._inner, self._watch = inner, watch
        self.name, self.description = inner.name, inner.description
        self.parameters, self.timeout = inner.parameters, inner.timeout
        self.side_effects, self.parallel_safe = inner.side_effects, inner.parallel_safe

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        began = now()
        try:
            return await self._inner.run(arguments, context)
        finally:
            self._watch.add(began)


@tool(side_effects=True)
async def append(line: str, context: ToolContext) -> str:
    """Append a line."""
    with (context.workspace / "log.txt").open("a") as file:
        file.write(line + "\n")
    return "ok " + "output " * 200 + line


@tool(side_effects=False, parallel_safe=True)
async def look(place: str) -> str:
    """Look."""
    return "seen " * 200 + place


def memory_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def run_once(steps: int, used: FunctionTool) -> tuple[float, float, float, float]:
    """(wall, disk wait and processor overhead in ms a step, memory growth in MB) of one run."""
    watch = Stopwatch()
    argument = next(iter(used.parameters["properties"]))
    samples: list[float] = []

    def tape(messages: Sequence[Message], declared: Sequence[dict[str, Any]]) -> Reply:
        turn = sum(message["role"] == "assistant" for message in messages)
        samples.append(memory_mb())
        if turn == steps - 1:
            return Reply("done", delay=MODEL_SECONDS)
        thought = f"step {turn}: " + "thinking about it " * 40
        call = Call(used.name, {argument: str(turn)})
        return Reply(reasoning=thought, calls=[call], delay=MODEL_SECONDS)

    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder) / "workspace"
        workspace.mkdir()
        agent = Agent(
            TimedModel(tape, watch),
            [TimedTool(used, watch)],
            workspace=workspace,
            home=Path(folder) / "home",
            budget=Budget(steps=None),
        )
        whole, waited = Stopwatch(), DISK.wall
        began = now()
        result = agent.run("measure")
        whole.add(began)
        assert result.ok and result.steps == steps, result
    wall, cpu = (whole.wall - watch.wall), (whole.cpu - watch.cpu)
    disk = DISK.wall - waited
    return *(1000 * each / steps for each in (wall, disk, cpu)), samples[-1] - samples[
        min(20, steps // 2)
    ]


def fsync_ms(count: int = 50) -> float:
    """Median cost of appending 4 KB to a file and making it durable."""
    times = []
    with tempfile.TemporaryFile(buffering=0) as file:
        for _ in range(count):
            began = time.perf_counter()
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    run_once(30, look)  # imports and caches
    floors: list[float] = []
    growth: list[float] = []
    rows: dict[str, list[tuple[float, float, float]]] = {"read-only call": [], "side effect": []}
    for _ in range(options.repeats):
        floors.append(fsync_ms())
        for name, used in (("read-only call", look), ("side effect", append)):
            wall, disk, cpu, grown = run_once(options.steps, used)
            rows[name].append((wall, disk, cpu))
            growth.append(grown)
    print(f"{options.steps} steps, median of {options.repeats} interleaved repeats")
    print(f"{'one fsync on this disk':28} {statistics.median(floors):8.2f} ms")
    for name, values in rows.items():
        walls, disks, cpus = zip(*values, strict=True)
        median = statistics.median(walls)
        held = "holds" if median < LIMIT_MS else "MISSED"
        print(
            f"{'overhead, ' + name:28} {median:8.2f} ms per step "
            f"({min(walls):.2f} to {max(walls):.2f}), of it disk {statistics.median(disks):.2f}, "
            f"processor {statistics.median(cpus):.2f}; "
            f"limit {LIMIT_MS:g} ms: {held}"
        )
    most = max(growth)
    held = "holds" if most < LIMIT_MB else "MISSED"
    print(f"{'memory growth':28} {most:8.2f} MB over the run; limit {LIMIT_MB:g} MB: {held}")


if __name__ == "__main__":
    main()
