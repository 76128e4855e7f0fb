"""A Python that stays alive inside the sandbox between calls, and is replaced when it dies."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from perilune.sandbox import Sandbox, SandboxProcess
from perilune.sandbox.capture import OutputCapture

GRACE = 2.0
"""Seconds that interrupted code gets to stop before it is killed."""

_LONGEST_ANSWER = 4096
_POLL = 0.1


class _WorkerGoneError(Exception):
    """The worker closed its side: it died, or a bound of the sandbox killed it."""


@dataclass(frozen=True, slots=True)
class CellResult:
    """What a cell printed and how it ended.

    `lost` says why the variables are gone, if they are; `first` that no cell ran before in this
    process. `notices`: see `SandboxResult`.
    """

    stdout: OutputCapture
    stderr: OutputCapture
    ok: bool
    interrupted: bool = False
    lost: str = ""
    first: bool = False
    notices: tuple[str, ...] = ()


class PythonSession:
    """One worker process and its protocol. Calls come one at a time.

    What the worker sends is not trusted: code in the sandbox could write to its descriptors. The
    worst that a forged line can do is to end its own cell early.
    """

    def __init__(self, sandbox: Sandbox, workspace: Path, *, shown: int) -> None:
        self._sandbox = sandbox
        self._workspace = workspace
        self._shown = shown
        self._process: SandboxProcess | None = None
        self._requests = self._answers = -1
        self._buffer = b""
        self._number = 0

    async def run(self, code: str, timeout: float) -> CellResult:
        """Run a cell. Raises `SandboxError` when no worker can be started."""
        first = self._process is None or self._process.ended
        if first:
            self._close_pipes()
            await asyncio.to_thread(self._start)
        process = self._process
        assert process is not None
        self._number += 1
        ok: bool | None = None
        interrupted, lost = False, ""
        try:
            await self._send({"id": self._number, "code": code})
            ok = await self._answer(time.monotonic() + timeout)
            if ok is None:
                interrupted = True
                await self._send({"interrupt": self._number})
                ok = await self._answer(time.monotonic() + GRACE)
                if ok is None:
                    await self.close()
                    lost = "it did not stop when it was interrupted"
        except _WorkerGoneError:
            lost = await self._end_of(process)
        except BaseException:
            await self.close()
            raise
        stdout, stderr = await asyncio.to_thread(process.collect)
        notices = await asyncio.to_thread(process.settle)
        return CellResult(stdout, stderr, bool(ok), interrupted, lost, first, tuple(notices))

    async def close(self) -> None:
        """End the worker, if there is one."""
        if self._process is not None:
            self._process.kill()
            await self._end_of(self._process)

    def _start(self) -> None:
        source = Path(__file__).with_name("worker.py").read_text("utf-8")
        reading, self._requests = os.pipe()
        self._answers, writing = os.pipe()
        limits = replace(
            self._sandbox.limits, wall_seconds=None, cpu_seconds=None, shown=self._shown
        )
        python = self._sandbox.python.executable
        try:
            self._process = self._sandbox.start(
                [python, "-u", "-c", source, str(reading), str(writing)],
                workspace=self._workspace,
                limits=limits,
                pass_fds=(reading, writing),
                close_fds=(reading, writing),
            )
        except BaseException:
            self._close_pipes()
            raise
        os.set_blocking(self._requests, False)
        os.set_blocking(self._answers, False)
        self._buffer = b""

    async def _end_of(self, process: SandboxProcess) -> str:
        """Wait for the end of a worker that closed its side, and say how it ended."""
        future = asyncio.wrap_future(process.result)
        await asyncio.wait([future], timeout=GRACE)
        process.kill()
        try:
            result = await future
        finally:
            self._close_pipes()
            self._process = None
        return result.explanation or "it ended itself"

    async def _send(self, message: dict[str, object]) -> None:
        data = memoryview(json.dumps(message).encode() + b"\n")
        while data:
            try:
                data = data[os.write(self._requests, data) :]
            except BlockingIOError:
                await asyncio.sleep(0.01)
            except BrokenPipeError:
                return
            if self._process is None or self._process.ended:
                return

    async def _answer(self, deadline: float) -> bool | None:
        """Whether the cell ended well; None when the time is over first."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._answers, readable.set)
        try:
            while True:
                readable.clear()
                try:
                    data = os.read(self._answers, 1 << 16)
                except BlockingIOError:
                    data = None
                if data == b"":
                    raise _WorkerGoneError
                self._buffer += data or b""
                *lines, self._buffer = self._buffer.split(b"\n")
                for line in lines:
                    answer = self._parse(line)
                    if answer is not None:
                        return answer
                self._buffer = self._buffer[-_LONGEST_ANSWER:]
                left = deadline - time.monotonic()
                if self._process is None or self._process.ended:
                    raise _WorkerGoneError
                if left <= 0:
                    return None
                try:
                    await asyncio.wait_for(readable.wait(), min(left, _POLL if not data else left))
                except TimeoutError:
                    continue
        finally:
            loop.remove_reader(self._answers)

    def _parse(self, line: bytes) -> bool | None:
        try:
            answer = json.loads(line)
            return bool(answer["ok"]) if answer["id"] == self._number else None
        except (ValueError, TypeError, KeyError):
            return None

    def _close_pipes(self) -> None:
        for descriptor in (self._requests, self._answers):
            if descriptor >= 0:
                os.close(descriptor)
        self._requests = self._answers = -1
