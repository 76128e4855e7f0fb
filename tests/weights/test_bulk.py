"""Bulk reads: the same bits by every way of reading, the right way chosen, exact errors."""

from __future__ import annotations

import errno
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.weights.small import FORMATS, read_all, same_bits, tiny_checkpoint

from perilune.errors import CorruptFileError
from perilune.formats import StorageFormat
from perilune.formats.fp8 import FP8
from perilune.formats.int4 import INT4
from perilune.model import named_slots
from perilune.weights import bulk, shard
from perilune.weights.bulk import blocks, read_tensors
from perilune.weights.checkpoint import Checkpoint, StoredTensor, open_checkpoint
from perilune.weights.load import load_model, not_finite
from perilune.weights.reader import TORCH_DTYPES
from perilune.weights.shard import Shard, StagingBuffer


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the page cache from the first byte on, whatever is in it."""
    monkeypatch.setattr(bulk, "DIRECT_FROM", 0)
    monkeypatch.setattr(shard._PageCache, "holds", lambda *a: False)


class Reads:
    """Counts reads of descriptors that were opened with and without O_DIRECT."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.direct = self.cached = 0
        opened: set[int] = set()
        real_open, real_preadv, real_close = os.open, os.preadv, os.close

        def open_(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            descriptor = real_open(path, flags, *rest, **named)
            if flags & getattr(os, "O_DIRECT", 0):
                opened.add(descriptor)
            return descriptor

        def preadv(descriptor: int, *rest: Any) -> int:
            self.direct += descriptor in opened
            self.cached += descriptor not in opened
            return real_preadv(descriptor, *rest)

        def close(descriptor: int) -> None:
            opened.discard(descriptor)
            real_close(descriptor)

        monkeypatch.setattr(os, "open", open_)
        monkeypatch.setattr(os, "preadv", preadv)
        monkeypatch.setattr(os, "close", close)


@pytest.fixture
def on_disk(tmp_path: Path) -> Path:
    """A folder whose file system reads past its cache; the test is skipped where there is none."""
    probe = tmp_path / "probe"
    probe.write_bytes(bytes(8192))
    forget(probe)
    opened = Shard(probe, direct=True)
    try:
        if not opened.is_better_direct(0, 8192):
            pytest.skip("no O_DIRECT here, or no cache to forget")
        opened.read_direct(0, 8192, StagingBuffer(8192))
        if not opened.is_better_direct(0, 8192):
            pytest.skip("O_DIRECT is refused here")
    finally:
        opened.close()
    return tmp_path


def forget(*files: Path) -> None:
    """Drop files from the page cache."""
    for file in files:
        opened = os.open(file, os.O_RDONLY)
        os.fsync(opened)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(opened)


def checkpoint_in(folder: Path, storage: StorageFormat = INT4) -> Checkpoint:
    return open_checkpoint(tiny_checkpoint(folder / "m", storage))


def read_everything(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """By `read_tensors`, into tensors of the stored dtypes."""
    targets = [
        (t, torch.empty(t.shape, dtype=TORCH_DTYPES[t.dtype])) for t in checkpoint.tensors.values()
    ]
    read_tensors(targets)
    return {stored.name: tensor for stored, tensor in targets}


def assert_right(checkpoint: Checkpoint) -> None:
    found = read_everything(checkpoint)
    for name, tensor in read_all(checkpoint.folder).items():
        assert same_bits(found[name], tensor), name


# --- the plan ------------------------------------------------------------------------------------


@given(
    shapes=st.lists(
        st.tuples(
            st.sampled_from(["U8", "BF16", "I32", "F64"]),
            st.integers(0, 40),  # values
            st.integers(0, 9),  # bytes that nobody wants before it
            st.booleans(),  # in a new file
        ),
        min_size=1,
        max_size=12,
    ),
    block_bytes=st.integers(1, 64),
)
def test_blocks_hold_each_byte_once(
    shapes: list[tuple[str, int, int, bool]], block_bytes: int
) -> None:
    wanted, at, number = [], 0, 0
    for index, (dtype, values, gap, new) in enumerate(shapes):
        number, at = (number + 1, 0) if new else (number, at)
        at += gap
        size = values * TORCH_DTYPES[dtype].itemsize
        wanted.append(StoredTensor(str(index), Path(f"{number:02}"), dtype, (values,), at, size))
        at += size
    seen: Counter[tuple[int, int]] = Counter()
    places = []
    for block in blocks(wanted, block_bytes):
        assert block.pieces and 0 < block.end - block.begin < block_bytes + 8
        at = block.begin
        for piece in block.pieces:
            stored = wanted[piece.index]
            itemsize = TORCH_DTYPES[stored.dtype].itemsize
            assert block.file == stored.file and stored.start + piece.begin == at
            assert piece.begin % itemsize == piece.end % itemsize == 0
            seen.update((piece.index, byte) for byte in range(piece.begin, piece.end))
            at += piece.end - piece.begin
        assert at == block.end
        places.append((block.file, block.begin))
    assert places == sorted(places)
    assert seen == Counter((i, byte) for i, t in enumerate(wanted) for byte in range(t.nbytes))


# --- the same bits by every way ------------------------------------------------------------------


@pytest.mark.parametrize("block_bytes", [1000, 4096, 4 * 2**20])
@pytest.mark.parametrize("storage", FORMATS)
@pytest.mark.usefixtures("direct")
def test_past_the_cache(
    on_disk: Path, storage: StorageFormat, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "BLOCK_BYTES", block_bytes)
    checkpoint = checkpoint_in(on_disk, storage)
    forget(*checkpoint.files)
    reads = Reads(monkeypatch)
    assert_right(checkpoint)
    assert reads.direct > 0 and reads.cached == 0


@pytest.mark.parametrize("block_bytes", [1000, 4 * 2**20])
@pytest.mark.parametrize("past_the_cache", [False, True])
def test_conversion_on_the_way(
    on_disk: Path, block_bytes: int, past_the_cache: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "BLOCK_BYTES", block_bytes)
    checkpoint = checkpoint_in(on_disk, FP8)
    forget(*checkpoint.files)
    if past_the_cache:
        monkeypatch.setattr(bulk, "DIRECT_FROM", 0)
    model = load_model(checkpoint.folder, dtype=torch.float32)
    stored = read_all(checkpoint.folder)
    for name, tensor in named_slots(model):
        plain = stored[name].dtype == torch.bfloat16
        assert same_bits(tensor, stored[name].float() if plain else stored[name]), name


@pytest.mark.usefixtures("direct")
def test_refused_when_opened(on_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = checkpoint_in(on_disk)
    real = os.open

    def refuse(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", refuse)
    reads = Reads(monkeypatch)
    assert_right(checkpoint)
    assert reads.direct == 0 and reads.cached > 0


@pytest.mark.usefixtures("direct")
def test_refused_when_read(on_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = checkpoint_in(on_disk)
    reads = Reads(monkeypatch)
    counted = os.preadv

    def refuse(descriptor: int, *rest: Any) -> int:
        before = reads.direct
        got = counted(descriptor, *rest)
        if reads.direct > before:
            raise OSError(errno.EINVAL, "Invalid argument")
        return got

    monkeypatch.setattr(os, "preadv", refuse)
    monkeypatch.setattr(bulk, "READERS", 1)
    monkeypatch.setattr(bulk, "BLOCK_BYTES", 2**14)
    assert_right(checkpoint)
    assert reads.direct == len(checkpoint.files)  # asked once of each file
    assert reads.cached > reads.direct


@pytest.mark.usefixtures("direct")
def test_a_system_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = checkpoint_in(tmp_path)
    monkeypatch.delattr(os, "O_DIRECT")
    assert_right(checkpoint)


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no tmpfs to write to")
def test_a_file_system_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "DIRECT_FROM", 0)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        assert_right(checkpoint_in(Path(name)))


# --- which way -----------------------------------------------------------------------------------


def test_what_lies_in_the_cache_is_read_from_there(
    on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "DIRECT_FROM", 0)
    checkpoint = checkpoint_in(on_disk)
    forget(*checkpoint.files)
    reads = Reads(monkeypatch)
    read_everything(checkpoint)
    assert reads.direct > 0
    direct = reads.direct
    read_everything(checkpoint)  # the first did not fill the cache
    assert (reads.direct, reads.cached) == (2 * direct, 0)
    for file in checkpoint.files:
        file.read_bytes()
    read_everything(checkpoint)
    assert reads.direct == 2 * direct and reads.cached > 0


def test_of_other_peoples_files_the_kernel_does_not_say(
    on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = on_disk / "file"
    file.write_bytes(bytes(10_000))

    def better_direct() -> bool:
        opened = Shard(file, direct=True)
        try:
            return opened.is_better_direct(0, 10_000)
        finally:
            opened.close()

    assert not better_direct()  # just written, so in the cache
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    monkeypatch.setattr(os, "access", lambda *a: False)
    assert better_direct()


def test_small_loads_go_through_the_cache(on_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = checkpoint_in(on_disk)
    forget(*checkpoint.files)
    reads = Reads(monkeypatch)
    assert_right(checkpoint)
    assert reads.direct == 0 and reads.cached > 0


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.usefixtures("direct")
def test_a_slow_disk_fills_the_cache_for_next_time(
    on_disk: Path, drop: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = checkpoint_in(on_disk)
    monkeypatch.setattr(bulk, "READERS", 1)
    monkeypatch.setattr(bulk, "BLOCK_BYTES", 2**14)
    monkeypatch.setattr(bulk, "SLOW_DISK", 1e15)
    monkeypatch.setattr(bulk, "SLOW_DISK_AFTER", 3 * 2**14)
    reads = Reads(monkeypatch)
    targets = [
        (t, torch.empty(t.shape, dtype=TORCH_DTYPES[t.dtype])) for t in checkpoint.tensors.values()
    ]
    read_tensors(targets, drop_cache=drop)
    assert (reads.cached == 0) == drop
    assert reads.direct == 4 or drop  # the first block is a part of one


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("past_the_cache", [False, True])
@pytest.mark.parametrize("cut", [1, 10, 5000])
def test_a_file_cut_while_in_use(
    on_disk: Path, past_the_cache: bool, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = checkpoint_in(on_disk)
    if past_the_cache:
        monkeypatch.setattr(bulk, "DIRECT_FROM", 0)
        monkeypatch.setattr(shard._PageCache, "holds", lambda *a: False)
    file = checkpoint.files[0]
    size = file.stat().st_size - cut
    os.truncate(file, size)
    lost = [t for t in checkpoint.tensors.values() if t.file == file and t.start + t.nbytes > size]
    first = min(lost, key=lambda t: t.start)
    early = first.start + first.nbytes - size
    with pytest.raises(CorruptFileError, match=f"{early} bytes early; it was cut") as caught:
        read_everything(checkpoint)
    assert (caught.value.file, caught.value.tensor) == (file, first.name)


@pytest.mark.usefixtures("direct")
@pytest.mark.parametrize("empty", [False, True])
def test_a_file_that_vanished_or_was_emptied(tmp_path: Path, empty: bool) -> None:
    checkpoint = checkpoint_in(tmp_path)
    file = checkpoint.files[-1]
    if empty:
        file.write_bytes(b"")
    else:
        file.unlink()
    what = "bytes early" if empty else "cannot be read: .*No such file"
    with pytest.raises(CorruptFileError, match=what) as caught:
        read_everything(checkpoint)
    first = min((t for t in checkpoint.tensors.values() if t.file == file), key=lambda t: t.start)
    assert (caught.value.file, caught.value.tensor) == (file, first.name)
    assert caught.value.remedy


@pytest.mark.usefixtures("direct")
def test_a_disk_that_fails(on_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = checkpoint_in(on_disk)

    def fail(*arguments: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(CorruptFileError, match=r"cannot be read: .*Input/output error") as caught:
        read_everything(checkpoint)
    assert caught.value.file == checkpoint.files[0]


def test_the_first_of_several_faults_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = checkpoint_in(tmp_path)
    monkeypatch.setattr(bulk, "BLOCK_BYTES", 2**14)
    assert len(checkpoint.files) > 1
    for file in checkpoint.files:
        file.unlink()
    for _ in range(20):
        with pytest.raises(CorruptFileError) as caught:
            read_everything(checkpoint)
        assert caught.value.file == checkpoint.files[0]


def test_descriptors_are_closed(on_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "DIRECT_FROM", 0)
    checkpoint = checkpoint_in(on_disk)

    def opened() -> set[Path]:
        links = (link for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
        return {link.readlink() for link in links if link.is_symlink()} & set(checkpoint.files)

    read_everything(checkpoint)
    assert not opened()
    checkpoint.files[-1].unlink()
    with pytest.raises(CorruptFileError):
        read_everything(checkpoint)
    assert not opened()


# --- scales --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_counted(dtype: torch.dtype, value: float) -> None:
    largest = torch.finfo(dtype).max
    tensor = torch.tensor([0.0, -0.0, 1.0, -largest, largest, torch.finfo(dtype).tiny]).to(dtype)
    tensor = tensor.nan_to_num(posinf=largest, neginf=-largest)
    assert not_finite(tensor) == 0
    assert not_finite(torch.empty(0, dtype=dtype)) == 0
    for count in (1, 3):
        tensor[2 : 2 + count] = value
        assert not_finite(tensor) == count
