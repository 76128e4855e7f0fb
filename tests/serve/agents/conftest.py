"""Fixtures of the agent's own tests."""

from tests.agent.conftest import home, make_agent, workspace  # noqa: F401
