"""What goes over the queue: an assignment with what bounds it. Never a right, a model or a key:
those are each worker's own."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from dbos import Serializer

from perilune.swarm.assignment import Assignment
from perilune.swarm.limits import SwarmLimits

QUEUE = "perilune-swarm"
WORKFLOW = "perilune.assignment"
VERSION = "perilune-swarm-1"
"""Of the workflow: workers of other code go on with each other's work."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """`run` is the orchestrator's run."""

    run: str
    assignment: Assignment
    limits: SwarmLimits

    @property
    def workflow(self) -> str:
        """One assignment, one workflow."""
        return f"{self.run}:{self.assignment.call_id}"

    @property
    def key(self) -> str:
        """Of the sub-agent's journal; assignments that go on with it share it."""
        return f"{self.run}:{self.assignment.folder}"


class JsonSerializer(Serializer):
    """DBOS's default is pickle, which is never used here."""

    def serialize(self, data: Any) -> str:
        return json.dumps(data, default=repr)

    def deserialize(self, serialized_data: str) -> Any:
        return json.loads(serialized_data)

    def name(self) -> str:
        return "perilune_json"
