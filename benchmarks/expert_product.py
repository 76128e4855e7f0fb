"""The routed experts at real K2 size: share of the machine's read bandwidth, beside the peers.

24 experts (hidden 7168, intermediate 2048, INT4 in groups of 32: 595 MB, read from memory each
time), 1, 4, 16 and 64 rows for each expert, through the whole operation: gate, up, SwiGLU, down,
weighted sum. Other load moves every absolute figure, so each repetition stands between two reads
of a 512 MiB buffer, our turns and the peers' alternate, and medians are reported. No peer is alive
while ours runs: the threads of some spin while they wait, which would take the cores from us.

    python benchmarks/expert_product.py [--rows 1,4,16,64] [--peers all] [--peer-path DIR] [--json]

share = (bytes of the INT4 checkpoint / seconds) / bandwidth of the neighbouring reads
TOP/s = 2 * rows * weights / seconds (a multiply and an add are two)
Bars (the engine's issue): share 0.88 / 0.70 / 0.35 at 1 / 4 / 16 rows, 1.2 TOP/s at 64; ratio to
the best peer 1 / 1.05 / 2 / 3; float activations 0.75 and a bfloat16 matrix 0.85 at one row.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from expert_peers import EXPERTS, GROUP, HIDDEN, INTERMEDIATE, PEERS, TOP_K, tokens_of
from perilune.kernels import native
from perilune.kernels.matrix import NativeExpertStack, NativeMatrix

WEIGHTS = EXPERTS * 3 * HIDDEN * INTERMEDIATE
BYTES = WEIGHTS // 2 + WEIGHTS // GROUP * 2
SHARE_BARS = {1: 0.88, 4: 0.70, 16: 0.35}
RATIO_BARS = {1: 1.0, 4: 1.05, 16: 2.0, 64: 3.0}
TOPS_BAR = 1.2  # at 64 rows
EXACT_BAR, BF16_BAR = 0.75, 0.85


class Stream:
    """Reads a 512 MiB buffer on large pages with the widest loads, on all threads."""

    def __init__(self) -> None:
        self.buffer = torch.empty(512 << 20, dtype=torch.uint8)
        native.advise_huge_pages(self.buffer)
        self.buffer.fill_(1)
        self.library = native.require()

    def bandwidth(self) -> float:
        """Bytes per second, now."""
        size = self.buffer.numel()
        return size / float(self.library.plk_stream_read(self.buffer.data_ptr(), size))


@dataclass
class Row:
    """One line of the result. Medians; `stream` is the neighbours' mean bandwidth, bytes/s."""

    name: str
    rows: int
    seconds: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    streams: list[float] = field(default_factory=list)

    def add(self, seconds: float, stream: float, size: int) -> None:
        self.seconds.append(seconds)
        self.streams.append(stream)
        self.shares.append(size / seconds / stream)

    def summary(self, size: int, operations: int) -> dict[str, Any]:
        seconds = statistics.median(self.seconds)
        return {
            "name": self.name,
            "rows": self.rows,
            "share": round(statistics.median(self.shares), 3),
            "gb_per_s": round(size / seconds / 1e9, 2),
            "stream_gb_per_s": round(statistics.median(self.streams) / 1e9, 2),
            "tera_ops": round(operations / seconds / 1e12, 3),
            "ms": round(seconds * 1e3, 2),
        }


