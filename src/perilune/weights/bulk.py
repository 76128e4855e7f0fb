"""Many tensors of many files at the rate of the disk: how `load_model` reads.

Files are read in blocks, whatever tensors a block holds, several at a time. What is not in the
page cache is read past it into a few small buffers, used again and again, and copied from there to
its place: offsets of tensors in safetensors files are hardly ever those that a disk can read from
straight into a tensor. `shard` says why past the cache.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from perilune.weights.checkpoint import StoredTensor
from perilune.weights.reader import TORCH_DTYPES, cut_short, tensor_memory, unreadable
from perilune.weights.shard import Shard, StagingBuffer

# Measured on two cores beside a disk of 3 to 5 GB/s: two to four readers, blocks of 2 to 4 MiB.
READERS = 4
BLOCK_BYTES = 4 * 2**20
STAGING_BYTES = READERS * 2 * BLOCK_BYTES  # at most, large pages included
# Smaller loads take what is simplest; they are often repeated, and then are in the page cache.
DIRECT_FROM = 256 * 2**20
# A disk slower than this is as fast through the page cache, where the next load finds the files.
SLOW_DISK = 0.25e9  # bytes per second
SLOW_DISK_AFTER = 256 * 2**20  # bytes that have to be read before it is called so
# Copying a block to memory at hand takes 1 ms. Where it takes longer, because a host has to give
# the memory first, the disk is not what is waited for, and more processors get more memory.
COPY_TURN = 0.003  # seconds

Target = tuple[StoredTensor, Tensor]


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes `begin` to `end` of tensor number `index`."""

    index: int
    begin: int
    end: int


@dataclass(slots=True)
class Block:
    """Neighbouring bytes of one file: from `begin` on, those of `pieces` one after the other."""

    file: Path
    begin: int
    end: int
    pieces: list[Piece] = field(default_factory=list)


