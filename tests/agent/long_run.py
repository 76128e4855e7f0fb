"""A scripted run of 300 steps as a process of its own, to be killed and resumed by its tests.

    python -m tests.agent.long_run HOME WORKSPACE [--resume] [--die-after RECORDS] [--real]

It dies a few milliseconds after so many records of this process: anywhere in the work, and no less
often on a fast machine.

Its side effects show when they happen twice. The tape is a function of the conversation alone, as a
model is. `--real` uses the built-in tools: files, the sandboxed Python, search over a corpus.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perilune.agent.agent import Agent
from perilune.agent.budgets import Budget
from perilune.agent.loop.act import UNKNOWN
from perilune.agent.models.chat_model import Message
from perilune.agent.models.scripted import Call, Reply, ScriptedModel
from perilune.events import Record
from tests.agent import simple_tools as tools

TOOLS = [tools.append_line, tools.read_log, tools.look_up, tools.note]


def tape_of(lines: int) -> Any:
    """Append lines, with a look-up or a note after each; check whenever a call is unknown."""

    def tape(messages: Sequence[Message], declared: Sequence[dict[str, Any]]) -> Reply:
        done, looked = 0, False
        unknown = False
        for message in messages:
            if message["role"] != "tool":
                continue
            name, content = message["name"], message["content"]
            unknown = content == UNKNOWN
            if unknown:
                continue
            if name == "append_line":
                done, looked = int(content.split()[-1]) + 1, False
            elif name == "read_log":
                now = len(content.split())
                looked = looked and now == done
                done = now
            else:
                looked = True
        if unknown:
            return Reply(reasoning="what happened?", calls=[Call("read_log", {})])
        if done and not looked:
            if done % 10 == 0:
                return Reply(calls=[Call("note", {"text": f"{done} lines"})])
            return Reply(calls=[Call("look_up", {"topic": f"t{done}"})])
        if done == lines:
            return Reply("All lines are written.")
        return Reply(reasoning=f"next is {done}", calls=[Call("append_line", {"line": str(done)})])

    return tape


PHASES = ("search", "write_file", "edit_file", "python", "read_file", "grep")


def real_call(item: int, phase: str) -> Call:
    """What is done with an item in each phase."""
    path = f"items/{item}.txt"
    arguments: dict[str, dict[str, Any]] = {
        "search": {"query": f"crater {item}"},
        "write_file": {"path": path, "content": f"item {item} is a draft\n"},
        "edit_file": {"path": path, "old": "a draft", "new": f"final-{item}"},
        "python": {"code": f"with open('log.txt', 'a') as f: print('line-{item};', file=f)"},
        "read_file": {"path": path},
        "grep": {"pattern": f"final-{item}$", "path": "items"},
    }
    return Call(phase, arguments[phase])


def took_effect(item: int, phase: str, seen: str) -> bool:
    marks = {"write_file": f"item {item} is", "edit_file": f"final-{item}"}
    return marks.get(phase, f"line-{item};") in seen


def real_tape(items: int) -> Any:
    """Six steps for each item; after an unknown call, a look at the file that it would change."""

    def tape(messages: Sequence[Message], declared: Sequence[dict[str, Any]]) -> Reply:
        place, checking = 0, False
        for message in messages:
            if message["role"] != "tool":
                continue
            item, phase = divmod(place, len(PHASES))
            if message["content"] == UNKNOWN:
                checking = True
            elif not checking or took_effect(item, PHASES[phase], str(message["content"])):
                place, checking = place + 1, False
            else:
                checking = False
        item, phase = divmod(place, len(PHASES))
        if checking:
            path = "log.txt" if PHASES[phase] == "python" else f"items/{item}.txt"
            return Reply(reasoning="did it happen?", calls=[Call("read_file", {"path": path})])
        if item == items:
            return Reply("All items are made.")
        return Reply(reasoning=f"{item}", calls=[real_call(item, PHASES[phase])])

    return tape


def make_agent(home: Path, workspace: Path, steps: int, *, real: bool = False) -> Agent:
    tape = real_tape(steps // len(PHASES)) if real else tape_of(steps // 2)
    return Agent(
        ScriptedModel(tape),
        list(PHASES) if real else TOOLS,
        home=home,
        workspace=workspace,
        budget=Budget(steps=2 * steps),
        context="keep",
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--die-after", type=int)
    parser.add_argument("--real", action="store_true")
    options = parser.parse_args()
    agent = make_agent(options.home, options.workspace, 300, real=options.real)
    if options.die_after is not None:
        left = iter(range(options.die_after - 1))
        due = threading.Event()

        def die() -> None:
            due.wait()
            time.sleep(random.uniform(0.0, 0.005))
            os.kill(os.getpid(), signal.SIGKILL)

        def count(record: Record) -> None:
            if record.seq and next(left, None) is None:
                due.set()

        threading.Thread(target=die, daemon=True).start()
        agent.on_record = count
    task = None if options.resume else "Write the lines."
    result = agent.run(task, resume="last" if options.resume else None)
    print(json.dumps({"answer": result.answer, "reason": result.reason}))


if __name__ == "__main__":
    main()
