"""Datasette's `llm`, unmodified, with a file of OpenAI-compatible models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.chat.media.samples import picture, saved

from ..seeing import Eyes, pixels_of
from .conftest import GREETING

# Not imported here: at its import it decides whether it loads plugins.
pytestmark = pytest.mark.skipif(
    find_spec("llm") is None and not os.environ.get("CI"), reason="pip install llm"
)
MODELS = """
- model_id: perilune
  model_name: tiny
  api_base: {server}/v1
  supports_tools: true
  supports_schema: true
  vision: true
- model_id: perilune-responses
  model_name: tiny
  api_base: {server}/v1
  responses: true
  vision: true
"""
TOOL = 'def get_weather(city: str) -> str:\n    "Weather of a city."\n    return f"Sunny in {city}"'


@pytest.fixture
def folder(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of `llm`; no plugins of this machine are loaded."""
    (tmp_path / "extra-openai-models.yaml").write_text(MODELS.format(server=server))
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    monkeypatch.setenv("LLM_LOAD_PLUGINS", "")
    return tmp_path


@pytest.fixture
def llm(folder: Path) -> Callable[..., str]:
    """Run `llm` with these arguments, in this process -> what it prints."""
    from click.testing import CliRunner
    from llm.cli import cli

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def test_a_prompt_from_the_shell(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llm", "-m", "perilune"],
        input="Hi", capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.strip() == GREETING, done.stderr


def test_a_conversation_and_its_log(llm: Callable[..., str]) -> None:
    assert llm("-m", "perilune", "Hi").strip() == GREETING
    assert llm("-c", "--no-stream", "Hi again").strip() == GREETING
    logged = json.loads(llm("logs", "--json", "-n", "1"))
    assert logged[0]["output_tokens"] > 0


@pytest.mark.parametrize("model", ["perilune", "perilune-responses"])
def test_an_attachment_is_seen(
    llm: Callable[..., str], eyes: Eyes, tmp_path: Path, model: str
) -> None:
    seed = len(model)  # a picture of its own: one that is known is not looked at again
    file = tmp_path / "moon.png"
    file.write_bytes(saved(picture(70, 50, seed=seed), "PNG"))
    assert llm("-m", model, "-a", str(file), "Hi").strip() == GREETING
    assert eyes.seen[-1] == pixels_of(file.read_bytes())


def test_the_responses_api(llm: Callable[..., str]) -> None:
    assert llm("-m", "perilune-responses", "Hi").strip() == GREETING


def test_a_tool_and_a_schema(llm: Callable[..., str]) -> None:
    said = llm("-m", "perilune", "--functions", TOOL, "How is the weather?")
    assert said.strip().endswith("It is sunny in Oslo.")
    person = llm("-m", "perilune", "--schema", "name str, age int", "A person, please")
    assert json.loads(person) == {"name": "Ada", "age": 36}
