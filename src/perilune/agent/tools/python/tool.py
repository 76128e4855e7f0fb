"""`python`: cells in a namespace that lives as long as the run."""

from __future__ import annotations

import asyncio
from typing import Any

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import WHOLE_OUTPUT, DescribedTool, sandbox_of
from perilune.agent.tools.python.session import CellResult, PythonSession
from perilune.errors import SandboxError, ToolError
from perilune.sandbox.capture import OutputCapture
from perilune.sandbox.limits import notices_text

SHOWN = 14_000
_STATE = "python"


class Python(DescribedTool):
    name = "python"
    timeout = 660.0

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        session, lock = await _session(context)
        seconds = float(arguments.get("timeout", 120))
        async with lock:
            if arguments.get("restart"):
                await session.close()
            try:
                cell = await session.run(str(arguments["code"]), seconds)
            except SandboxError as error:
                raise ToolError(f"Python cannot be started: {error.message}") from None
        return _result(cell, seconds)


async def _session(context: ToolContext) -> tuple[PythonSession, asyncio.Lock]:
    """The run's session, made at the first call and closed with the run."""
    if _STATE not in context.state:
        sandbox = await sandbox_of(context)
        session = PythonSession(sandbox, context.workspace, shown=SHOWN)
        context.state[_STATE] = (session, asyncio.Lock())
        context.on_run_end(session.close)
    kept: tuple[PythonSession, asyncio.Lock] = context.state[_STATE]
    return kept


def _result(cell: CellResult, seconds: float) -> ToolResult:
    parts = [cell.stdout.text().rstrip("\n"), cell.stderr.text().rstrip("\n")]
    if cell.interrupted and not cell.lost:
        parts.append(f"[interrupted after {seconds:g} s; variables were kept]")
    if cell.first and "NameError" in parts[1]:
        # After a crash and a resume the model may count on variables that are gone.
        parts.append("[this Python process is new: nothing was defined in it before]")
    if cell.lost:
        parts.append(
            f"[the Python process is gone: {cell.lost}. All variables are lost; the next call "
            "starts a new one]"
        )
    parts.append(notices_text(cell.notices).strip("\n"))
    text = "\n".join(part for part in parts if part) or ("(no output)" if cell.ok else "(failed)")
    full = None
    if cell.stdout.file is not None or cell.stderr.file is not None:
        full = "\n".join(_whole(each) for each in (cell.stdout, cell.stderr) if each.size)
    return ToolResult(text, is_error=not cell.ok, full_output=full)


def _whole(capture: OutputCapture) -> str:
    if capture.file is None:
        return capture.text()
    with capture.file.open("rb") as file:
        data = file.read(WHOLE_OUTPUT)
    capture.file.unlink()
    return data.decode("utf-8", "replace")
