"""A table of a swarm with a figure of another row fails the verdict; the right one passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from perilune.agent.models.scripted import Call, Reply, ScriptedModel
from perilune.events import Record, Verified
from perilune.nano.swarm import nano_swarm
from perilune.swarm.state import ASSIGN, CREATE

HEAD = "name, capital, population"
RIGHT = f"{HEAD}\nKenya, Nairobi, 55751717\nUganda, Kampala, 50863850"
WRONG = f"{HEAD}\nKenya, Kampala, 50863850\nUganda, Kampala, 50863850"


def worker(messages: list[dict], *_: object) -> Reply:
    name = str(messages[1]["content"]).splitlines()[-1]
    told = [m for m in messages if m["role"] == "tool"]
    if not told:
        return Reply(calls=[Call("lookup", {"query": f"{name} capital"}),
                            Call("lookup", {"query": f"{name} population"})])  # fmt: skip
    cells = [str(m["content"]).split(" = ")[1].split(" (")[0].split(" ")[0] for m in told]
    return Reply(", ".join([name, *cells]))


@pytest.mark.parametrize(("table", "right"), [(RIGHT, True), (WRONG, False)])
def test_rows_are_held_against_their_own_sources(tmp_path: Path, table: str, right: bool) -> None:
    calls = [
        Call(CREATE, {"name": "row", "system_prompt": "capital, population"}),
        Call(ASSIGN, {"agent": "row", "prompt": "Kenya"}),
        Call(ASSIGN, {"agent": "row", "prompt": "Uganda"}),
    ]
    main = ScriptedModel([Reply(calls=calls), Reply(table), Reply(table), Reply(table)])
    records: list[Record] = []
    swarm = nano_swarm(
        main, ScriptedModel(worker), home=tmp_path, workspace=tmp_path, on_record=records.append
    )
    swarm.run("Make a table of capital and population for Kenya and Uganda.")
    verdicts = [each.event for each in records if isinstance(each.event, Verified)]
    (rows,) = [check for check in verdicts[-1].checks if check.name == "rows"]
    assert (rows.outcome == "passed") == right
    assert right or "Kenya" in rows.problems[0]
