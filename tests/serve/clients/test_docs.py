"""docs/clients.md names what the code has."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from perilune.cli.client_settings import CLIENTS

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "clients.md").read_text("utf-8")


def test_every_client_of_connect_is_there() -> None:
    for client in CLIENTS:
        assert f"perilune connect {client}" in PAGE


def test_the_versions_of_npm_clients_are_those_of_the_script() -> None:
    script = (ROOT / "scripts" / "clients" / "catalogue.py").read_text("utf-8")
    sources = (ROOT / "src/perilune/cli/client_settings.py").read_text("utf-8")
    for name, package in (
        ("Claude Code", "@anthropic-ai/claude-code"),
        ("Kimi Code", "@moonshot-ai/kimi-code"),
        ("Codex", "@openai/codex"),
    ):
        found = re.search(re.escape(package) + r"@([0-9.]+)", script)
        assert found and f"{name} {found[1]}" in sources


@pytest.mark.parametrize("package", ["openai", "anthropic", "llm"])
def test_the_versions_of_libraries_are_those_tested(package: str) -> None:
    assert f"| `{package}` | {version(package)} |" in PAGE
