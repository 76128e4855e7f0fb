"""How long a sandboxed command takes to start and end, beside the same command without a sandbox.

    python benchmarks/sandbox_start.py [--rounds 40]

Promise: `true` behind bubblewrap ends within 80 ms of wall time (median). The kinds are measured in
turn within each round, so that other load falls on all of them; medians and the 90th percentile are
printed in milliseconds. "resident" runs a cell in the live Python session of the `python` tool.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from perilune.agent.tools.python.session import PythonSession
from perilune.errors import SandboxError
from perilune.sandbox import Sandbox, open_sandbox

PROMISE_MS = 80.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds

    with tempfile.TemporaryDirectory(prefix="perilune-benchmark-") as folder:
        workspace = Path(folder)
        workspace.chmod(0o755)
        sandboxes: dict[str, Sandbox] = {}
        for name, kind, use_cgroup in (
            ("bubblewrap", "bubblewrap", True),
            ("bubblewrap, no cgroup", "bubblewrap", False),
            ("landlock", "landlock", True),
        ):
            try:
                sandboxes[name] = open_sandbox(kind, use_cgroup=use_cgroup)
            except SandboxError as error:
                print(f"{name}: {error}", file=sys.stderr)
        measured: dict[str, Callable[[], object]] = {
            "no sandbox: true": lambda: subprocess.run(["/usr/bin/true"], check=True)
        }
        for name, sandbox in sandboxes.items():
            measured[f"{name}: true"] = command(sandbox, workspace, ["/usr/bin/true"])
            measured[f"{name}: python -c pass"] = command(
                sandbox, workspace, [sandbox.python.executable, "-c", "pass"]
            )
        with asyncio.Runner() as runner:
            sessions = []
            if "bubblewrap" in sandboxes:
                session = PythonSession(sandboxes["bubblewrap"], workspace, shown=10_000)
                sessions.append(session)
                measured["bubblewrap: resident python, 1 + 1"] = lambda: runner.run(
                    session.run("1 + 1", 10)
                )
            times: dict[str, list[float]] = {name: [] for name in measured}
            for number in range(rounds + 2):
                for name, work in measured.items():
                    started = time.perf_counter()
                    work()
                    if number >= 2:  # the first rounds warm the caches
                        times[name].append(1000 * (time.perf_counter() - started))
            for each in sessions:
                runner.run(each.close())

    print(f"{'':40} {'median':>8} {'p90':>8}   ms, {rounds} rounds in turn")
    for name, values in times.items():
        p90 = statistics.quantiles(values, n=10)[-1]
        print(f"{name:40} {statistics.median(values):8.1f} {p90:8.1f}")
    start = statistics.median(times.get("bubblewrap: true", [float("inf")]))
    print(f"promise: under {PROMISE_MS:g} ms; measured {start:.1f} ms")
    return 0 if start < PROMISE_MS else 1


def command(sandbox: Sandbox, workspace: Path, argv: list[str]) -> Callable[[], object]:
    """Run `argv` in the sandbox, to its end."""

    def run() -> None:
        result = sandbox.run(argv, workspace=workspace)
        if not result.ok:
            raise SystemExit(f"{argv}: {result.explanation}\n{result.stderr}")

    return run


if __name__ == "__main__":
    sys.exit(main())
