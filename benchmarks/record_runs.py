"""Records runs of nano over generated worlds and the almanac, with how each was judged.

    python benchmarks/record_runs.py FILE [--count 30] [--model DIR] [--seed 7]

Each line of FILE is one run: its question, the tool calls with their results, the sources that it
kept, its answer, and whether the task's own verifier passed it. `check_wrong_copies.py` plants
faults into those that are right.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from perilune.agent.checks.check import plain_text
from perilune.agent.evidence.store import RunEvidence
from perilune.agent.journal.journal import read_journal
from perilune.agent.journal.state import fold
from perilune.agent.models.engine import EngineModel
from perilune.home import runs_folder
from perilune.nano.agent import nano_agent, nano_folder

sys.path.insert(0, str(Path(__file__).parent))
from nano_accuracy import Case, almanac_cases, world_cases


def recorded(folder: Path) -> dict[str, Any]:
    """A finished run, as one object: what it was asked, did, kept and answered."""
    state = fold(read_journal(folder).records)
    store = RunEvidence(folder / "evidence", lambda event: None)
    results = {
        str(message["tool_call_id"]): plain_text(message.get("content") or "")
        for message in state.messages
        if message["role"] == "tool"
    }
    calls = [
        {
            "name": call["function"]["name"],
            "arguments": _arguments(call["function"]["arguments"]),
            "result": results.get(call["id"], ""),
        }
        for message in state.messages
        for call in message.get("tool_calls") or ()
    ]
    sources = [
        {"id": kept.id, "source": kept.source, "title": kept.title, "text": store.text(kept.id)}
        for kept in state.evidence.values()
    ]
    said = [plain_text(m["content"]) for m in state.messages if m["role"] == "user"]
    return {"question": said[0], "calls": calls, "sources": sources}


def _arguments(text: str) -> dict[str, Any]:
    """The arguments of a call; none where the model wrote no JSON."""
    try:
        read = json.loads(text or "{}")
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def rows(count: int, seed: int) -> dict[str, Callable[[], Iterator[Case]]]:
    """Kinds of question -> their cases."""
    return {
        "lookup": lambda: world_cases("lookup", count),
        "reverse lookup": lambda: world_cases("reverse_lookup", count),
        "hops": lambda: world_cases("hops", count, (2, 3, 4)),
        "arithmetic": lambda: world_cases("arithmetic", count, (2, 3, 4)),
        "comparison": lambda: world_cases("comparison", count, (2, 3, 4)),
        "unanswerable": lambda: world_cases("unanswerable", count),
        "selection": lambda: world_cases("selection", count, (3, 4)),
        "conflict": lambda: world_cases("conflict", count),
        "almanac": lambda: almanac_cases(2 * count, "plain", seed),
        "almanac, colloquial": lambda: almanac_cases(2 * count, "colloquial", seed),
        "almanac, unseen": lambda: almanac_cases(2 * count, "unseen", seed),
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--model", type=Path, default=nano_folder())
    parser.add_argument("--streams", type=int, default=8)
    options = parser.parse_args()
    model = EngineModel.from_pretrained(options.model)
    await model.prepare()
    room = asyncio.Semaphore(options.streams)
    with options.file.open("w", encoding="utf-8") as out, tempfile.TemporaryDirectory() as home:

        async def one(kind: str, case: Case) -> bool:
            async with room:
                agent = nano_agent(model, case.store, workspace=Path(home), home=Path(home))
                result = await agent.arun(case.question)
            line = recorded(runs_folder(Path(home)) / result.run)
            right = case.judge(result.answer)
            line |= {"kind": kind, "answer": result.answer, "right": right, "verdict": result.ok}
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
            out.flush()
            return right

        for kind, cases in rows(options.count, options.seed).items():
            began = time.monotonic()
            rights = await asyncio.gather(*(one(kind, case) for case in cases()))
            share = f"{sum(rights)}/{len(rights)}"
            print(f"{kind:20} right {share:8} {time.monotonic() - began:5.0f} s", flush=True)
    await model.close()


if __name__ == "__main__":
    asyncio.run(main())
