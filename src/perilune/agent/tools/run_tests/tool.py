"""`run_tests`: pytest in the sandbox, read back through its JUnit report."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import DescribedTool, in_thread, sandbox_of, workspace_of
from perilune.agent.tools.run_tests.report import TestReport, read_report
from perilune.agent.workspace.workspace import Workspace
from perilune.errors import SandboxError, ToolError
from perilune.sandbox.limits import SandboxResult, notices_text

LARGEST_REPORT = 32 << 20
_SHOWN_FAILURES = 12


class RunTests(DescribedTool):
    name = "run_tests"
    timeout = 1900.0

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        workspace = workspace_of(context)
        sandbox = await sandbox_of(context)
        targets = [_target(workspace, str(each)) for each in arguments.get("target", [])]
        report = f".perilune-tests-{secrets.token_hex(4)}.xml"
        argv = [sandbox.python.executable, "-m", "pytest", "-q", "--color=no", "--tb=short"]
        argv += ["-p", "no:cacheprovider", f"--junitxml={report}", "-o", "junit_logging=no"]
        if "match" in arguments:
            argv += ["-k", str(arguments["match"])]
        if arguments.get("first_failure"):
            argv.append("-x")
        limits = replace(sandbox.limits, wall_seconds=float(arguments.get("timeout", 300)))
        try:
            result = await sandbox.run_async(
                [*argv, "--", *targets],
                workspace=context.workspace,
                limits=limits,
                merge_stderr=True,
            )
            found = await in_thread(_read, workspace, report)
        except SandboxError as error:
            raise ToolError(f"the tests were not run: {error.message}") from None
        finally:
            await in_thread(workspace.remove, report)
        if result.stdout_file is not None:
            result.stdout_file.unlink()
        return _result(result, found)


def _target(workspace: Workspace, target: str) -> str:
    """A path or node id, confined; it cannot be taken for an option."""
    path, separator, rest = target.partition("::")
    return f"./{workspace.relative(path)}{separator}{rest}"


def _read(workspace: Workspace, report: str) -> TestReport | None:
    if not workspace.exists(report):
        return None
    return read_report(workspace.read_bytes(report, most=LARGEST_REPORT))


def _result(result: SandboxResult, report: TestReport | None) -> ToolResult:
    if report is None or result.exit_code not in (0, 1):
        # 2 interrupted, 3 internal error, 4 usage, 5 no tests; or it was stopped.
        how = {5: "no test was found"}.get(result.exit_code or 0, result.explanation)
        text = f"{how}\n{result.stdout[-6000:]}{notices_text(result.notices)}"
        return ToolResult(text.strip(), is_error=True)
    lines = [report.summary]
    for failure in report.failures[:_SHOWN_FAILURES]:
        lines.append(f"\n{failure.kind} {failure.test}\n{failure.detail}")
    if len(report.failures) > _SHOWN_FAILURES:
        rest = [failure.test for failure in report.failures[_SHOWN_FAILURES:]]
        lines.append(f"\nand {len(rest)} more: {', '.join(rest[:50])}")
    text = "\n".join(lines) + notices_text(result.notices)
    return ToolResult(text, is_error=bool(report.failures))
