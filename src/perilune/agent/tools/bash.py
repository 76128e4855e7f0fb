"""`bash`: one command line in the sandbox."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import DescribedTool, in_thread, sandbox_of, whole_output
from perilune.errors import SandboxError, ToolError
from perilune.sandbox.limits import notices_text

LONGEST_COMMAND = 100_000  # bytes; the kernel takes 128 KiB an argument
SHOWN = 14_000


class Bash(DescribedTool):
    name = "bash"
    timeout = 660.0

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        command = str(arguments["command"])
        if "\0" in command or len(command.encode("utf-8", "replace")) > LONGEST_COMMAND:
            raise ToolError(
                "the command is too long or holds a zero byte; nothing was run",
                remedy="Write a script with write_file, then run it.",
            )
        sandbox = await sandbox_of(context)
        limits = replace(
            sandbox.limits, wall_seconds=float(arguments.get("timeout", 120)), shown=SHOWN
        )
        try:
            result = await sandbox.run_async(
                ["/bin/bash", "-c", command],
                workspace=context.workspace,
                limits=limits,
                merge_stderr=True,
            )
        except SandboxError as error:
            raise ToolError(f"the command was not run: {error.message}") from None
        text = result.stdout.rstrip("\n")
        if not result.ok:
            text += f"\n[{result.explanation}]"
        text += notices_text(result.notices)
        full = await in_thread(whole_output, result)
        return ToolResult(
            text.strip("\n") or "(no output)", is_error=not result.ok, full_output=full
        )
