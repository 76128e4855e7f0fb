"""Datasette's `llm`, unmodified, with a file of OpenAI-compatible models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import GREETING

pytest.importorskip("llm", reason="pip install llm")
MODELS = """
- model_id: perilune
  model_name: tiny
  api_base: {server}/v1
  supports_tools: true
  supports_schema: true
- model_id: perilune-responses
  model_name: tiny
  api_base: {server}/v1
  responses: true
"""
TOOL = 'def get_weather(city: str) -> str:\n    "Weather of a city."\n    return f"Sunny in {city}"'


@pytest.fixture
def llm(server: str, tmp_path: Path) -> Callable[..., str]:
    """Run `llm` with these arguments -> what it prints."""
    (tmp_path / "extra-openai-models.yaml").write_text(MODELS.format(server=server))
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": ""}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "llm", *arguments],
            env=environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_prompt_and_its_continuation(llm: Callable[..., str]) -> None:
    assert llm("-m", "perilune", "Hi").strip() == GREETING
    assert llm("-c", "--no-stream", "Hi again").strip() == GREETING
    logged = json.loads(llm("logs", "--json", "-n", "1"))
    assert logged[0]["output_tokens"] > 0


def test_the_responses_api(llm: Callable[..., str]) -> None:
    assert llm("-m", "perilune-responses", "Hi").strip() == GREETING


def test_a_tool_and_a_schema(llm: Callable[..., str]) -> None:
    said = llm("-m", "perilune", "--functions", TOOL, "How is the weather?")
    assert said.strip().endswith("It is sunny in Oslo.")
    person = llm("-m", "perilune", "--schema", "name str, age int", "A person, please")
    assert json.loads(person) == {"name": "Ada", "age": 36}
