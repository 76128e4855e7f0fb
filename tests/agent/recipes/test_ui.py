"""The `ui` recipe: mock-ups drawn here, given as pictures alone, compared with what is built."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perilune.agent.journal.journal import read_journal
from perilune.agent.journal.state import fold
from perilune.agent.models.scripted import Call, Reply
from perilune.agent.pictures.part import pictures_of
from perilune.agent.recipes.recipe import load_recipe
from perilune.agent.tools.render_ui.compare import compare, png_of, read_mockup
from perilune.agent.tools.render_ui.render import Renderer
from perilune.agent.workspace.workspace import Workspace
from perilune.errors import ToolError, UsageError
from tests.agent.drawn import image_part, png
from tests.agent.recipes.mockups import MOCKUPS, nearly, page, wrong

pytest.importorskip("playwright")
pytest.importorskip("skimage")
needs_chromium = pytest.mark.skipif(
    # In CI the tests run, and fail, without it: `make test` installs it there.
    shutil.which("chromium") is None and os.environ.get("CI") != "true",
    reason="run: scripts/setup_system.sh --with chromium",
)


async def draw(folder: Path, names) -> dict[str, bytes]:
    """The mock-ups as pictures, by one browser."""
    renderer = Renderer(Workspace(folder))
    drawn = {}
    try:
        for name in names:
            (folder / "page.html").write_text(page(name))
            drawn[name] = (await renderer.render("page.html", MOCKUPS[name][0])).screenshot
    finally:
        await renderer.close()
    return drawn


def attempt(html: str) -> list[Reply]:
    return [
        Reply(calls=[Call("write_file", {"path": "index.html", "content": html})]),
        Reply(calls=[Call("render_ui", {})]),
    ]


async def build(make_agent, workspace: Path, mockup: bytes, tape, **options):
    task = [{"type": "text", "text": "Build this."}, image_part(mockup, name="mock.png")]
    agent = make_agent(tape, recipe=load_recipe("ui"), **options)
    return agent, await agent.arun(task)


async def passes(make_agent, workspace: Path, home: Path, name: str, mockup: bytes) -> None:
    tape = [*attempt(wrong(name)), *attempt(nearly(name)), Reply("index.html is done.")]
    _, result = await build(make_agent, workspace, mockup, tape)
    assert result.ok, result.detail
    (check,) = [each for each in result.verdict.checks if each.name == "ui"]
    figure = float(check.notes[0].split()[2])
    assert 0.95 <= figure < 1
    assert check.notes[0].startswith("structural similarity ")
    folder = home / "runs" / result.run / "ui"
    assert {each.name for each in folder.iterdir()} == {
        "mockup.png", "round-1.png", "round-1-difference.png", "round-2.png",
        "round-2-difference.png", "rounds.json", "index.html",
    }  # fmt: skip
    for each in folder.glob("*.png"):
        assert Image.open(each).size == MOCKUPS[name][0]
    shown = (folder / "index.html").read_text()
    assert check.evidence == [str(folder / "index.html")]
    assert shown.count("<img ") == shown.count("data:image/png;base64,") == 6
    assert "http" not in shown.replace("http-equiv", "")
    # The model saw the mock-up, its page and the map.
    state = fold(read_journal(home / "runs" / result.run).records)
    seen = [pictures_of(m["content"]) for m in state.messages if m.get("name") == "render_ui"]
    assert [[each.name for each in one] for one in seen][1] == [
        "mock-up", "round-2.png", "round-2-difference.png",
    ]  # fmt: skip


@needs_chromium
async def test_a_model_that_improves_passes(make_agent, workspace, home, tmp_path) -> None:
    (tmp_path / "own").mkdir()
    drawn = await draw(tmp_path / "own", ["card"])
    await passes(make_agent, workspace, home, "card", drawn["card"])


@pytest.mark.slow
@needs_chromium
async def test_all_six_mockups(make_agent, workspace, home, tmp_path) -> None:
    (tmp_path / "own").mkdir()
    drawn = await draw(tmp_path / "own", MOCKUPS)
    for name, mockup in drawn.items():
        await passes(make_agent, workspace, home, name, mockup)


@needs_chromium
async def test_a_model_that_does_not_improve_ends_as_not_verified(
    make_agent, workspace, home, tmp_path
) -> None:
    (tmp_path / "own").mkdir()
    drawn = await draw(tmp_path / "own", ["table"])
    tape = [*attempt(wrong("table")), *[Reply("It is perfect: similarity 1.0.")] * 6]
    _, result = await build(make_agent, workspace, drawn["table"], tape)
    assert result.reason == "unverified"
    assert "and 0.95 is asked for" in result.detail
    (check,) = [each for each in result.verdict.checks if each.name == "ui"]
    assert float(check.notes[0].split()[2]) < 0.95
    assert Path(check.evidence[0]).exists()


@needs_chromium
async def test_a_pasted_mockup_and_the_web_do_not_count(
    make_agent, workspace, home, tmp_path
) -> None:
    (tmp_path / "own").mkdir()
    mockup = (await draw(tmp_path / "own", ["dark"]))["dark"]
    (workspace / "m.png").write_bytes(mockup)
    pasted = "<body style='margin:0'><img src=m.png><script src=http://evil.example/x.js></script>"
    tape = [*attempt(pasted), *[Reply("Done.")] * 6]
    agent, result = await build(make_agent, workspace, mockup, tape)
    assert result.reason == "unverified"
    assert "One picture covers 100% of the page" in result.detail
    told = str([m["content"] for m in agent.model.prompts[-1] if m.get("name") == "render_ui"])
    assert "structural similarity 1.0000" in told
    assert "evil.example/x.js is not in the workspace" in told


async def test_without_a_mockup_nothing_is_verified(make_agent) -> None:
    agent = make_agent(
        [Reply(calls=[Call("render_ui", {})]), Reply("Done.")], recipe=load_recipe("ui")
    )
    result = await agent.arun("Build it.")
    assert result.reason == "unverified"
    assert "the person gave no picture (--image FILE)" in result.detail


def test_similarity_and_places() -> None:
    plain = Image.new("RGB", (160, 120), "white")
    assert compare(plain, plain).similarity == pytest.approx(1)
    assert (compare(plain, plain).places, compare(plain, plain).colour) == ([], 0)
    blue = compare(plain, Image.new("RGB", (160, 120), (180, 180, 255)))
    assert blue.similarity > 0.9  # which is why the colours are measured too
    assert blue.colour == pytest.approx(50)
    assert blue.places
    noise = np.random.default_rng(1).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    other = plain.copy()
    other.paste(Image.fromarray(noise), (140, 100))
    found = compare(plain, other)
    assert 0.5 < found.similarity < 0.999
    assert found.places[0] == "x 140 to 160, y 100 to 120"
    assert compare(other, plain).similarity == pytest.approx(found.similarity)


@pytest.mark.parametrize("size", [(8, 400), (5000, 40), (4000, 3000)])
def test_a_mockup_of_an_odd_size_is_refused(size) -> None:
    with pytest.raises(ToolError, match="mock-up"):
        read_mockup(png(*size))
    assert png_of(read_mockup(png(40, 40)))


def test_the_threshold_is_the_recipes(tmp_path: Path) -> None:
    from perilune.agent.recipes.recipe import read_recipe

    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "prompt.md").write_text("Build.")
    (folder / "recipe.yaml").write_text("checks: [ui]\nsimilarity: 0.9\n")
    (check,) = [each for each in read_recipe(folder).verifiers() if hasattr(each, "asked")]
    assert check.asked == 0.9
    for bad in ("0", "1.5", "yes", "high"):
        (folder / "recipe.yaml").write_text(f"checks: [ui]\nsimilarity: {bad}\n")
        with pytest.raises(UsageError, match="similarity"):
            read_recipe(folder)
