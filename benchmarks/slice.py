"""A slice of K2 at real width: how near decoding comes to the limit of the memory, loading to the
limit of the disk.

    python benchmarks/slice.py [--json] [--folder runs/slice] [--experts N] [--repetitions 9]
        [--loads 3] [--rest 20]

One dense and one MoE layer of K2 Thinking with embeddings and head, INT4 experts, random weights:
16 GB on disk (made on the first run) and in memory. Each decode step is timed between two reads
of a 512 MiB buffer on all threads; its share is (bytes it must touch / its time) / the mean of
the two reads. Bytes: every weight used once, of the experts only the chosen ones, one row of the
embeddings. Wanted: share >= 0.8.

The load is compared with its two limits, measured before and after it. The disk: O_DIRECT reads of
the same files, one and several at a time; their pages are dropped from the cache before each load.
Memory: the first writes to as many bytes of fresh memory, on all processors. A virtual machine
whose host takes back what its guest does not use has slow memory after a rest; so each load and
each touch comes `--rest` seconds after the memory was freed, and the touch is repeated at once to
show the difference. "Reading alone" fills the loaded model once more: the same reads and copies
without a first touch. Wanted: load >= 0.8 of the disk; where memory is slower, of that.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from perilune.kernels import native
from perilune.model.model import KimiK2Model
from perilune.model.slots import named_slots
from perilune.runner.batch import SequenceRows, build_batch
from perilune.runner.cache import PagedLatentCache
from perilune.runner.cpu.network import StepProfile
from perilune.runner.cpu.runner import CpuRunner
from perilune.weights.bulk import read_tensors
from perilune.weights.checkpoint import open_checkpoint
from perilune.weights.load import load_model

STREAM_BYTES = 512 << 20
DIRECT_BLOCK = 4 << 20
DIRECT_BYTES = 4 << 30  # less would measure the burst that a cloud's disk allows
DIRECT_THREADS = 4
TOUCH_BLOCK = 32 << 20
CONTEXT = 256


def make_checkpoint(folder: Path, experts: int | None) -> None:
    if (folder / "config.json").is_file():
        return
    command = [
        sys.executable, "-c", "from perilune.cli.main import main; main()", "models", "new",
        str(folder), "--like", "k2-thinking", "--scale", "slice", "--layers", "2",
        "--format", "int4",
    ]  # fmt: skip
    if experts is not None:
        command += ["--experts", str(experts)]
    subprocess.run(command, check=True, stdout=sys.stderr)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def drop_cache(folder: Path) -> None:
    for path in shards(folder):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def threads_rate(jobs: Sequence[Callable[[], int]], threads: int) -> float:
    """Bytes per second of jobs that return how many bytes they moved."""
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        done = sum(future.result() for future in [pool.submit(job) for job in jobs])
    return done / (time.perf_counter() - start)


def direct_rate(folder: Path, threads: int) -> float:
    """Bytes per second of reads past the page cache, from places spread over the files."""
    descriptors = [os.open(path, os.O_RDONLY | os.O_DIRECT) for path in shards(folder)]
    places = [
        (descriptor, offset)
        for descriptor in descriptors
        for offset in range(0, os.fstat(descriptor).st_size - DIRECT_BLOCK + 1, DIRECT_BLOCK)
    ]
    places = places[:: max(1, len(places) * DIRECT_BLOCK // DIRECT_BYTES)]
    buffers: SimpleQueue[mmap.mmap] = SimpleQueue()
    for _ in range(threads):
        buffer = mmap.mmap(-1, DIRECT_BLOCK)
        buffer.madvise(mmap.MADV_HUGEPAGE)
        buffer.write(b"1" * DIRECT_BLOCK)
        buffers.put(buffer)

    def read(descriptor: int, offset: int) -> int:
        buffer = buffers.get()
        got = os.preadv(descriptor, [buffer], offset)
        buffers.put(buffer)
        return got

    try:
        return threads_rate([partial(read, *place) for place in places], threads)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def touch_rate(size: int) -> float:
    """Bytes a second of the first writes to `size` bytes of fresh memory, on all processors."""
    memory = torch.empty(size, dtype=torch.uint8)
    native.advise_huge_pages(memory)
    address = memory.data_ptr()

    def write(offset: int) -> int:
        count = min(TOUCH_BLOCK, size - offset)
        ctypes.memset(address + offset, 1, count)  # without the interpreter's lock
        return count

    jobs = [partial(write, offset) for offset in range(0, size, TOUCH_BLOCK)]
    return threads_rate(jobs, os.cpu_count() or 1)


def timed_load(folder: Path, size: int) -> tuple[KimiK2Model, float]:
    """The model, and bytes per second of its load from files that no cache holds."""
    drop_cache(folder)
    start = time.perf_counter()
    model = load_model(folder, progress=False)
    return model, size / (time.perf_counter() - start)


def reread_rate(folder: Path, model: KimiK2Model, size: int) -> float:
    """The same reads into the same memory, which is at hand by now: what the reader itself does."""
    checkpoint = open_checkpoint(folder)
    targets = [
        (checkpoint.tensors[checkpoint.config.tensor_prefix + name], slot)
        for name, slot in named_slots(model)
    ]
    drop_cache(folder)
    start = time.perf_counter()
    read_tensors(targets)
    return size / (time.perf_counter() - start)


def load(folder: Path, repetitions: int, rest: float) -> tuple[KimiK2Model, dict[str, Any]]:
    """Loads between measurements of both limits; every figure is a median over `repetitions`.

    Each round: rest, touch, touch again at once; rest, disk, load, disk, reading alone, disk.
    """
    size = sum(path.stat().st_size for path in shards(folder))
    rounds: list[dict[str, float]] = []
    model = None
    for number in range(repetitions):
        model = None
        time.sleep(rest)
        seen = {"touch rested": touch_rate(size), "touch again": touch_rate(size)}
        time.sleep(rest)
        one, before = direct_rate(folder, 1), direct_rate(folder, DIRECT_THREADS)
        model, seen["load"] = timed_load(folder, size)
        between = direct_rate(folder, DIRECT_THREADS)
        seen["reading alone"] = reread_rate(folder, model, size)
        after = direct_rate(folder, DIRECT_THREADS)
        seen |= {"disk, one thread": one, "disk": statistics.median([before, between, after])}
        disk = (before + between) / 2
        seen["share of disk"] = seen["load"] / disk
        seen["share of smaller limit"] = seen["load"] / min(disk, seen["touch rested"])
        seen["share of disk, reading alone"] = seen["reading alone"] / ((between + after) / 2)
        rounds.append(seen)
        print(f"round {number + 1}: {describe(seen)}", file=sys.stderr)
    assert model is not None
    medians = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    return model, {"bytes": size, "medians": medians, "rounds": rounds}


def describe(seen: dict[str, float]) -> str:
    return ", ".join(
        f"{name} {value:.2f}" if name.startswith("share") else f"{name} {value / 1e9:.2f} GB/s"
        for name, value in seen.items()
    )


def decode(runner: CpuRunner, repetitions: int) -> dict[str, Any]:
    lib = native.require()
    buffer = torch.ones(STREAM_BYTES, dtype=torch.uint8)
    native.advise_huge_pages(buffer)

    def stream() -> float:
        return STREAM_BYTES / float(lib.plk_stream_read(buffer.data_ptr(), STREAM_BYTES))

    config = runner.config
    cache = PagedLatentCache.for_model(config, 16)
    pages = list(range(16))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (CONTEXT + repetitions + 1,), generator=generator)
    runner.execute(build_batch([SequenceRows(ids[:CONTEXT].tolist(), 0, pages, 1)]), cache)
    runner.profile = True
    shares, rates, profiles = [], [], []
    before = stream()
    for i in range(repetitions + 1):
        row = SequenceRows([int(ids[CONTEXT + i])], CONTEXT + i, pages, 1)
        runner.execute(build_batch([row]), cache)
        after = stream()
        profile = runner.last_profile
        assert profile is not None
        if i:  # the first one warms up
            limit = (before + after) / 2
            shares.append(profile.bytes_per_second / limit)
            rates.append(limit)
            profiles.append(profile)
        before = after
    typical = sorted(profiles, key=lambda p: p.total_seconds)[len(profiles) // 2]
    return {
        "share": statistics.median(shares),
        "stream_bytes_per_second": statistics.median(rates),
        "seconds_per_token": typical.total_seconds,
        "bytes_per_token": typical.total_bytes,
        "bytes": typical.bytes_read,
        "phases": phase_table(typical, statistics.median(rates)),
    }


def phase_table(profile: StepProfile, limit: float) -> dict[str, dict[str, float]]:
    """Seconds of each phase, its part of the step, and of what the step's bytes would need."""
    return {
        name: {"seconds": seconds, "part": seconds / profile.total_seconds}
        for name, seconds in profile.seconds.items()
    } | {"(limit)": {"seconds": profile.total_bytes / limit, "part": 0.0}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/slice"))
    parser.add_argument("--experts", type=int, help="fewer experts per layer, for a small machine")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--loads", type=int, default=3, help="rounds of it")
    parser.add_argument("--rest", type=float, default=20.0, help="seconds; see above")
    parser.add_argument("--only-load", action="store_true")
    arguments = parser.parse_args()
    make_checkpoint(arguments.folder, arguments.experts)
    model, loading = load(arguments.folder, arguments.loads, arguments.rest)
    result: dict[str, Any] = {
        "threads": native.threads(),
        "isa": native.isa(),
        "load": loading,
        "bars": {"decode share": 0.8, "load share": 0.8},
    }
    if not arguments.only_load:
        start = time.perf_counter()
        runner = CpuRunner(model)
        result["rearrange_seconds"] = time.perf_counter() - start
        result["decode"] = decode(runner, arguments.repetitions)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


def show(result: dict[str, Any]) -> None:
    seen = result["load"]["medians"]
    print(
        f"disk       {seen['disk'] / 1e9:.2f} GB/s with {DIRECT_THREADS} threads, "
        f"{seen['disk, one thread'] / 1e9:.2f} with one"
    )
    print(
        f"memory     first touch {seen['touch rested'] / 1e9:.2f} GB/s, "
        f"{seen['touch again'] / 1e9:.2f} where it was in use a moment ago"
    )
    print(
        f"load       {result['load']['bytes'] / 1e9:.1f} GB at {seen['load'] / 1e9:.2f} GB/s: "
        f"{seen['share of disk']:.2f} of the disk, "
        f"{seen['share of smaller limit']:.2f} of the smaller limit"
    )
    print(
        f"reading    {seen['reading alone'] / 1e9:.2f} GB/s into memory at hand: "
        f"{seen['share of disk, reading alone']:.2f} of the disk"
    )
    if "decode" not in result:
        return
    step = result["decode"]
    print(f"rearrange  {result['rearrange_seconds']:.1f} s")
    print(
        f"decode     {step['bytes_per_token'] / 1e9:.2f} GB in "
        f"{step['seconds_per_token'] * 1e3:.1f} ms, {step['share']:.3f} of the stream's "
        f"{step['stream_bytes_per_second'] / 1e9:.1f} GB/s"
    )
    for name, phase in step["phases"].items():
        print(f"  {name:8} {phase['seconds'] * 1e3:8.2f} ms  {phase['part']:6.1%}")


if __name__ == "__main__":
    main()
