"""Fixtures of the agent's own tests."""

from tests.agent.conftest import home, workspace  # noqa: F401