def blocks(wanted: Sequence[StoredTensor], block_bytes: int) -> Iterator[Block]:
    """Cover `wanted`, sorted by file and start, in the blocks in which it is read.

    They end at multiples of `block_bytes` in the file; a value that lies across stays whole.
    """
    block: Block | None = None
    border = 0
    for index, stored in enumerate(wanted):
        size = TORCH_DTYPES[stored.dtype].itemsize
        begin = 0
        while begin < stored.nbytes:
            at = stored.start + begin
            if block and (block.file != stored.file or block.end != at or at >= border):
                yield block
                block = None
            if block is None:
                block = Block(stored.file, at, at)
                border = (at // block_bytes + 1) * block_bytes
            end = min(border - stored.start, stored.nbytes) // size * size
            end = max(end, begin + size)
            block.pieces.append(Piece(index, begin, end))
            block.end = stored.start + end
            begin = end
    if block:
        yield block


def read_tensors(
    targets: Sequence[Target],
    *,
    drop_cache: bool = False,
    count: Callable[[int], None] | None = None,
    check: Callable[[StoredTensor, Tensor], None] | None = None,
) -> None:
    """Fill the tensor of each target, contiguous and of its shape; dtypes and devices convert.

    `count` is told of bytes as they arrive, `check` of each tensor when it is full; both are
    called from several threads, and what they raise ends the reading. `drop_cache`: what is read
    shall not stay in the page cache.
    Raises CorruptFileError where a file ends early or cannot be read.
    """
    _BulkRead(targets, drop_cache, count, check).run()


class _BulkRead:
    def __init__(
        self,
        targets: Sequence[Target],
        drop_cache: bool,
        count: Callable[[int], None] | None,
        check: Callable[[StoredTensor, Tensor], None] | None,
    ) -> None:
        self._targets = sorted(targets, key=lambda target: (target[0].file, target[0].start))
        wanted = [stored for stored, _ in self._targets]
        self._left = [stored.nbytes for stored in wanted]
        total = sum(self._left)
        self._readers = min(READERS, -(-total // BLOCK_BYTES))
        self._blocks = enumerate(blocks(wanted, BLOCK_BYTES))
        self._drop_cache, self._count, self._check = drop_cache, count, check
        self._direct = total >= DIRECT_FROM
        self._direct_bytes, self._direct_seconds = 0, 0.0
        self._shards: dict[Path, Shard] = {}
        self._errors: list[tuple[int, BaseException]] = []
        self._stopped = False
        self._lock = threading.Lock()
        # On a virtual machine the disk's own work is done by the processors that we compute on;
        # copies by all readers at once would keep it waiting.
        self._copying = threading.BoundedSemaphore(max(1, (os.cpu_count() or 1) // 2))

    def run(self) -> None:
        try:
            with ThreadPoolExecutor(max(1, self._readers)) as pool:
                try:
                    workers = [pool.submit(self._work) for _ in range(self._readers)]
                    for worker in workers:
                        worker.result()
                finally:  # an interrupt, too, waits for no more than the blocks under way
                    self._stopped = True
        finally:
            for shard in self._shards.values():
                shard.close()
        if self._errors:
            raise min(self._errors, key=lambda numbered: numbered[0])[1]

    def _work(self) -> None:
        staging = StagingBuffer(BLOCK_BYTES)
        while not self._stopped:
            with self._lock:
                number, block = next(self._blocks, (0, None))
            if block is None:
                return
            try:
                self._read(block, staging)
            except BaseException as error:
                self._errors.append((number, error))
                self._stopped = True

    def _read(self, block: Block, staging: StagingBuffer) -> None:
        first = self._targets[block.pieces[0].index][0]
        try:
            shard = self._shard(block.file)
            if self._direct and shard.is_better_direct(block.begin, block.end):
                start = time.monotonic()
                data = shard.read_direct(block.begin, block.end, staging)
                self._clock(len(data), time.monotonic() - start)
                _expect(self._targets, block, len(data))
                turn = self._copying.acquire(timeout=COPY_TURN)
                try:
                    self._place(block, data)
                finally:
                    if turn:
                        self._copying.release()
            elif all(self._as_stored(piece) for piece in block.pieces):
                views = [self._memory(piece) for piece in block.pieces]
                _expect(self._targets, block, shard.read_into(block.begin, views))
            else:
                data = shard.read_staged(block.begin, block.end, staging)
                _expect(self._targets, block, len(data))
                self._place(block, data)
        except OSError as error:
            raise unreadable(first, error) from None
        if self._count is not None:
            self._count(block.end - block.begin)
        self._finish(block)

    def _shard(self, file: Path) -> Shard:
        with self._lock:
            shard = self._shards.get(file)
            if shard is None:
                shard = Shard(file, direct=self._direct, drop_cache=self._drop_cache)
                self._shards[file] = shard
            return shard

    def _clock(self, nbytes: int, seconds: float) -> None:
        """Notice a slow disk: even if all readers waited for it all the time, it was slow."""
        with self._lock:
            self._direct_bytes += nbytes
            self._direct_seconds += seconds
            if self._direct_bytes >= SLOW_DISK_AFTER and not self._drop_cache:
                fastest = self._direct_bytes * self._readers / self._direct_seconds
                self._direct = fastest >= SLOW_DISK

    def _as_stored(self, piece: Piece) -> bool:
        stored, out = self._targets[piece.index]
        return out.device.type == "cpu" and out.dtype == TORCH_DTYPES[stored.dtype]

    def _memory(self, piece: Piece) -> memoryview:
        return tensor_memory(self._targets[piece.index][1])[piece.begin : piece.end]

    def _place(self, block: Block, data: memoryview) -> None:
        """Copy what was read to its tensors."""
        at = 0
        for piece in block.pieces:
            part = np.frombuffer(data[at : at + piece.end - piece.begin], np.uint8)
            at += len(part)
            if self._as_stored(piece):
                np.copyto(np.frombuffer(self._memory(piece), np.uint8), part)  # without the GIL
                continue
            stored, out = self._targets[piece.index]
            dtype = TORCH_DTYPES[stored.dtype]
            values = torch.from_numpy(part.copy()).view(dtype)  # copied, so aligned
            begin = piece.begin // dtype.itemsize
            out.detach().view(-1)[begin : begin + values.numel()].copy_(values)

    def _finish(self, block: Block) -> None:
        full = []
        with self._lock:
            for piece in block.pieces:
                self._left[piece.index] -= piece.end - piece.begin
                if not self._left[piece.index]:
                    full.append(piece.index)
        if self._check is not None:
            for index in full:
                self._check(*self._targets[index])


def _expect(targets: Sequence[Target], block: Block, got: int) -> None:
    """Raise CorruptFileError where only `got` bytes of a block were there; name the cut tensor."""
    end = block.begin + got
    if end < block.end:
        behind = (targets[piece.index][0] for piece in block.pieces)
        stored = next(stored for stored in behind if stored.start + stored.nbytes > end)
        raise cut_short(stored, stored.start + stored.nbytes - end)
