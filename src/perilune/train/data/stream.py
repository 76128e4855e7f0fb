"""Documents in order, made ahead by worker processes.

Blocks of indices go to the workers in turn and come back in turn, so the order does not depend on
how many there are. Workers are spawned, not forked (torch has threads), run at a low priority, and
end with their parent.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import traceback
from collections.abc import Iterator
from multiprocessing.queues import Queue
from typing import Any

from perilune.errors import DataError, PeriluneError
from perilune.processes import safe_spawning
from perilune.train.data.document import Document
from perilune.train.data.mixture import Mixture, MixtureSpec

BLOCK = 16  # documents that go through a queue at a time
AHEAD = 8  # blocks that a worker may be ahead


class DocumentStream:
    """Iterate over documents `start`, `start + 1`, ...; `position` is the next one's number.

    Use as a context manager, or call `close`. Raises DataError where a source fails.
    """

    def __init__(self, spec: MixtureSpec, *, start: int = 0, workers: int = 0) -> None:
        self.position = start
        self._queues: list[Queue[Any]] = []
        self._processes: list[Any] = []
        self._mixture = Mixture(spec) if not workers else None
        self._block: list[Document] = []
        self._next_queue = 0
        context = multiprocessing.get_context("spawn")
        for number in range(workers):
            with safe_spawning():  # a queue may start the resource tracker
                channel: Queue[Any] = context.Queue(AHEAD)
            process = context.Process(
                target=_work,
                args=(spec, start + number * BLOCK, workers * BLOCK, channel),
                daemon=True,
            )
            with safe_spawning():
                process.start()
            self._queues.append(channel)
            self._processes.append(process)

    def __iter__(self) -> Iterator[Document]:
        return self

    def __next__(self) -> Document:
        if self._mixture is not None:
            document = self._mixture(self.position)
        else:
            if not self._block:
                self._block = self._receive()
            document = self._block.pop()
        self.position += 1
        return document

    def _receive(self) -> list[Document]:
        number = self._next_queue
        self._next_queue = (number + 1) % len(self._queues)
        while True:
            try:
                answer = self._queues[number].get(timeout=5.0)
                break
            except queue.Empty:
                if not self._processes[number].is_alive():
                    raise DataError(
                        "a process that makes training documents died",
                        remedy="Look for a memory limit; `workers = 0` shows an error in place",
                    ) from None
        if isinstance(answer, str):
            raise DataError(f"a data source failed: {answer}")
        documents: list[Document] = answer
        return documents[::-1]

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
        self._processes, self._queues = [], []

    def __enter__(self) -> DocumentStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _work(spec: MixtureSpec, start: int, stride: int, channel: Queue[Any]) -> None:
    with contextlib.suppress(OSError):
        os.nice(5)
    try:
        mixture = Mixture(spec)
        while True:
            channel.put([mixture(i) for i in range(start, start + BLOCK)])
            start += stride
    except KeyboardInterrupt:
        return
    except PeriluneError as error:
        channel.put(str(error))
    except Exception:
        channel.put(traceback.format_exc(limit=-3))
