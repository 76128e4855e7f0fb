"""Text of PDF files, read in a process of its own: a bad file may cost its time and memory, not
ours."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from pathlib import Path

from perilune.processes import FIXED_FOLDER, clean_environment, python_script

TIMEOUT = 60.0  # seconds for one file
_WORKER = Path(__file__).with_name("pdf_worker.py")


class Unreadable(Exception):
    """Why a file cannot be indexed, in a few words."""


class PdfReader:
    """Starts its process at the first file; a file that takes too long ends it."""

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, data: bytes) -> tuple[str, str]:
        """Title and text, page by page. Raises `Unreadable`."""
        with tempfile.NamedTemporaryFile(suffix=".pdf") as file:
            file.write(data)
            file.flush()
            answer = self._ask(file.name)
        if answer is None:
            self.close()
            raise Unreadable(
                f"the PDF could not be read within {self._timeout:.0f} s and its memory"
            )
        if problem := answer.get("problem"):
            raise Unreadable(problem)
        return answer.get("title", ""), answer.get("text", "")

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            self._process = None

    def _ask(self, path: str) -> dict[str, str] | None:
        """The worker's answer; None if it ended or took too long."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                python_script(_WORKER), cwd=FIXED_FOLDER, env=clean_environment(),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(path.encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            return None
        deadline = time.monotonic() + self._timeout
        source, answer = self._process.stdout.fileno(), b""
        while not answer.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([source], [], [], left)[0]:
                return None
            part = os.read(source, 1 << 20)
            if not part:
                return None
            answer += part
        loaded = json.loads(answer)
        return loaded if isinstance(loaded, dict) else None
