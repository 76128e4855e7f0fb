"""`perilune worker`: works on assignments of swarms, taken off a PostgreSQL queue."""

from __future__ import annotations

import platform
import signal
import threading
from typing import Annotated

import typer

from perilune.cli import agent_options as flags
from perilune.cli.cluster_options import DatabaseUrl, database_url

app = typer.Typer(add_completion=False)


@app.command()
def worker(
    database: DatabaseUrl = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Of this worker in the cluster. Default: that of the machine."),
    ] = None,
    parallel: Annotated[
        int, typer.Option("--parallel", min=1, help="Sub-agents at work at once.")
    ] = 8,
    silent_seconds: Annotated[
        float,
        typer.Option(
            "--silent-seconds",
            min=2.0,
            help="After so long without a word a worker counts as dead.",
        ),
    ] = 30.0,
    model: flags.Model = None,
    endpoint: flags.Endpoint = None,
    api_key_env: flags.ApiKeyEnv = None,
    tools: flags.Tools = None,
    mcp: flags.Mcp = None,
    effort: flags.Effort = None,
    allow: flags.Allow = None,
    ask: flags.Ask = None,
    deny: flags.Deny = None,
    context_strategy: flags.ContextStrategy = None,
    context_window: flags.ContextWindow = None,
    sandbox: flags.SandboxKind = None,
) -> None:
    """Work for `perilune run --swarm --database URL` of any machine, until it is stopped.

    Model, tools and rules are those given here: nothing that comes over the queue widens them.
    """
    url = database_url(database)
    agent = flags.build_agent(
        flags.AgentOptions(
            model=model,
            endpoint=endpoint,
            api_key_env=api_key_env,
            tools=tools,
            mcp=mcp or [],
            effort=effort,
            allow=allow or [],
            ask=ask or [],
            deny=deny or [],
            context_strategy=context_strategy,
            context_window=context_window,
            sandbox=sandbox,
            snapshot=False,
        )
    )

    from perilune.swarm.cluster.worker import Worker
    from perilune.swarm.sub_agent import sub_agent_prompt

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
