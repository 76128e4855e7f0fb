"""A worker of the cluster's tests: a scripted sub-agent in a process of its own, to be killed.

python -m tests.swarm.cluster_worker URL NAME SHARED_FOLDER
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from perilune.agent.agent import Agent
from perilune.agent.models.retry import RetryPolicy
from perilune.agent.models.scripted import ScriptedModel
from perilune.swarm.cluster.worker import Worker
from tests.agent import simple_tools
from tests.swarm.conftest import prompt_of
from tests.swarm.killed_swarm import Shared, sub_tape


def main() -> None:
    url, name, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    home = folder / name
    home.mkdir(exist_ok=True)
    agent = Agent(
        ScriptedModel(lambda messages, tools: sub_tape(messages, prompt_of(messages), 0.4)),
        [*Shared(folder / "shared.txt").tools, simple_tools.look_up],
        workspace=home,
        home=home,
        snapshot=False,
        verifiers=(),
        retry=RetryPolicy(base=0.01),
        system_prompt="You are a sub-agent.",
    )
    worker = Worker(agent, url, name=name, parallel=3, silent_seconds=6.0)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    worker.start()
    print("ready", flush=True)
    stop.wait()
    worker.close()


if __name__ == "__main__":
    main()
