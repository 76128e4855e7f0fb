"""What a swarm adds to the time of its models and tools, and whether it survives what goes wrong.

    python benchmarks/swarm.py [scale] [faults] [oracle] [--sub-agents 100] [--latency 2.0]

scale: a scripted model of fixed latency; an orchestrator gives 100 sub-agents work of 15 tool calls
each. The critical path is what no scheduling can avoid: the orchestrator's completions and one
sub-agent's completions and calls. Limits: wall time within 15 % of it, 5 ms of overhead per step,
1 GB of memory. Overhead is what the wall time exceeds the critical path by, over all steps of all
agents; the processor time a step stands beside it, because it does not grow when others compute.

faults: the plan of tests/swarm/killed_swarm.py: a tenth of the sub-agents crash, a tenth hang, 429s
come in bursts, and the process is killed with SIGKILL twice and resumed. The answer must be that of
an undisturbed run, or say what is missing, and no line may be written twice.

oracle: tasks of perilune.world, widths 1 to 12, played from their own solutions: item F1, and the
critical steps beside those that the task needs and those of serial work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perilune.agent.agent import Agent
from perilune.agent.models.chat_model import Message
from perilune.agent.models.scripted import Call, Reply, ScriptedModel
from perilune.agent.tool import tool
from perilune.swarm import Swarm, SwarmLimits
from perilune.swarm.oracle import oracle_model, world_search
from perilune.swarm.timeline import save_timeline
from perilune.swarm.trace import read_trace
from perilune.world import Seed, Split, generate_task

ROOT = Path(__file__).resolve().parents[1]
CALLS = 15
TOOL_SECONDS = 0.1


def scale_tape(sub_agents: int, latency: float) -> Any:
    def tape(messages: Sequence[Message], declared: Sequence[dict[str, Any]]) -> Reply:
        turn = sum(each["role"] == "assistant" for each in messages)
        if any(each["function"]["name"] == "assign_task" for each in declared):
            if turn:
                return Reply("All parts are in.", delay=latency)
            make = Call("create_subagent", {"name": "part", "system_prompt": "Do one part."})
            give = [
                Call("assign_task", {"agent": "part", "prompt": f"Do part {i}."})
                for i in range(sub_agents)
            ]
            return Reply(calls=[make, *give], delay=latency)
        if turn == CALLS:
            return Reply("This part is done. " + "It says much. " * 40, delay=latency)
        thought = "thinking about the next look " * 10
        return Reply(reasoning=thought, calls=[Call("look", {"place": str(turn)})], delay=latency)

    return tape


@tool(side_effects=False, parallel_safe=True)
async def look(place: str) -> str:
    """Look."""
    await asyncio.sleep(TOOL_SECONDS)
    return f"seen {place}: " + "words " * 150


def scale(sub_agents: int, latency: float, picture: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder) / "workspace"
        workspace.mkdir()
        agent = Agent(
            ScriptedModel(scale_tape(sub_agents, latency), context_window=262_144),
            [look],
            workspace=workspace,
            home=Path(folder) / "home",
        )
        swarm = Swarm(agent, workspaces="empty", limits=SwarmLimits(sub_agents=sub_agents))
        began, cpu = time.perf_counter(), time.process_time()
        result = swarm.run("Do all parts.")
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        assert result.ok and not result.missing, result
        assert result.tool_calls == CALLS * sub_agents
        if picture is not None:
            save_timeline(read_trace(Path(folder) / "home" / "runs" / result.run), picture)
    critical = result.critical_steps * latency + CALLS * TOOL_SECONDS
    over = wall - critical
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{sub_agents} sub-agents, {result.tool_calls} tool calls, {result.serial_steps} steps,")
    print(f"model {latency:g} s, tool {TOOL_SECONDS:g} s; load {os.getloadavg()[0]:.1f}")
    print(f"{'critical path':32} {critical:9.2f} s ({result.critical_steps} critical steps)")
    print(f"{'wall time':32} {wall:9.2f} s, {verdict(100 * over / critical, 15, '% over it')}")
    each = 1000 * over / result.serial_steps
    print(f"{'overhead a step, wall':32} {each:9.2f} ms, {verdict(each, 5, 'ms')}")
    print(f"{'overhead a step, processor':32} {1000 * cpu / result.serial_steps:9.2f} ms")
    print(f"{'memory of the process, at most':32} {memory:9.0f} MB, {verdict(memory, 1000, 'MB')}")
    print(f"{'serial work would have taken':32} {result.serial_seconds:9.0f} s")


def verdict(value: float, limit: float, unit: str) -> str:
    return f"{value:.1f} of {limit:g} {unit}: {'holds' if value <= limit else 'MISSED'}"


def faults(sub_agents: int) -> None:
    dice = random.Random(5)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "workspace").mkdir()
        resume: list[str] = []
        killed = 0
        while True:
            kill = ["--die-after", f"{dice.uniform(1.0, 3.0):.2f}"] if killed < 2 else []
            process = subprocess.run(
                [sys.executable, "-m", "tests.swarm.killed_swarm", text + "/home",
                 text + "/workspace", "--faults", "--agents", str(sub_agents), *resume, *kill],
                cwd=ROOT, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, process.returncode
            killed += 1
            resume = ["--resume"]
        result = json.loads(process.stdout)
        lines = Counter((folder / "workspace" / "shared.txt").read_text().splitlines())
    twice = sum(count > 1 for count in lines.values())
    wanted = sub_agents * 4
    print(f"{sub_agents} sub-agents, {killed} kills, a tenth crash, a tenth hang, 429 bursts")
    print(f"answer: {result['answer']}")
    print(f"lines written: {len(lines)} of {wanted}, twice: {twice}, missing: {result['missing']}")
    whole = len(lines) == wanted and not twice and not result["missing"]
    print("equals the undisturbed run" if whole else "DIFFERS from the undisturbed run")


async def oracle(seeds: int) -> None:
    print(f"{'width':>5} {'item F1':>8} {'critical':>9} {'of the task':>12} {'serial':>7}  agents")
    for width in range(1, 13):
        family, size = ("lookup", None) if width == 1 else ("wide_table", width)
        scores, critical, needed, serial, spawned = [], [], [], [], []
        for seed in range(seeds):
            task = generate_task(Seed(Split.EXAM, 1000 + seed), family, size=size)
            with tempfile.TemporaryDirectory() as folder:
                workspace = Path(folder) / "workspace"
                workspace.mkdir()
                agent = Agent(
                    oracle_model(task), [world_search(task)], workspace=workspace,
                    home=Path(folder) / "home", snapshot=False,
                )  # fmt: skip
                result = await Swarm(agent, workspaces="empty").arun(task.prompt)
            scores.append(task.verify(result.answer).score)
            critical.append(result.critical_steps)
            needed.append(task.solution.critical_steps)
            serial.append(task.solution.serial_steps)
            spawned.append(result.sub_agents)
        print(
            f"{width:5} {mean(scores):8.3f} {mean(critical):9.2f} {mean(needed):12.2f} "
            f"{mean(serial):7.2f}  {mean(spawned):.1f}"
        )


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=["scale", "faults", "oracle", []])
    parser.add_argument("--sub-agents", type=int, default=100)
    parser.add_argument("--latency", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--picture", type=Path, help="Draw the timeline of `scale` into this file.")
    options = parser.parse_args()
    for part in options.parts or ("scale", "faults", "oracle"):
        print(f"\n{part}")
        if part == "scale":
            scale(options.sub_agents, options.latency, options.picture)
        elif part == "faults":
            faults(options.sub_agents)
        else:
            asyncio.run(oracle(options.seeds))


if __name__ == "__main__":
    main()
