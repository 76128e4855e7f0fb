"""The kernels' lines of `perilune doctor`: the library, its threads, the bandwidth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from perilune.kernels import native


@dataclass(frozen=True, slots=True)
class KernelCheck:
    """One line of the table (the fields that `perilune.cli.doctor` reads)."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def doctor_checks() -> Iterator[KernelCheck]:
    """The library, its threads, the measured read bandwidth."""
    library = native.library()
    if library is None:
        yield KernelCheck(
            "kernels",
            False,
            "the C kernels are not built; torch computes, slower",
            "Install a C compiler (gcc or clang) and reinstall perilune",
        )
    else:
        quota = float(library.plk_cpu_quota())
        yield KernelCheck(
            "kernels",
            True,
            f"{native.isa()} of {', '.join(native.isas())}; {native.threads()} threads "
            f"({library.plk_physical_cores()} cores, "
            f"{f'quota {quota:g} CPUs' if quota else 'no quota'}, "
            f"{library.plk_numa_nodes()} NUMA nodes)",
        )
        yield KernelCheck(
            "memory bandwidth",
            True,
            f"{native.read_bandwidth() / 1e9:.1f} GB/s read on all threads, the limit of decoding",
        )
