"""Tensors -> a checkpoint folder: sharded safetensors, index, configuration, manifest.

Everything is written into `DST.partial` and renamed at the end, so that `DST` never looks complete
when it is not. An interrupted write goes on where it stopped: files that are finished stay, if
what is being written is still the same.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perilune.config import CheckpointConfig
from perilune.errors import CheckpointError, DiskFullError, UsageError
from perilune.model.model import KimiK2Model
from perilune.model.slots import named_slots
from perilune.weights.checkpoint import INDEX_NAME
from perilune.weights.format_bytes import gigabytes
from perilune.weights.header import DTYPE_BYTES, encode_header
from perilune.weights.manifest import MANIFEST_NAME, FileRecord, manifest_text, record_file
from perilune.weights.progress import ByteCounter, ProgressCallback
from perilune.weights.published_config import config_json
from perilune.weights.reader import TORCH_DTYPES, tensor_memory
from perilune.weights.tensor_table import TensorSpec, expected_tensors, stored_name

SHARD_BYTES = 10 * 10**9  # about one MoE layer of INT4, as published
STATE_NAME = "perilune-unfinished.json"
SMALL_FILES = 64 * 2**20  # room for tokenizer, configuration and index

Produce = Callable[[TensorSpec], Iterable[bytes | memoryview]]


@dataclass(frozen=True, slots=True)
class Shard:
    """One file to be, and its tensors in the order of their bytes."""

    name: str
    specs: tuple[TensorSpec, ...]

    @property
    def nbytes(self) -> int:
        return sum(spec.nbytes for spec in self.specs)


def write_checkpoint(
    folder: str | Path,
    config: Mapping[str, Any],
    specs: Iterable[TensorSpec],
    produce: Produce,
    *,
    identity: str,
    extra: Mapping[str, bytes | Path] | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: ProgressCallback | None = None,
) -> Path:
    """Write a checkpoint; `produce(spec)` gives the bytes of a tensor, in pieces of any length.

    `config` becomes config.json, `extra` further files (content, or a path to copy). `identity`
    names what is being written: a partial folder of another identity is started anew. Tensors are
    asked for in the order of `specs`. Returns the folder.

    Raises UsageError (the folder is there already, or is being written by another process),
    DiskFullError before the first byte or when the disk fills, CheckpointError.
    """
    folder = Path(folder).resolve()  # `.` has a name that way
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists already", remedy="Give a folder that does not exist yet")
    if folder == Path.cwd():  # replacing it would leave the caller's shell in a folder that is gone
        raise UsageError(f"{folder} is the current folder", remedy="Give the name of a new one")
    shards = plan_shards(specs, shard_bytes)
    plan = json.dumps(
        [identity, [(shard.name, [(s.name, s.dtype, s.shape) for s in shard.specs])
                    for shard in shards]]
    )  # fmt: skip
    with _partial_folder(folder, hashlib.sha256(plan.encode()).hexdigest()) as partial:
        todo = [shard for shard in shards if shard.name not in partial.records]
        total = sum(shard.nbytes for shard in shards)
        left = sum(shard.nbytes for shard in todo)
        _require_disk(partial.folder, left + SMALL_FILES)
        counter = ByteCounter(total, progress, done=total - left)
        for shard in todo:
            _write_shard(partial, shard, produce, counter)
        weight_map = {spec.name: shard.name for shard in shards for spec in shard.specs}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        for name, content in (extra or {}).items():
            _write_file(partial.folder / name, content)
        _write_file(partial.folder / INDEX_NAME, _json(index))
        _write_file(partial.folder / "config.json", _json(config))
        records = {**partial.records, INDEX_NAME: record_file(partial.folder / INDEX_NAME)}
        _write_file(partial.folder / MANIFEST_NAME, manifest_text(records).encode())
        (partial.folder / STATE_NAME).unlink()
        _sync_folder(partial.folder)
        if folder.exists():
            folder.rmdir()  # empty, as was seen above
        partial.folder.rename(folder)
        _sync_folder(folder.parent)
    return folder


def save_model(
    model: KimiK2Model,
    folder: str | Path,
    config: CheckpointConfig,
    *,
    extra: Mapping[str, bytes | Path] | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: ProgressCallback | None = None,
) -> Path:
    """Write a model as it is held (stored formats stay; bit-exact); plain tensors as bfloat16.

    `config` says family and storage format, which must be that of the model's modules. A tower that
    the model does not have is not written. Raises as `write_checkpoint`.
    """
    prefix = config.tensor_prefix
    slots = {stored_name(name, prefix): slot for name, slot in named_slots(model)}
    specs = [s for s in expected_tensors(config) if s.name in slots]
    if len(specs) != len(slots) or any(tuple(slots[s.name].shape) != s.shape for s in specs):
        raise UsageError(f"the model does not hold the tensors of a {config.storage} checkpoint")

    def produce(spec: TensorSpec) -> Iterator[memoryview]:
        slot = slots[spec.name]
        yield tensor_memory(slot.to("cpu", TORCH_DTYPES[spec.dtype]))

    identity = f"save {id(model)} {os.getpid()}"  # never resumed: the weights may have moved on
    return write_checkpoint(
        folder, config_json(config), specs, produce,
        identity=identity, extra=extra, shard_bytes=shard_bytes, progress=progress,
    )  # fmt: skip


def plan_shards(specs: Iterable[TensorSpec], shard_bytes: int) -> list[Shard]:
    """Cut the tensors, in order, into files of at most `shard_bytes` (or of one larger tensor)."""
    groups: list[list[TensorSpec]] = [[]]
    size = 0
    for spec in specs:
        if groups[-1] and size + spec.nbytes > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(spec)
        size += spec.nbytes
    return [
        Shard(f"model-{i:05}-of-{len(groups):05}.safetensors", _aligned(group))
        for i, group in enumerate(groups, 1)
    ]


def _aligned(specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Network order, unless an odd size would leave a wide value at an odd place."""
    begin = 0
    for spec in specs:
        if begin % DTYPE_BYTES[spec.dtype]:
            return tuple(sorted(specs, key=lambda s: -DTYPE_BYTES[s.dtype]))
        begin += spec.nbytes
    return tuple(specs)


