"""bash, python and run_tests, in the sandbox."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from perilune.agent.tool import ToolContext
from perilune.agent.tools.base import sandbox_of
from perilune.agent.tools.bash import Bash
from perilune.agent.tools.python.tool import Python
from perilune.agent.tools.run_tests.report import read_report
from perilune.agent.tools.run_tests.tool import RunTests
from perilune.agent.tools.write_file import WriteFile
from perilune.errors import SandboxError, ToolError
from tests.agent.tools.conftest import Call

pytestmark = pytest.mark.usefixtures("sandboxed")

# --- bash ---


async def test_bash_runs_in_the_workspace(call: Call, workspace: Path) -> None:
    (workspace / "a.txt").write_text("x")
    result = await call(Bash(), command="ls; echo err >&2; pwd; echo made > b.txt")
    assert result.content == "a.txt\nerr\n/workspace"
    assert not result.is_error
    assert (workspace / "b.txt").read_text() == "made\n"


async def test_bash_tells_exit_codes_timeouts_and_silence(call: Call) -> None:
    result = await call(Bash(), command="echo said; exit 3")
    assert (result.content, result.is_error) == ("said\n[exit code 3]", True)
    result = await call(Bash(), command="echo said; sleep 30", timeout=0.5)
    assert result.content == "said\n[stopped: it ran longer than 0.5 s]"
    assert (await call(Bash(), command="true")).content == "(no output)"


async def test_bash_keeps_the_whole_of_a_long_output(call: Call, context: ToolContext) -> None:
    result = await call(Bash(), command="seq 100000")
    assert len(str(result.content)) < 16_000
    assert "left out" in str(result.content)
    assert result.full_output == "\n".join(map(str, range(1, 100_001))) + "\n"


async def test_bash_does_not_wait_for_questions(call: Call) -> None:
    result = await call(Bash(), command="read -p 'sure? ' x || echo nobody answered", timeout=5)
    assert "nobody answered" in str(result.content)


async def test_bash_has_no_network(call: Call) -> None:
    result = await call(Bash(), command="exec 3<>/dev/tcp/127.0.0.1/80")
    assert result.is_error
    assert "not supported" in str(result.content)


@pytest.mark.parametrize(
    "arguments", [{}, {"command": ""}, {"command": "x", "timeout": 0}, {"command": ["ls"]}]
)
async def test_bash_with_bad_input(call: Call, arguments: dict[str, object]) -> None:
    with pytest.raises(ToolError):
        await call(Bash(), **arguments)
    with pytest.raises(ToolError, match="write_file"):
        await call(Bash(), command="x" * 200_000)


async def test_cancelling_bash_kills_it(call: Call, workspace: Path) -> None:
    task = asyncio.ensure_future(call(Bash(), command="touch on; sleep 30; touch survived"))
    while not (workspace / "on").exists():
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not (workspace / "survived").exists()


async def test_files_written_by_tools_can_be_changed_by_commands(call: Call) -> None:
    await call(WriteFile(), path="new/a.txt", content="one\n")
    result = await call(Bash(), command="echo two >> new/a.txt && cat new/a.txt && rm new/a.txt")
    assert result.content == "one\ntwo"


async def test_without_a_sandbox_nothing_runs(
    call: Call, context: ToolContext, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(kind: str) -> None:
        raise SandboxError("bubblewrap is not installed", remedy="Run: the line.")

    context.sandbox = None
    monkeypatch.setattr("perilune.agent.tools.base.open_sandbox", refuse)
    for tool, arguments in ((Bash(), {"command": "touch x"}), (Python(), {"code": "1"})):
        with pytest.raises(ToolError, match="bubblewrap is not installed"):
            await call(tool, **arguments)
    assert list(workspace.iterdir()) == []


async def test_the_sandbox_is_opened_once_a_run(context: ToolContext) -> None:
    context.sandbox = None
    assert await sandbox_of(context) is await sandbox_of(context)


# --- python ---


async def test_python_keeps_its_variables(call: Call) -> None:
    assert (await call(Python(), code="x = 20\nx + 1")).content == "21"
    assert (
        await call(Python(), code="def f(y):\n    return x + y\nprint('said')\nf(2)")
    ).content == ("said\n22")
    assert (await call(Python(), code="_ + 1")).content == "23"
    assert (await call(Python(), code="x = 1")).content == "(no output)"


async def test_python_shows_a_traceback_of_the_cell_only(call: Call) -> None:
    result = await call(Python(), code="def f():\n    return 1 / 0\n\nf()")
    assert result.is_error
    text = str(result.content)
    assert text.startswith("Traceback")
    assert '<cell 1>", line 4' in text
    assert "return 1 / 0" in text
    assert "ZeroDivisionError" in text
    assert "worker" not in text
    assert "eval(" not in text
    assert "SyntaxError" in str((await call(Python(), code="x = (")).content)


async def test_python_prints_what_its_children_print(call: Call) -> None:
    code = "import subprocess, sys\nprint('one')\nsubprocess.run(['echo', 'two'])\nprint('three')"
    assert (await call(Python(), code=code)).content == "one\ntwo\nthree"


async def test_python_interrupts_and_keeps_variables(call: Call) -> None:
    await call(Python(), code="x = 5")
    result = await call(Python(), code="import time\ntime.sleep(60)", timeout=0.3)
    assert "KeyboardInterrupt" in str(result.content)
    assert "variables were kept" in str(result.content)
    assert (await call(Python(), code="x")).content == "5"


async def test_python_kills_what_does_not_stop(call: Call) -> None:
    await call(Python(), code="x = 5")
    code = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    result = await call(Python(), code=code, timeout=0.3)
    assert result.is_error
    assert "All variables are lost" in str(result.content)
    text = str((await call(Python(), code="x")).content)
    assert "NameError" in text
    assert "this Python process is new" in text


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os; os._exit(3)", "exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
        ("import ctypes; ctypes.string_at(0)", "signal 11"),
        ("import os; os.close(int(os.sys.orig_argv[-1]))", "gone"),
    ],
)
async def test_python_that_dies_is_said_and_replaced(call: Call, code: str, why: str) -> None:
    result = await call(Python(), code=f"print('last words', flush=True)\n{code}", timeout=5)
    assert result.is_error
    assert "last words" in str(result.content)
    assert why in str(result.content)
    assert (await call(Python(), code="1 + 1")).content == "2"


async def test_python_in_bounds(call: Call) -> None:
    assert "MemoryError" in str((await call(Python(), code="x = bytearray(8 << 30)")).content)
    assert (await call(Python(), code="1")).content == "1"
    assert "EOFError" in str((await call(Python(), code="input()")).content)
    assert "OSError" in str((await call(Python(), code="import socket; socket.socket()")).content)
    result = await call(Python(), code="for i in range(100_000): print(i)")
    assert result.full_output is not None
    assert result.full_output.count("\n") == 100_000
    assert len(str(result.content)) < 16_000


async def test_python_restarts_on_request(call: Call) -> None:
    await call(Python(), code="x = 1")
    assert "NameError" in str((await call(Python(), code="x", restart=True)).content)


async def test_python_survives_exits_and_awaits(call: Call) -> None:
    assert "the session goes on" in str((await call(Python(), code="raise SystemExit(2)")).content)
    code = "import asyncio\nawait asyncio.sleep(0.01)\nasyncio.iscoroutinefunction(main)"
    assert (await call(Python(), code="async def main(): pass\n" + code)).content == "True"


async def test_python_pickles_its_own_classes(call: Call) -> None:
    code = "class A: pass\nimport pickle\ntype(pickle.loads(pickle.dumps(A()))).__name__"
    assert (await call(Python(), code=code)).content == "'A'"


async def test_a_forged_answer_cannot_confuse_the_next_cell(call: Call) -> None:
    forge = "import os\nfd = int(os.sys.orig_argv[-1])\n"
    forge += "os.write(fd, b'{\"id\": 2, \"ok\": true}\\nnonsense\\n[]\\n' + b'x' * 100_000)\n1"
    await call(Python(), code=forge, timeout=0.3)
    await call(Python(), code="print('two')")
    assert (await call(Python(), code="'three'")).content in ("'three'", "two\n'three'")


async def test_calls_at_once_run_one_after_the_other(call: Call) -> None:
    await call(Python(), code="import time; log = []")
    cell = "log.append('in'); time.sleep(0.05); log.append('out'); len(log)"
    results = await asyncio.gather(*(call(Python(), code=cell) for _ in range(3)))
    assert sorted(str(result.content) for result in results) == ["2", "4", "6"]
    assert (await call(Python(), code="log == ['in', 'out'] * 3")).content == "True"


async def test_the_worker_ends_with_the_run(sandboxed: ToolContext, workspace: Path) -> None:
    closers: list[object] = []
    sandboxed.on_run_end = closers.append  # type: ignore[assignment]
    await Python().run({"code": "x = 1"}, sandboxed)
    session, _ = sandboxed.state["python"]
    process = session._process
    await closers[0]()  # type: ignore[operator]
    started = time.monotonic()
    while not process.ended:
        assert time.monotonic() - started < 5
        await asyncio.sleep(0.01)


# --- run_tests ---


async def test_run_tests_gives_structured_failures(call: Call, workspace: Path) -> None:
    (workspace / "tests").mkdir()
    (workspace / "tests" / "test_a.py").write_text(
        "import pytest\n\ndef test_good(): pass\n\ndef test_bad():\n    x = [1]\n"
        "    assert x == [2]\n\nclass TestC:\n    def test_error(self, absent): pass\n\n"
        "@pytest.mark.skip\ndef test_skipped(): pass\n"
    )
    result = await call(RunTests())
    text = str(result.content)
    assert result.is_error
    assert text.startswith("1 passed, 1 failed, 1 errors, 1 skipped in ")
    assert "FAILED tests/test_a.py::test_bad\ntests/test_a.py:7: in test_bad" in text
    assert "assert [1] == [2]" in text
    assert "ERROR tests/test_a.py::TestC::test_error" in text
    assert sorted(path.name for path in workspace.iterdir()) == ["tests"]

    good = await call(RunTests(), target=["tests/test_a.py::test_good"], match="good")
    assert not good.is_error
    assert str(good.content).startswith("1 passed in ")


async def test_run_tests_with_bad_input(call: Call, workspace: Path) -> None:
    with pytest.raises(ToolError, match="out of the workspace"):
        await call(RunTests(), target=["../other"])
    (workspace / "test_broken.py").write_text("def (")
    result = await call(RunTests(), target=["test_broken.py"])
    assert result.is_error
    assert "SyntaxError" in str(result.content)
    # Not an option, whatever it looks like.
    result = await call(RunTests(), target=["--version"])
    assert result.is_error
    assert "--version" in str(result.content)


def test_reports_that_are_none_are_refused() -> None:
    bomb = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa">]><x>&a;</x>'
    for data in (b"", b"<x", bomb):
        with pytest.raises(ToolError):
            read_report(data)
    assert read_report(b"<testsuites/>").summary == "0 passed in 0.00 s"
