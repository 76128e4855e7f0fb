"""`perilune doctor`: what this machine can do, and what is missing, one line a check.

A package adds its own checks with a function `doctor_checks()` in one of the modules of
`ROOM_CHECKS`; it returns objects with the fields of `Check`.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Protocol

import typer

# In the order of their checks; a module that does not exist has none.
ROOM_CHECKS = (
    "perilune.kernels.doctor",
    "perilune.weights.doctor",
    "perilune.runner.doctor",
    "perilune.chat.doctor",
    "perilune.engine.doctor",
    "perilune.sandbox.doctor",
    "perilune.search.doctor",
)
# What decides the speed of the CPU kernels, as /proc/cpuinfo spells it.
CPU_FLAGS = (
    "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx_vnni",
    "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
LOW_DISK = 10**9  # bytes


class Check(Protocol):
    """One line of the table. Not `ok`: something is missing here, and `remedy` says what to do."""

    @property
    def name(self) -> str: ...
    @property
    def ok(self) -> bool: ...
    @property
    def detail(self) -> str: ...
    @property
    def remedy(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Finding:
    """A check of this file."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


app = typer.Typer(add_completion=False)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array of checks.")] = False,
) -> None:
    """Say what this machine can do, and what is missing. Exits with 1 where something is."""
    checks = list(run_checks())
    if as_json:
        rows = [
            {"name": c.name, "ok": c.ok, "detail": c.detail, "remedy": c.remedy} for c in checks
        ]
        print(json.dumps(rows, indent=2))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            print(f"{'ok' if check.ok else 'NOT OK':>6}  {check.name:<{width}}  {check.detail}")
            if check.remedy:
                print(f"{'':>6}  {'':<{width}}  -> {check.remedy}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def run_checks() -> Iterator[Check]:
    """Every check of this file, then those of the packages. A check that raises has failed."""
    for name, check in CHECKS.items():
        try:
            yield check()
        except Exception as error:
            yield Finding(name, False, f"{type(error).__name__}: {error}")
    for module in ROOM_CHECKS:
        if find_spec(module) is None:
            continue
        try:
            yield from import_module(module).doctor_checks()
        except Exception as error:
            yield Finding(
                module.removeprefix("perilune."), False, f"{type(error).__name__}: {error}"
            )


def check_version() -> Finding:
    from importlib.metadata import PackageNotFoundError, version

    folder = Path(__file__).parents[1]
    try:
        return Finding("perilune", True, f"{version('perilune')} in {folder}")
    except PackageNotFoundError:
        return Finding("perilune", True, f"run from {folder}, not installed")


def check_python() -> Finding:
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    return Finding("python", True, f"{platform.python_version()} on {system}")


def check_torch() -> Finding:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    devices = ", ".join(gpus) if gpus else "no GPU"
    return Finding(
        "torch", True, f"{torch.__version__}, {torch.get_num_threads()} CPU threads, {devices}"
    )


def check_cpu() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name, flags = platform.processor() or platform.machine(), set[str]()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text("utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = set(value.split())
                break
    known = [flag for flag in CPU_FLAGS if flag in flags]
    return Finding("cpu", True, f"{cores} cores, {name}: {' '.join(known) or 'flags unknown'}")


def check_memory() -> Finding:
    import torch

    from perilune.weights.format_bytes import gigabytes
    from perilune.weights.memory import available_memory

    total = gigabytes(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    available = available_memory(torch.device("cpu"))
    free = "an unknown part" if available is None else gigabytes(available)
    return Finding("memory", True, f"{free} can be allocated, {total} in all")


def check_disk() -> Finding:
    from perilune.weights.format_bytes import gigabytes

    usage = shutil.disk_usage(Path.cwd())
    detail = f"{gigabytes(usage.free)} free of {gigabytes(usage.total)} in {Path.cwd()}"
    low = usage.free < LOW_DISK
    return Finding("disk", not low, detail, "Free some: checkpoints need room" if low else "")


CHECKS: dict[str, Callable[[], Finding]] = {
    "perilune": check_version,
    "python": check_python,
    "torch": check_torch,
    "cpu": check_cpu,
    "memory": check_memory,
    "disk": check_disk,
}
