"""The one place where a swarm is made of an agent and of settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import msgspec

from perilune.agent.agent import Agent
from perilune.agent.build import kept_settings
from perilune.agent.presets import Preset, preset_of
from perilune.errors import UsageError
from perilune.swarm.backend import LocalBackend
from perilune.swarm.limits import SwarmLimits
from perilune.swarm.swarm import MakeBackend, Swarm


@runtime_checkable
class SwarmPreset(Preset, Protocol):
    """A preset (`perilune.agent.presets`) that can orchestrate."""

    def swarm_limits(self) -> SwarmLimits: ...

    def make_swarm(
        self, agent: Agent, *, limits: SwarmLimits, make_backend: MakeBackend
    ) -> Swarm: ...


def build_swarm(
    agent: Agent,
    limits_text: str | None,
    kept: Mapping[str, Any] | None,
    *,
    max_steps: int | None,
    make_backend: MakeBackend | None = None,
) -> Swarm:
    """The swarm of an agent: what bounds the agent bounds the whole.

    `limits_text` goes over the limits that were kept, else over those that are usual for the
    agent's model. `kept`: the swarm's settings of an earlier run. `max_steps`: the orchestrator's.
    `make_backend`: where sub-agents work; in this process when it is left out.
    Raises `UsageError`.
    """
    make_backend = make_backend or LocalBackend
    kept = kept or {}
    preset = preset_of(agent)
    usual = msgspec.to_builtins(preset.swarm_limits()) if isinstance(preset, SwarmPreset) else {}
    limits = parse_limits(limits_text, dict(kept.get("limits") or usual))
    budget = agent.budget
    limits = msgspec.structs.replace(
        limits,
        main_steps=max_steps if max_steps is not None else limits.main_steps,
        tokens=limits.tokens if limits.tokens is not None else budget.tokens,
        seconds=limits.seconds if limits.seconds is not None else budget.seconds,
    )
    agent = agent.copy_with(budget=replace(budget, steps=None, tokens=None, seconds=None))
    if isinstance(preset, SwarmPreset):
        return preset.make_swarm(agent, limits=limits, make_backend=make_backend)
    return Swarm(
        agent,
        limits=limits,
        workspaces=kept.get("workspaces") or "copy",
        make_backend=make_backend,
    )


def parse_limits(text: str | None, kept: dict[str, Any]) -> SwarmLimits:
    """`main_steps=100,parallel=8` over the limits that the run was started with; `none` lifts one.

    Raises `UsageError` for a name that is not a limit, or a value that is none.
    """
    fields = dict(kept)
    for part in filter(None, (each.strip() for each in (text or "").split(","))):
        name, equals, value = part.partition("=")
        if not equals or name not in SwarmLimits.__struct_fields__:
            raise UsageError(
                f"--swarm-limits: {part!r} is not a limit",
                remedy=f"NAME=VALUE, of {', '.join(SwarmLimits.__struct_fields__)}.",
            )
        fields[name] = None if value == "none" else value
    try:
        return msgspec.convert(fields, SwarmLimits, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"--swarm-limits: {error}") from None


def kept_swarm(resume: str | None) -> dict[str, Any] | None:
    """The swarm's settings of an earlier run; None when it was not a swarm."""
    if resume is None:
        return None
    kept = kept_settings(resume).get("swarm")
    return kept if isinstance(kept, dict) else None