class Ours:
    """The C kernels on random weights of the checkpoint's format."""

    def __init__(self) -> None:
        sizes = [(INTERMEDIATE, HIDDEN), (INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE)]
        packed = [torch.empty(EXPERTS, o, i // 8, dtype=torch.int32) for o, i in sizes]
        scales = [torch.empty(EXPERTS, o, i // GROUP, dtype=torch.bfloat16) for o, i in sizes]
        for tensor in (*packed, *scales):
            native.advise_huge_pages(tensor)
        for tensor in packed:
            tensor.random_(-(2**31), 2**31 - 1)
        for tensor in scales:
            tensor.uniform_(0.001, 0.01)
        self.stack = NativeExpertStack.from_int4_(packed, scales)

    def run(self, rows: int, *, exact: bool) -> float:
        tokens = tokens_of(rows)
        first = torch.arange(tokens)[:, None] % (EXPERTS // TOP_K) * TOP_K
        indices = (first + torch.arange(TOP_K)).to(torch.int32)
        x, weights = torch.randn(tokens, HIDDEN), torch.rand(tokens, TOP_K)
        start = time.perf_counter()
        self.stack.forward(x, weights, indices, exact=exact)
        return time.perf_counter() - start


class Peer:
    """A peer in its own process, so that one that crashes or hangs costs only its own lines."""

    def __init__(self, name: str, threads: int, path: str | None, patience: float) -> None:
        self.name, self.patience, self.error = name, patience, ""
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
        if path:
            environment["PYTHONPATH"] = os.pathsep.join([path, environment.get("PYTHONPATH", "")])
        script = Path(__file__).with_name("expert_peers.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), name, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self._answer()

    def run(self, rows: int) -> float | None:
        """Seconds, or None when the peer has failed (see `error`)."""
        if self.error:
            return None
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"rows": rows}) + "\n")
            self.process.stdin.flush()
        except OSError as error:
            self.error = f"its process ended ({error})"
            return None
        answer = self._answer()
        return None if answer is None else float(answer["seconds"])

    def _answer(self) -> dict[str, Any] | None:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], self.patience)[0]:
            self.error = f"no answer within {self.patience:.0f} s"
            return None
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
        if "error" in answer:
            self.error = str(answer["error"])
            return None
        return answer

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def measure_ours(ours: Ours, stream: Stream, rows: int, repetitions: int, exact: bool) -> Row:
    row = Row("perilune exact" if exact else "perilune", rows)
    ours.run(rows, exact=exact)
    before = stream.bandwidth()
    for _ in range(repetitions):
        seconds = ours.run(rows, exact=exact)
        after = stream.bandwidth()
        row.add(seconds, (before + after) / 2, BYTES)
        before = after
    return row


def measure_peer(peer: Peer, stream: Stream, rows: int, repetitions: int) -> Row | None:
    """None when the peer failed."""
    row = Row(peer.name, rows)
    if peer.run(rows) is None:
        return None
    before = stream.bandwidth()
    for _ in range(repetitions):
        seconds = peer.run(rows)
        if seconds is None:
            return None
        after = stream.bandwidth()
        row.add(seconds, (before + after) / 2, BYTES)
        before = after
    return row


def measure_bf16(stream: Stream, repetitions: int) -> dict[str, Any]:
    """One row times a bfloat16 matrix of 512 MiB."""
    weight = torch.empty(4 * INTERMEDIATE * 4, 8192, dtype=torch.bfloat16)
    native.advise_huge_pages(weight)
    weight.uniform_(-1, 1)
    matrix = NativeMatrix.from_plain_(weight)
    size = weight.numel() * 2
    x = torch.randn(1, matrix.in_features)
    matrix.linear(x)
    row = Row("perilune bf16 linear", 1)
    before = stream.bandwidth()
    for _ in range(repetitions):
        start = time.perf_counter()
        matrix.linear(x)
        seconds = time.perf_counter() - start
        after = stream.bandwidth()
        row.add(seconds, (before + after) / 2, size)
        before = after
    return row.summary(size, 2 * weight.numel())


def verdicts(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every bar with what was reached."""
    found = []

    def bar(what: str, reached: float, wanted: float) -> None:
        found.append(
            {"bar": what, "reached": round(reached, 3), "wanted": wanted, "met": reached >= wanted}
        )

    for rows in sorted({r["rows"] for r in results}):
        here = {r["name"]: r for r in results if r["rows"] == rows}
        mine = here.get("perilune")
        if mine is None:
            continue
        if rows in SHARE_BARS:
            bar(f"{rows} rows: share of the stream", mine["share"], SHARE_BARS[rows])
        if rows == 64:
            bar("64 rows: TOP/s", mine["tera_ops"], TOPS_BAR)
        peers = [r for name, r in here.items() if name in PEERS]
        if rows in RATIO_BARS and peers:
            best = min(peers, key=lambda r: r["ratio"])
            bar(f"{rows} rows: times {best['name']}", best["ratio"], RATIO_BARS[rows])
        if rows == 1 and "perilune exact" in here:
            exact = here["perilune exact"]["share"]
            bar("1 row, float activations: share", exact, EXACT_BAR)
        if rows == 1 and "perilune bf16 linear" in here:
            bar("bf16 linear, 1 row: share", here["perilune bf16 linear"]["share"], BF16_BAR)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="1,4,16,64", help="rows for each expert")
    parser.add_argument("--peers", default="all", help='names, "all" or "none"')
    parser.add_argument("--peer-path", help="a folder of packages that only the peers see")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--patience", type=float, default=120.0, help="seconds for one answer")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    row_counts = [int(n) for n in options.rows.split(",")]
    names = {"all": list(PEERS), "none": []}.get(options.peers, options.peers.split(","))

    torch.set_num_threads(native.threads())
    stream, ours = Stream(), Ours()
    repetitions = options.repetitions
    mine: dict[int, Row] = {}
    results: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for rows in row_counts:
        mine[rows] = measure_ours(ours, stream, rows, repetitions, exact=False)
    for name in names:
        print(f"... {name}", file=sys.stderr)
        peer = Peer(name, native.threads(), options.peer_path, options.patience)
        theirs: dict[int, Row] = {}
        for rows in row_counts:
            row = measure_peer(peer, stream, rows, repetitions)
            if row is None:
                failed[name] = peer.error
                break
            theirs[rows] = row
        peer.close()
        for rows, row in theirs.items():
            own = measure_ours(ours, stream, rows, repetitions, exact=False)
            summary = row.summary(BYTES, 2 * rows * WEIGHTS)
            summary["ratio"] = round(
                statistics.median(row.seconds) / statistics.median(own.seconds), 3
            )
            results.append(summary)
            for kind in ("seconds", "shares", "streams"):
                getattr(mine[rows], kind).extend(getattr(own, kind))
    for rows in row_counts:
        results.append(mine[rows].summary(BYTES, 2 * rows * WEIGHTS))
        exact = measure_ours(ours, stream, rows, repetitions, exact=True)
        results.append(exact.summary(BYTES, 2 * rows * WEIGHTS))
    del ours
    results.append(measure_bf16(stream, repetitions))
    order = ["perilune", "perilune exact", "perilune bf16 linear", *PEERS]
    results.sort(key=lambda r: (r["rows"], order.index(r["name"])))
    bars = verdicts(results)
    if options.json:
        report = {
            "isa": native.isa(), "threads": native.threads(), "results": results,
            "bars": bars, "failed": failed,
        }  # fmt: skip
        print(json.dumps(report, indent=1))
        return
    print(f"{native.isa()}, {native.threads()} threads, {BYTES / 1e6:.0f} MB of experts")
    print(
        f"{'rows':>4}  {'':<22} {'share':>6} {'GB/s':>7} {'stream':>7} {'TOP/s':>7} {'ours is':>8}"
    )
    for r in results:
        ratio = f"{r['ratio']:.2f} x" if "ratio" in r else ""
        print(
            f"{r['rows']:>4}  {r['name']:<22} {r['share']:>6.3f} {r['gb_per_s']:>7.1f} "
            f"{r['stream_gb_per_s']:>7.1f} {r['tera_ops']:>7.3f} {ratio:>8}"
        )
    for name, why in failed.items():
        print(f"      {name}: did not run: {why}")
    for b in bars:
        verdict = "met" if b["met"] else "NOT MET"
        print(f"{b['bar']:<44} {b['reached']:>7.3f}  wanted {b['wanted']:.2f}  {verdict}")


if __name__ == "__main__":
    main()
