"""nano's swarm: sub-agents see exactly what nano was trained with, and reports are short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perilune.agent.agent import Agent
from perilune.agent.models.scripted import Call, Refused, Reply, ScriptedModel
from perilune.agent.tool_registry import ToolRegistry
from perilune.nano.agent import SYSTEM_PROMPT, nano_agent
from perilune.nano.swarm import ORCHESTRATOR_PROMPT, nano_swarm
from perilune.nano.tools import compact_tools
from perilune.search.facts import Fact, Facts
from perilune.swarm.build import build_swarm
from tests.swarm.conftest import last_results, prompt_of, turn_of

STORE = Facts([Fact("Tavor", "area", "12 km2"), Fact("Kilu", "area", "7 km2")])


class Worker:
    """Looks up what it was asked and repeats what it was told; remembers what it was shown."""

    def __init__(self, broken: str = "") -> None:
        self.seen: list[tuple[str, Any]] = []
        self._broken = broken

    def __call__(self, messages: Sequence[Any], declared: Sequence[Any]) -> Any:
        self.seen.append((str(messages[0]["content"]), list(declared)))
        if prompt_of(messages) == self._broken:
            return Refused()
        if turn_of(messages) == 0:
            label, name = prompt_of(messages).split("\n")
            return Reply(calls=[Call("lookup", {"query": f"{name} {label}"})])
        return Reply(last_results(messages)[0])


def split_area(*names: str) -> Reply:
    make = Call("create_subagent", {"name": "row", "system_prompt": "area"})
    give = [Call("assign_task", {"agent": "row", "prompt": name}) for name in names]
    return Reply(calls=[make, *give])


async def test_prompts_and_declarations_are_those_of_training(workspace, home):
    worker = Worker()
    main = ScriptedModel([split_area("Tavor", "Kilu"), Reply("12 and 7")])
    swarm = nano_swarm(main, ScriptedModel(worker), STORE, workspace=workspace, home=home)
    result = await swarm.arun("Which is larger?")
    assert result.ok and result.sub_agents == 2
    assert main.prompts[0][0]["content"] == ORCHESTRATOR_PROMPT
    names = [each["function"]["name"] for each in swarm.declarations()]
    assert names == ["lookup", "python", "create_subagent", "assign_task"]
    own = ToolRegistry(compact_tools()).declarations()
    assert worker.seen and all(each == (SYSTEM_PROMPT, own) for each in worker.seen)


async def test_a_report_is_shown_as_it_is_and_its_sources_can_be_cited(workspace, home):
    def conclude(messages: Sequence[Any], declared: Sequence[Any]) -> Reply:
        if turn_of(messages) == 0:
            return split_area("Tavor")
        return Reply(last_results(messages)[-1])

    main = ScriptedModel(conclude)
    swarm = nano_swarm(main, ScriptedModel(Worker()), STORE, workspace=workspace, home=home)
    result = await swarm.arun("How large is Tavor?")
    # The default checks refuse an id that is not kept in the orchestrator's own run.
    assert (result.ok, result.reason) == (True, "done")
    (line,) = result.answer.splitlines()
    assert line.startswith("Tavor.area = 12 km2 [ev:") and len(line) == len("[ev:1a2b]") + 20


def test_the_command_makes_nanos_swarm_of_nano_and_no_other(workspace, home):
    model = ScriptedModel([Reply("x")])
    agent = nano_agent(model, STORE, workspace=workspace, home=home)
    swarm = build_swarm(agent, "parallel=3", None, max_steps=None)
    assert (swarm.compact, swarm.limits.main_steps, swarm.limits.parallel) == (True, 50, 3)
    assert swarm.agent.system_prompt == ORCHESTRATOR_PROMPT
    assert swarm.worker.system_prompt == SYSTEM_PROMPT
    other = build_swarm(Agent(model, workspace=workspace), None, None, max_steps=None)
    assert (other.compact, other.limits.main_steps) == (False, 15)


async def test_a_failure_is_a_short_error(workspace, home):
    main = ScriptedModel([split_area("Tavor", "Kilu"), Reply("12")])
    worker = ScriptedModel(Worker(broken="area\nKilu"))
    swarm = nano_swarm(main, worker, STORE, workspace=workspace, home=home)
    result = await swarm.arun("t")
    assert last_results(main.prompts[-1])[-1] == "Error: the sub-agent died."
    assert len(result.missing) == 1
