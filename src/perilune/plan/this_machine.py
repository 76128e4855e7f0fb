"""This machine, measured: memory and bandwidth as `doctor` and the engine see them, disk, cores.

What the engine itself reaches here (`calibration.py`) replaces the efficiencies of the data.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from perilune.engine.metrics import machine_bandwidth
from perilune.errors import PeriluneError
from perilune.kernels import native
from perilune.plan.calibration import Calibration
from perilune.plan.figure import Figure
from perilune.plan.machine import Kind, Machine, Tier
from perilune.weights.memory import available_memory

BLOCK = 8 << 20  # bytes of one read, as large as a piece of an expert
THREADS = 4
SECONDS = 1.0
PROBE = 256 << 20  # bytes of the file that is made where the folder has none as large


def this_machine(folder: Path, *, disk: bool = True) -> Machine:
    """Measured within seconds, without running the engine.

    `folder`: where the weights lie or would lie. Raises PeriluneError where nobody can say how
    much memory is free.
    """
    available = available_memory(torch.device("cpu"))
    if available is None:
        raise PeriluneError(
            "this system does not say how much memory is free",
            remedy="Describe the machine in a file: --hardware FILE.toml, see docs/plan.md",
        )
    tiers = [*_cards(), Tier(Kind.RAM, available, Figure.exactly(machine_bandwidth()))]
    rate = disk_rate(folder) if disk else None
    if rate is not None:
        tiers.append(Tier(Kind.DISK, shutil.disk_usage(folder).total, Figure.exactly(rate)))
    cores = native.threads() if native.available() else torch.get_num_threads()
    return Machine("this", f"this machine, {cores} cores", tuple(tiers))


def calibrated(machine: Machine, calibration: Calibration) -> Machine:
    """The same machine with the bandwidth and the arithmetic that the engine was measured at."""
    operations = Figure.exactly(calibration.operations)
    bandwidth = Figure.exactly(calibration.bandwidth)
    tiers = tuple(
        replace(tier, bandwidth=bandwidth, operations=operations) if tier.kind is Kind.RAM else tier
        for tier in machine.tiers
    )
    return replace(machine, tiers=tiers)


def disk_rate(folder: Path) -> float | None:
    """Bytes per second of O_DIRECT reads from random places by four threads.

    None where the system has no such reads (a memory file system, another operating system).
    """
    if not hasattr(os, "O_DIRECT") or not hasattr(os, "preadv"):
        return None
    try:
        with _probe(folder) as file:
            descriptor = os.open(file, os.O_RDONLY | os.O_DIRECT)
            try:
                return _read_rate(descriptor, os.fstat(descriptor).st_size // BLOCK)
            finally:
                os.close(descriptor)
    except OSError:
        return None


def _read_rate(descriptor: int, blocks: int) -> float:
    start = time.perf_counter()

    def read(seed: int) -> int:
        pick = random.Random(seed)  # noqa: S311 - places of a measurement
        buffer = mmap.mmap(-1, BLOCK)  # aligned, as O_DIRECT wants it
        done = 0
        while time.perf_counter() - start < SECONDS:
            done += os.preadv(descriptor, [buffer], pick.randrange(blocks) * BLOCK)
        return done

    with ThreadPoolExecutor(THREADS) as pool:
        total = sum(pool.map(read, range(THREADS)))
    return total / (time.perf_counter() - start)


@contextmanager
def _probe(folder: Path) -> Iterator[Path]:
    """A large file of the folder, or one made for the while."""
    large = [f for f in folder.glob("*.safetensors") if f.stat().st_size >= PROBE]
    if large:
        yield large[0]
        return
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".perilune-plan-") as file:
        piece = os.urandom(1 << 20)
        for _ in range(PROBE >> 20):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        yield Path(file.name)


def _cards() -> list[Tier]:
    """NVIDIA cards, their bandwidth by a copy on the first."""
    count = torch.cuda.device_count()
    if not count:
        return []
    free, _ = torch.cuda.mem_get_info(0)
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda:0")
    target = torch.empty_like(source)
    target.copy_(source)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(8):
        target.copy_(source)
    torch.cuda.synchronize()
    rate = 8 * 2 * source.nbytes / (time.perf_counter() - start)
    return [Tier(Kind.VRAM, free, Figure.exactly(rate), count)]
