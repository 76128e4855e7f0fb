"""The limits of a swarm as data. The defaults are those that Kimi K2.5 was measured with."""

from __future__ import annotations

import msgspec


class SwarmLimits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """None means no limit.

    main_steps: completions of the orchestrator. sub_agent_steps: completions of one assignment.
    sub_agents: of the whole swarm; one that goes on with its own work counts once. tool_calls:
    calls of all agents together (calls beyond are refused, so that each can still answer). tokens,
    cost, seconds: of the whole swarm; sub-agents end at `1 - reserve` of them, so that the
    orchestrator can conclude with what there is.

    parallel: sub-agents at work at once. sub_agent_seconds: wall time of one assignment.
    silence_seconds: without any sign of life for so long a sub-agent counts as hung; what it waits
    for in the queue of its endpoint does not count. report_characters: what the orchestrator is
    shown of one report at most; the whole is in a file.

    Steps 15 and 100: BrowseComp's setting in K2.5's model card (WideSearch: 100 and 100); 100
    sub-agents and 1,500 calls: its headline.
    """

    main_steps: int | None = 15
    sub_agent_steps: int | None = 100
    sub_agents: int | None = 100
    tool_calls: int | None = 1500
    tokens: int | None = None
    cost: float | None = None
    seconds: float | None = None
    reserve: float = 0.1
    parallel: int = 100
    sub_agent_seconds: float | None = 7200.0
    silence_seconds: float = 900.0
    report_characters: int = 4000
