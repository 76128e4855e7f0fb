"""The swarm's tools for a small model: the two of Kimi K2.5, declared in a few words."""

from __future__ import annotations

from typing import Any

from perilune.agent.tool import Tool
from perilune.swarm.team import Team
from perilune.swarm.tools.assign_task import AssignTask
from perilune.swarm.tools.create_subagent import CreateSubagent


class CompactCreateSubagent(CreateSubagent):
    @property
    def description(self) -> str:
        return "Make an agent."

    @property
    def parameters(self) -> dict[str, Any]:
        return _two_texts("name", "system_prompt")


class CompactAssignTask(AssignTask):
    @property
    def description(self) -> str:
        return "Give it a task."

    @property
    def parameters(self) -> dict[str, Any]:
        return _two_texts("agent", "prompt")


def compact_swarm_tools(team: Team) -> list[Tool]:
    """`create_subagent` and `assign_task` of a team."""
    return [CompactCreateSubagent(team), CompactAssignTask(team)]


def _two_texts(first: str, second: str) -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "properties": {first: text, second: text},
        "required": [first, second],
        "additionalProperties": False,
    }
