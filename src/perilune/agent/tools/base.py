"""What the built-in tools share.

A tool is its code and, beside it under the same name, a Markdown file: what the model reads, and
behind it the schema of the arguments as a block of JSON.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from functools import cache
from typing import Any, ParamSpec, TypeVar, cast

from perilune.agent.tool import ToolContext, ToolResult, description_beside
from perilune.agent.workspace.workspace import Workspace
from perilune.errors import SandboxError, ToolError
from perilune.sandbox import Sandbox, open_sandbox
from perilune.sandbox.limits import SandboxResult

P = ParamSpec("P")
T = TypeVar("T")

WHOLE_OUTPUT = 8 << 20
"""Bytes of a long output that are kept for later reading; the rest is dropped, and said so."""

_SCHEMA = "\n```json\n"


class DescribedTool:
    """A tool whose description and schema lie beside its code, under the same name (`.md`)."""

    name: str
    side_effects: bool = True
    parallel_safe: bool = False
    timeout: float | None = 120.0

    @property
    def description(self) -> str:
        return _description(inspect.getfile(type(self)))

    @property
    def parameters(self) -> dict[str, Any]:
        return _schema(inspect.getfile(type(self)))

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        raise NotImplementedError


class ReadingTool(DescribedTool):
    """A tool that changes nothing, so that several may run side by side."""

    side_effects = False
    parallel_safe = True


@cache
def _description(code_file: str) -> str:
    return description_beside(code_file).partition(_SCHEMA)[0].rstrip()


@cache
def _schema(code_file: str) -> dict[str, Any]:
    block = description_beside(code_file).partition(_SCHEMA)[2]
    schema = json.loads(block.removesuffix("```"))
    return cast(dict[str, Any], schema)


async def in_thread(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run blocking work beside the event loop."""
    return await asyncio.to_thread(function, *arguments, **named)


def workspace_of(context: ToolContext) -> Workspace:
    """The workspace of a run, confined."""
    return Workspace(context.workspace)


async def sandbox_of(context: ToolContext) -> Sandbox:
    """The sandbox of a run: the given one, or the strong one, opened at its first use.

    Raises `ToolError` for the model when it does not work here; the command is then not run.
    """
    given = context.sandbox
    if isinstance(given, Sandbox):
        return given
    kept = context.state.get("sandbox")
    if isinstance(kept, Sandbox):
        return kept
    try:
        opened = await in_thread(open_sandbox, given or "bubblewrap")
    except SandboxError as error:
        raise ToolError(
            f"commands cannot be run: {error.message}",
            remedy=f"{error.remedy} Go on without running anything, and say so.",
        ) from None
    context.state["sandbox"] = opened
    return opened


def whole_output(result: SandboxResult) -> str | None:
    """The full text of a command's output when it was shown shortened; its file is removed."""
    if result.stdout_file is None:
        return None
    with result.stdout_file.open("rb") as file:
        data = file.read(WHOLE_OUTPUT)
    result.stdout_file.unlink()
    text = data.decode("utf-8", "replace")
    if result.stdout_bytes > WHOLE_OUTPUT:
        text += f"\n[only the first {WHOLE_OUTPUT} of {result.stdout_bytes} bytes were kept]"
    return text
