"""`perilune worker`: works on assignments of swarms, taken off a PostgreSQL queue."""

from __future__ import annotations

import platform
import signal
import threading
from typing import Annotated

import typer

from perilune.cli.agent_flags import NO_FLAGS, NO_RULES, AgentFlags, RuleFlags, settings_of
from perilune.cli.cluster_options import DatabaseUrl, database_url
from perilune.cli.option_groups import Only, Without, with_option_groups

app = typer.Typer(add_completion=False)


@app.command()
@with_option_groups
def worker(
    database: DatabaseUrl = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of this worker in the cluster. Default: the machine's."),
    ] = None,
    parallel: Annotated[
        int, typer.Option("--parallel", min=1, help="Sub-agents that work at the same time.")
    ] = 8,
    silent_seconds: Annotated[
        float,
        typer.Option(
            "--silent-seconds",
            min=2.0,
            help="Seconds without a message after which a worker counts as dead.",
        ),
    ] = 30.0,
    who: Annotated[AgentFlags, Without("workspace", "resume")] = NO_FLAGS,
    rules: Annotated[
        RuleFlags,
        Only("effort", "allow", "ask", "deny", "context_strategy", "context_window", "sandbox"),
    ] = NO_RULES,
) -> None:
    """Work for `perilune run --swarm --database URL` of any machine, until it is stopped.

    Model, tools and rules are those given here: nothing that comes over the queue widens them.
    """
    url = database_url(database)
    from perilune.agent.build import build_agent
    from perilune.swarm.cluster.worker import Worker
    from perilune.swarm.sub_agent import sub_agent_prompt

    agent = build_agent(settings_of(who, rules).but(snapshot=False))
    own = Worker(
        agent.copy_with(system_prompt=sub_agent_prompt(), recipe=None),
        url,
        name=name or platform.node() or "worker",
        parallel=parallel,
        silent_seconds=silent_seconds,
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    own.start()
    typer.echo(f"worker {own.name} takes assignments; Ctrl-C ends it", err=True)
    stop.wait()
    own.close()
