"""A scripted swarm as a process of its own, to be killed and resumed by its tests.

    python -m tests.swarm.killed_swarm HOME WORKSPACE [--resume] [--die-after SECONDS] [--faults]
        [--agents 12]

Each of the sub-agents writes four lines into one file that all of them share, so a side effect that
happens twice is seen. The tape is a function of the conversation alone, as a model is. `--faults`:
a tenth of the sub-agents crash, another tenth hang at their first attempt, and 429s come in bursts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perilune.agent.agent import Agent
from perilune.agent.loop.act import UNKNOWN
from perilune.agent.models.chat_model import Message
from perilune.agent.models.retry import RetryPolicy
from perilune.agent.models.scripted import Call, RateLimited, Refused, Reply, ScriptedModel, Turn
from perilune.agent.tool import tool
from perilune.swarm.limits import SwarmLimits
from perilune.swarm.result import SwarmResult
from perilune.swarm.swarm import Swarm
from tests.swarm.conftest import is_orchestrator, last_results, prompt_of, split, turn_of

AGENTS, LINES = 12, 4


class Shared:
    """The world outside of the swarm."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tools = [self._write(), self._check()]

    def _write(self) -> Any:
        @tool(side_effects=True)
        async def write_line(line: str) -> str:
            """Write a line into the shared file."""
            with self.path.open("a") as file:
                file.write(f"{line}\n")
            await asyncio.sleep(0.01)
            return f"wrote {line}"

        return write_line

    def _check(self) -> Any:
        @tool(side_effects=False, parallel_safe=True)
        async def count_lines(begin: str) -> str:
            """How many lines of the shared file begin so."""
            text = self.path.read_text() if self.path.exists() else ""
            return f"count {sum(line.startswith(begin) for line in text.splitlines())}"

        return count_lines


def sub_tape(messages: Sequence[Message], prompt: str, delay: float) -> Turn:
    """Write the lines one by one; count them whenever a call's effect is unknown."""
    done, unknown = 0, False
    for message in messages:
        if message["role"] != "tool":
            continue
        content = str(message["content"])
        if content == UNKNOWN:
            unknown = True
        elif content.startswith("count "):
            done, unknown = int(content.split()[1]), False
        else:
            done += 1
    if unknown:
        return Reply(calls=[Call("count_lines", {"begin": f"{prompt}:"})], delay=delay)
    if done == LINES:
        return Reply(f"{prompt} has {done} lines", delay=delay)
    return Reply(calls=[Call("write_line", {"line": f"{prompt}:{done}"})], delay=delay)


def main_tape(messages: Sequence[Message], agents: int) -> Turn:
    """Give all work out; give what failed out again, twice at most; then answer."""
    prompts = [f"part-{i}" for i in range(agents)]
    if turn_of(messages) == 0:
        return split(*prompts)
    results = [each for each in last_results(messages) if not each.startswith("created")]
    asked = [
        json.loads(call["function"]["arguments"])["prompt"]
        for message in messages
        if message["role"] == "assistant"
        for call in message.get("tool_calls") or ()
        if call["function"]["name"] == "assign_task"
    ][-len(results) :]
    failed = [p for p, r in zip(asked, results, strict=True) if f"{p} has {LINES} lines" not in r]
    if failed and turn_of(messages) < 4:
        return split(*failed, create=False)
    return Reply(f"{agents - len(failed)} parts of {LINES} lines. Missing: {failed}")


def faulty(prompt: str, messages: Sequence[Message], seen: dict[str, int]) -> Turn | None:
    """The first attempt of part-1, part-11, ... crashes, that of part-2, ... hangs."""
    seen["all"] = seen.get("all", 0) + 1
    if seen["all"] % 25 < 5:
        return RateLimited()
    seen[prompt] = seen.get(prompt, 0) + 1
    if turn_of(messages) == 2 and seen[prompt] == 3:
        if prompt.endswith("1"):
            return Refused("crashed", kind="auth")
        if prompt.endswith("2"):
            return Reply("never", delay=120)
    return None


def make(
    home: Path, workspace: Path, *, faults: bool, delay: float = 0.03, agents: int = AGENTS
) -> Swarm:
    seen: dict[str, int] = {}

    def tape(messages: Sequence[Message], declared: Sequence[dict[str, Any]]) -> Turn:
        if is_orchestrator(declared):
            return main_tape(messages, agents)
        prompt = prompt_of(messages)
        fault = faulty(prompt, messages, seen) if faults else None
        return fault or sub_tape(messages, prompt, delay)

    agent = Agent(
        ScriptedModel(tape),
        Shared(workspace / "shared.txt").tools,
        workspace=workspace,
        home=home,
        snapshot=False,
        verifiers=(),
        retry=RetryPolicy(base=0.01),
    )
    limits = SwarmLimits(silence_seconds=1.0)
    return Swarm(agent, limits=limits, workspaces="empty")


def as_json(result: SwarmResult) -> str:
    return json.dumps(
        {
            "run": result.run,
            "answer": result.answer,
            "reason": result.reason,
            "missing": result.missing,
            "critical": result.critical_steps,
            "serial": result.serial_steps,
            "tool_calls": result.tool_calls,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--die-after", type=float)
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--agents", type=int, default=AGENTS)
    options = parser.parse_args()
    working = threading.Event()
    if options.die_after is not None:

        def die() -> None:
            working.wait()
            time.sleep(options.die_after)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=die, daemon=True).start()
    swarm = make(options.home, options.workspace, faults=options.faults, agents=options.agents)
    swarm.agent.on_record = lambda record: working.set()
    task = None if options.resume else "Write the parts."
    print(as_json(swarm.run(task, resume="last" if options.resume else None)))


if __name__ == "__main__":
    main()
