"""One builder: settings as data, what is kept of them, and the agent or swarm that they make."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perilune.agent.build import budget_of, build_agent, build_model, tool_names
from perilune.agent.models.endpoint import EndpointModel
from perilune.agent.presets import PRESETS, load_preset, preset_name, preset_of
from perilune.agent.settings import AgentSettings
from perilune.errors import UsageError
from perilune.swarm.build import build_swarm

ENDPOINT = "http://127.0.0.1:9/v1"
texts = st.none() | st.text(max_size=8)
numbers = st.none() | st.integers(1, 10**9)
many = st.lists(st.text(max_size=8), max_size=3)
settings_drawn = st.builds(
    AgentSettings,
    model=texts,
    endpoint=texts,
    tools=texts,
    mcp=many,
    effort=texts,
    recipe=texts,
    max_steps=numbers,
    max_seconds=st.none() | st.floats(0, 1e6),
    allow=many,
    deny=many,
    context_window=numbers,
    snapshot=st.booleans(),
)


@given(settings_drawn)
def test_what_is_kept_gives_the_settings_again(settings: AgentSettings) -> None:
    assert AgentSettings().over(settings.kept) == settings
    assert AgentSettings().over({**settings.kept, "swarm": {}, "unknown": 1}) == settings


@given(settings_drawn, settings_drawn)
def test_what_is_said_anew_wins_and_the_rest_stays(new: AgentSettings, old: AgentSettings) -> None:
    assert new.over(old.kept).kept == {**old.kept, **new.kept}


def test_settings_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        AgentSettings().model = "other"  # type: ignore[misc]


def test_an_agent_is_what_its_settings_say(workspace: Path) -> None:
    settings = AgentSettings(
        model="m",
        endpoint=ENDPOINT,
        tools="files",
        max_steps=7,
        deny=["write_file"],
        context_strategy="keep",
        context_window=4096,
        snapshot=False,
    )
    agent = build_agent(settings, workspace=workspace)
    assert isinstance(agent.model, EndpointModel)
    assert "grep" in [each.name for each in agent.tools]
    assert (agent.budget.steps, agent.context, agent.context_window) == (7, "keep", 4096)
    assert (agent.snapshot, agent.permissions.deny) == (False, ["write_file"])
    made_of = AgentSettings().over(agent.settings)
    assert made_of == settings.but(recipe="none", recipe_why=made_of.recipe_why)


def test_defaults_are_said_once() -> None:
    assert tool_names(AgentSettings()) == ["default"]
    assert tool_names(AgentSettings(tools="none")) == []
    assert budget_of(AgentSettings(), None).steps == 300


@pytest.mark.parametrize(
    ("settings", "preset"),
    [
        (AgentSettings(), "nano"),
        (AgentSettings(model="nano"), "nano"),
        (AgentSettings(model="nano", endpoint=ENDPOINT), None),
        (AgentSettings(endpoint=ENDPOINT), None),
        (AgentSettings(model="other"), None),
    ],
)
def test_a_preset_is_meant_by_name_or_where_nothing_is_named(
    settings: AgentSettings, preset: str | None, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    assert preset_name(settings) == preset
    (workspace / "nano").mkdir()  # a checkpoint folder of that name is meant before the preset
    assert preset_name(AgentSettings(model="nano")) is None


@pytest.mark.parametrize("change", [{"tools": "files"}, {"effort": "low"}, {"recipe": "code"}])
def test_a_preset_takes_no_other_tools(change: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="nano knows its own two tools"):
        build_agent(AgentSettings(**change))  # type: ignore[arg-type]


def test_a_model_that_is_no_folder_is_refused() -> None:
    with pytest.raises(UsageError, match="not a checkpoint folder"):
        build_model(AgentSettings(model="no-such-folder"))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_make_agents_and_know_them_again(name: str, workspace: Path) -> None:
    preset = load_preset(name)
    assert preset.name == name and name in preset.line
    model = EndpointModel(ENDPOINT, "m")
    agent = preset.make_agent(model, workspace=workspace)
    assert preset_of(agent) is preset
    plain = build_agent(AgentSettings(endpoint=ENDPOINT), workspace=workspace)
    assert preset_of(plain) is None


def test_what_bounds_the_agent_bounds_the_swarm(workspace: Path) -> None:
    settings = AgentSettings(endpoint=ENDPOINT, tools="none", max_tokens=5000, max_seconds=60.0)
    agent = build_agent(settings, workspace=workspace)
    swarm = build_swarm(agent, "parallel=3", {"limits": {"sub_agents": 5}}, max_steps=9)
    limits = swarm.limits
    assert (limits.parallel, limits.sub_agents, limits.main_steps) == (3, 5, 9)
    assert (limits.tokens, limits.seconds) == (5000, 60.0)
    assert swarm.agent.budget.tokens is None
