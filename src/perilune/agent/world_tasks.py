"""A generated task, laid out for an agent: its articles as a corpus, its tools, its files, a judge.

Training episodes, reinforcement learning and exams set a task of `perilune.world` before an agent
in this one way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from perilune.agent.tool import Tool
from perilune.agent.tools import load_tools
from perilune.agent.tools.fetch import Fetch
from perilune.agent.tools.search import Search
from perilune.sandbox import Sandbox
from perilune.search.corpus import SCHEME, Corpus, Document
from perilune.search.providers import CorpusSearch
from perilune.world.articles import Style
from perilune.world.repair.tests_pass import TIMEOUT_S, TestsPass
from perilune.world.task import Task
from perilune.world.verdict import Verdict, wrong

REPAIR_TOOLS = ("read_file", "edit_file", "run_tests")


def article_address(article: str) -> str:
    """Where `fetch` finds an article by its id: "corpus:a53"."""
    return SCHEME + article


@dataclass(frozen=True, slots=True)
class Scene:
    """A task as an agent meets it. `folder` is of the scene alone and goes with it."""

    task: Task
    tools: list[Tool]
    folder: Path
    workspace: Path


@contextmanager
def set_scene(
    task: Task, style: Style = Style.PROSE, *, within: Path | None = None
) -> Iterator[Scene]:
    """Lay a task out in a temporary folder: tools that fit it, over its articles or its files.

    A task with files gets `REPAIR_TOOLS`; any other gets `search` and `fetch` over its own articles
    in `style`, and `python`. `within` is where the temporary folder is made.
    """
    with tempfile.TemporaryDirectory(prefix="perilune-scene-", dir=within) as name:
        folder = Path(name)
        workspace = folder / "workspace"
        workspace.mkdir()
        if task.files:
            task.write_files(workspace)
            yield Scene(task, load_tools(REPAIR_TOOLS), folder, workspace)
            return
        corpus = Corpus()
        try:
            corpus.add(Document(*article) for article in task.articles(style))
            web: list[Tool] = [Search(CorpusSearch(corpus)), Fetch(corpus=corpus)]
            yield Scene(task, [*web, *load_tools(["python"])], folder, workspace)
        finally:
            corpus.close()


async def judge(scene: Scene, answer: str, sandbox: Sandbox | None = None) -> Verdict:
    """The verdict of the task's verifier; tests of a repair run in the sandbox.

    Without a sandbox a repair is not judged but refused: its code is foreign.
    """
    verifier = scene.task.verifier
    if not isinstance(verifier, TestsPass):
        return scene.task.verify(answer)
    if sandbox is None:
        return wrong("a repair is judged in a sandbox, and there is none")
    with tempfile.TemporaryDirectory(prefix="perilune-judge-") as name:
        folder = Path(name)
        objection = verifier.prepare(scene.workspace, folder)
        if objection is not None:
            return objection
        result = await sandbox.run_async(
            [sandbox.python.executable, *verifier.command],
            workspace=folder,
            limits=replace(sandbox.limits, wall_seconds=TIMEOUT_S),
            environment={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        )
        for file in (result.stdout_file, result.stderr_file):
            if file is not None:
                file.unlink()
        if result.reason == "timeout":
            return wrong(f"the tests took longer than {TIMEOUT_S:g} s")
        return verifier.judge(folder)
