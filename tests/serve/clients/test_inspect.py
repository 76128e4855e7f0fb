"""inspect-ai, unmodified, by its generic OpenAI provider: a task with a tool, and its score.

In a process of its own: it keeps state for a whole interpreter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(find_spec("inspect_ai") is None, reason="make test-clients runs it")
TASK = '''
import json, sys
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import tool


@tool
def get_weather():
    async def execute(city: str) -> str:
        """Weather of a city.

        Args:
            city: Its name.
        """
        return f"Sunny in {city}"

    return execute


if __name__ == "__main__":
    task = Task(
        dataset=[Sample(input="How is the weather?", target="sunny in Oslo")],
        solver=[use_tools(get_weather()), generate()],
        scorer=includes(),
    )
    (log,) = eval(task, model="openai-api/perilune/tiny", log_dir=sys.argv[1], display="none")
    assert log.status == "success", log.error
    messages = log.samples[0].messages
    print(json.dumps({
        "accuracy": log.results.scores[0].metrics["accuracy"].value,
        "roles": [message.role for message in messages],
        "thought": any(
            part.type == "reasoning"
            for message in messages if isinstance(message.content, list)
            for part in message.content
        ),
    }))
'''


def test_a_task_with_a_tool(server: str, tmp_path: Path) -> None:
    script = tmp_path / "weather_task.py"
    script.write_text(TASK)
    environment = {
        **os.environ, "PERILUNE_BASE_URL": f"{server}/v1", "PERILUNE_API_KEY": "none",
        "HOME": str(tmp_path), "INSPECT_TELEMETRY": "",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "logs")],
        env=environment, capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found == {
        "accuracy": 1.0, "roles": ["user", "assistant", "tool", "assistant"], "thought": True,
    }  # fmt: skip