@dataclass(frozen=True, slots=True)
class _Partial:
    """The folder being written and the files of it that are finished."""

    folder: Path
    plan: str
    records: dict[str, FileRecord]

    def finished(self, name: str, record: FileRecord) -> None:
        self.records[name] = record
        state = {
            "plan": self.plan,
            "files": {n: [r.nbytes, r.sha256] for n, r in self.records.items()},
        }
        temporary = self.folder / f"{STATE_NAME}.tmp"
        _write_file(temporary, _json(state))
        temporary.rename(self.folder / STATE_NAME)


@contextmanager
def _partial_folder(folder: Path, plan: str) -> Iterator[_Partial]:
    """`DST.partial`, locked against a second writer, with what an earlier run finished."""
    path = folder.with_name(folder.name + ".partial")
    descriptor = -1
    try:
        if path.exists() and not (path / STATE_NAME).is_file() and any(path.iterdir()):
            raise UsageError(
                f"{path} exists and was not written by Perilune", remedy="Remove or rename it"
            )
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"{folder} is being written by another process") from None
        records = _finished_records(path, plan)
        if not records:  # another plan, or nothing finished: start anew, in our own folder
            for stale in path.iterdir():
                stale.unlink()
            _write_file(path / STATE_NAME, _json({"plan": plan, "files": {}}))
        yield _Partial(path, plan, records)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"the disk of {path} is full",
                remedy="Free space and run the same command again: it goes on where it stopped",
            ) from None
        raise CheckpointError(
            f"cannot be written: {error}", file=path, remedy="Give a folder that can be written"
        ) from None
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _finished_records(path: Path, plan: str) -> dict[str, FileRecord]:
    try:
        state = json.loads((path / STATE_NAME).read_text("utf-8"))
        if state["plan"] != plan:
            return {}
        records = {name: FileRecord(*values) for name, values in state["files"].items()}
        return {n: r for n, r in records.items() if (path / n).stat().st_size >= r.nbytes}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _write_shard(partial: _Partial, shard: Shard, produce: Produce, counter: ByteCounter) -> None:
    header = encode_header([(s.name, s.dtype, s.shape) for s in shard.specs], {"format": "pt"})
    digest = hashlib.sha256(header)
    total = len(header)
    temporary = partial.folder / f"{shard.name}.tmp"
    with temporary.open("wb", buffering=0) as stream:
        _write_all(stream.fileno(), header)
        for spec in shard.specs:
            written = 0
            for piece in produce(spec):
                digest.update(piece)
                _write_all(stream.fileno(), piece)
                written += len(piece)
                counter.add(len(piece))
            if written != spec.nbytes:
                raise AssertionError(f"{spec.name}: {written} bytes made, {spec.nbytes} planned")
            total += written
        os.fsync(stream.fileno())
    temporary.rename(partial.folder / shard.name)
    partial.finished(shard.name, FileRecord(total, digest.hexdigest()))


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _write_file(path: Path, content: bytes | Path) -> None:
    if isinstance(content, Path):
        shutil.copyfile(content, path)
        return
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFullError(
            f"{gigabytes(needed)} are still to be written to {folder}, {gigabytes(free)} are free",
            remedy="Free space, or write to another disk",
        )
