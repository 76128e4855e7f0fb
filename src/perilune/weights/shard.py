"""One open file of weights, read through the page cache or past it (O_DIRECT).

Past it is the fast way for what is not in memory yet: a read through the cache takes fresh memory
twice, once for the cache and once for the tensor, and on a virtual machine fresh memory is slower
than the disk. What is in the cache already is faster from there, so `is_cached` asks first.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

ALIGNMENT = 4096  # of offset, length and memory; a multiple of what any disk asks for
MAX_VIEWS = 512  # of one read; systems allow 1024
_PAGE = mmap.PAGESIZE


class StagingBuffer:
    """Page-aligned memory for blocks of up to `size` bytes; taken once, used again and again."""

    def __init__(self, size: int) -> None:
        # Room for an aligned window around any block. Large pages: a transfer in fewer pieces.
        self._map = mmap.mmap(-1, (size // ALIGNMENT + 3) * ALIGNMENT)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a system without them
                self._map.madvise(mmap.MADV_HUGEPAGE)
        self.view = memoryview(self._map)


class Shard:
    """A file opened for reads from any thread. Raises OSError, here and in every method."""

    def __init__(self, path: Path, *, direct: bool, drop_cache: bool = False) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._drop_cache = drop_cache and hasattr(os, "posix_fadvise")
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        self._direct = _open_direct(path) if direct else None
        self._refused = self._direct is None
        self._cache = None if self._refused else _PageCache(self._file, path)

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()
        for descriptor in (self._file, self._direct):
            if descriptor is not None:
                os.close(descriptor)

    def is_better_direct(self, begin: int, end: int) -> bool:
        """Whether bytes `begin` to `end` can be read past the page cache and are not in it."""
        return not (self._refused or self._cache is None or self._cache.holds(begin, end))

    def read_into(self, begin: int, views: Sequence[memoryview]) -> int:
        """Fill `views` one after the other with the bytes from `begin` on; fewer at the file's end.

        Returns how many there were.
        """
        rest = [view for view in views if len(view)]
        done = 0
        while rest:
            got = os.preadv(self._file, rest[:MAX_VIEWS], begin + done)
            if not got:
                break
            if self._drop_cache:
                os.posix_fadvise(self._file, begin + done, got, os.POSIX_FADV_DONTNEED)
            done += got
            while rest and got >= len(rest[0]):
                got -= len(rest.pop(0))
            if got:
                rest[0] = rest[0][got:]
        return done

    def read_direct(self, begin: int, end: int, staging: StagingBuffer) -> memoryview:
        """Bytes `begin` to `end`, past the page cache, as a view of `staging`; fewer at the end.

        Where the file system refuses such reads after all, or stops in the middle, the rest comes
        through the cache: so there is one place that meets errors and ends of files.
        """
        first = begin // ALIGNMENT * ALIGNMENT
        needed = end - first
        window = -(-needed // ALIGNMENT) * ALIGNMENT
        done = 0
        try:
            while self._direct is not None and done < needed and done % ALIGNMENT == 0:
                got = os.preadv(self._direct, [staging.view[done:window]], first + done)
                if not got:
                    break
                done += got
        except OSError:
            self._refused = True
        if done < needed:
            done += self.read_into(first + done, [staging.view[done:needed]])
        return staging.view[begin - first : max(begin - first, min(done, needed))]

    def read_staged(self, begin: int, end: int, staging: StagingBuffer) -> memoryview:
        """As `read_direct`, through the page cache."""
        return staging.view[: self.read_into(begin, [staging.view[: end - begin]])]


def _open_direct(path: Path) -> int | None:
    flag = getattr(os, "O_DIRECT", None)
    if flag is None:  # macOS
        return None
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | flag)
    except OSError:  # a file system without it
        return None


class _PageCache:
    """Which parts of a file the page cache holds, by mincore(2); nothing is read.

    The alternative, preadv2 with RWF_NOWAIT, starts to read what it does not find.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self._address: int | None = None
        # Of other people's files the kernel tells nothing and says that all is there.
        if os.fstat(descriptor).st_uid != os.geteuid() and not os.access(path, os.W_OK):
            return
        try:
            self._mincore = ctypes.CDLL(None).mincore
            self._map = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        except (OSError, AttributeError, ValueError):  # ValueError: an empty file
            return
        self._mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
        self._address = int(np.frombuffer(self._map, np.uint8).ctypes.data)

    def close(self) -> None:
        if self._address is not None:
            self._address = None
            self._map.close()  # it has a descriptor of its own

    def holds(self, begin: int, end: int) -> bool:
        """Whether first, middle and last page are there: what is between them was read with them.

        Asking for all 1,024 pages of a block takes up to a tenth of the time of reading it.
        """
        if self._address is None or end > len(self._map):
            return False
        answer = ctypes.create_string_buffer(1)
        for offset in (begin, (begin + end) // 2, end - 1):
            page = self._address + offset // _PAGE * _PAGE
            if self._mincore(page, 1, answer) != 0 or not answer.raw[0] & 1:
                return False
        return True
