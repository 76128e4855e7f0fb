"""A checkpoint folder, opened: configuration, index and headers checked, no tensor read yet.

What is trusted is the headers of the safetensors files. Nothing in the folder is ever imported,
executed or unpickled; files that would have to be are reported (`warnings`) and left alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from perilune.config import CheckpointConfig, checkpoint_file, read_config
from perilune.errors import (
    CheckpointError,
    ConfigWarning,
    CorruptFileError,
    TensorMismatchError,
    UnsafeFileError,
    UnsafeFileWarning,
)
from perilune.formats import FORMATS
from perilune.weights.header import read_header
from perilune.weights.tensor_table import TensorSpec, expected_tensors, is_ignored, is_vision

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
MAX_INDEX_BYTES = 64 * 2**20  # that of K2.5 has 20 MB
MAX_JSON_OBJECTS = 100_000  # an index has three, a manifest one a file
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file: `start` is its first byte, counted from the start of `file`."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An open folder. `tensors` are all that the files hold, by full name, in file order."""

    folder: Path
    config: CheckpointConfig
    tensors: dict[str, StoredTensor]
    files: tuple[Path, ...]
    warnings: tuple[UnsafeFileWarning | ConfigWarning, ...]

    @property
    def vision(self) -> list[str]:
        """Those of the tower and its projector; none of a text-only copy."""
        return [name for name in self.tensors if is_vision(name)]


def raise_problem(error: CheckpointError) -> None:
    """The usual answer to a problem; `models verify` collects them instead."""
    raise error


def open_checkpoint(
    folder: str | Path, *, problem: Callable[[CheckpointError], None] = raise_problem
) -> Checkpoint:
    """Read configuration, index and every header of a folder.

    `problem` is called with whatever is wrong with the files; where it returns, the file at fault
    is left out. Raises ConfigError, UnsafeFileError (only pickles or Python there), and through
    `problem` CorruptFileError, TensorMismatchError and UnsafeFileError.
    """
    folder = Path(folder)
    config = read_config(folder)
    unsafe = tuple(_unsafe_files(folder))
    index = _read_index(folder, unsafe)
    tensors: dict[str, StoredTensor] = {}
    files: list[Path] = []
    for name in sorted(set(index.values())) if index is not None else [SINGLE_NAME]:
        try:
            file = _shard(folder, name)
            header = read_header(file)
        except CheckpointError as error:
            problem(error)
            continue
        files.append(file)
        for tensor, entry in header.tensors.items():
            if index is not None and index.get(tensor) != name:
                if not is_ignored(tensor, config.storage):
                    problem(_not_in_index(tensor, file, index.get(tensor)))
                continue
            tensors[tensor] = StoredTensor(
                tensor, file, entry.dtype, entry.shape, entry.start, entry.nbytes
            )
    read = {file.name for file in files}
    for tensor, name in (index or {}).items():
        if tensor not in tensors and name in read:
            problem(
                TensorMismatchError(
                    f"the index places it in {name}, which does not hold it",
                    file=folder / INDEX_NAME,
                    tensor=tensor,
                    remedy="Download the index and that file again; their versions differ",
                )
            )
    said = tuple(ConfigWarning(each, file=folder / "config.json") for each in config.notices)
    return Checkpoint(folder, config, tensors, tuple(files), (*unsafe, *said))


def stored_config(folder: str | Path) -> CheckpointConfig:
    """`read_config`, without a vision tower that no file of the folder holds.

    The layout of K2.5 names one for text-only copies too. With no weights there, or with ones that
    cannot be read (`models verify` says why), it is what config.json says.
    """
    folder = Path(folder)
    config = read_config(folder)
    if config.vision is None:
        return config
    try:
        index = _read_index(folder, ())
        names = read_header(folder / SINGLE_NAME).tensors if index is None else index
    except CheckpointError:
        return config
    return config if any(map(is_vision, names)) else replace(config, vision=None)


def mismatches(checkpoint: Checkpoint) -> Iterator[TensorMismatchError]:
    """Each tensor that is missing, surplus, or of the wrong dtype or shape; none if all is well."""
    config = checkpoint.config
    expected = {spec.name: spec for spec in expected_tensors(config)}
    has_vision = any(is_vision(name) for name in checkpoint.tensors)
    for spec in expected.values():
        stored = checkpoint.tensors.get(spec.name)
        if stored is None:
            if has_vision or not is_vision(spec.name):  # a text-only copy of K2.5 is complete
                yield _missing(checkpoint, spec)
        elif not spec.accepts(stored.dtype) or stored.shape != spec.shape:
            yield TensorMismatchError(
                f"is {stored.dtype} {list(stored.shape)}; config.json asks for {spec.dtype} "
                f"{list(spec.shape)}",
                file=stored.file,
                tensor=spec.name,
            )
    for stored in checkpoint.tensors.values():
        known = stored.name in expected or is_ignored(stored.name, config.storage)
        if not known and not (is_vision(stored.name) and config.vision is None):
            yield TensorMismatchError(
                "is not part of the model that config.json describes",
                file=stored.file,
                tensor=stored.name,
            )


def read_json_object(file: Path, limit: int) -> dict[str, Any]:
    """A JSON object from `file`; CorruptFileError for anything else."""
    try:
        size = file.stat().st_size
        if size > limit:
            raise CorruptFileError(f"has {size} bytes, {limit} is the limit", file=file)
        text = file.read_text("utf-8")
        if text.count("{") + text.count("[") > MAX_JSON_OBJECTS:
            raise CorruptFileError("nests or lists too much", file=file)
        value = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptFileError(f"cannot be read as JSON: {str(error)[:200]}", file=file) from None
    if not isinstance(value, dict):
        raise CorruptFileError("is not a JSON object", file=file)
    return value


def _read_index(folder: Path, unsafe: tuple[UnsafeFileWarning, ...]) -> dict[str, str] | None:
    """Tensor -> file name, or None for a folder with one `model.safetensors`."""
    file = checkpoint_file(folder, INDEX_NAME)
    if file is None:
        if checkpoint_file(folder, SINGLE_NAME) is not None:
            return None
        _no_weights(folder, unsafe)
    weight_map = read_json_object(file, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CorruptFileError("has no weight_map", file=file)
    names = {name for name in weight_map.values() if isinstance(name, str)}
    good = {n for n in names if n.endswith(".safetensors") and Path(n).name == n}
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or name not in good:
            raise UnsafeFileError(
                f"places it in {str(name)[:80]!r}, which is not a safetensors file of this folder",
                file=file,
                tensor=tensor,
            )
    return weight_map


def _shard(folder: Path, name: str) -> Path:
    file = checkpoint_file(folder, name)
    if file is None:
        raise CorruptFileError(
            "is in the index, but missing",
            file=folder / name,
            remedy="The download is incomplete: fetch this file too",
        )
    return file


def _unsafe_files(folder: Path) -> Iterator[UnsafeFileWarning]:
    for path in sorted(folder.iterdir()):
        if path.suffix in PICKLES:
            yield UnsafeFileWarning("a pickle beside the weights; it is never opened", file=path)
        elif path.suffix == ".py":
            yield UnsafeFileWarning("Python beside the weights; it is never imported", file=path)


def _no_weights(folder: Path, unsafe: tuple[UnsafeFileWarning, ...]) -> NoReturn:
    if unsafe:
        raise UnsafeFileError(
            f"{folder} has no safetensors, only {', '.join(w.file.name for w in unsafe[:3])}; "
            "reading weights from it would execute what it holds",
            file=unsafe[0].file,
            remedy="Get the checkpoint as safetensors; its publisher has it in this form",
        )
    stray = [path.name for path in folder.glob("*.safetensors")]
    raise CorruptFileError(
        f"not found in {folder}" + (f", which has {len(stray)} safetensors files" if stray else ""),
        file=folder / INDEX_NAME,
        remedy="The download is incomplete: fetch the index too"
        if stray
        else "The folder holds no weights: give one with *.safetensors files and their index",
    )


def _not_in_index(tensor: str, file: Path, elsewhere: str | None) -> TensorMismatchError:
    where = f"; the index places it in {elsewhere}" if elsewhere else ", not named by the index"
    return TensorMismatchError(
        f"does not belong in this file{where}",
        file=file,
        tensor=tensor,
        remedy="Download the index and this file again; they come from different versions",
    )


def _missing(checkpoint: Checkpoint, spec: TensorSpec) -> TensorMismatchError:
    base = spec.name.rpartition(".")[0]
    others = (f"{base}.{suffix}" for storage in FORMATS.values() for suffix in storage.roles)
    other = next((name for name in others if name in checkpoint.tensors), None)
    if other is not None:
        return TensorMismatchError(
            f"is missing; the files hold {other} instead",
            file=checkpoint.tensors[other].file,
            tensor=spec.name,
            remedy=f"quantization_config says {checkpoint.config.storage}, but the files are "
            "stored in another format: use the config.json that belongs to them",
        )
    return TensorMismatchError(
        "is missing",
        file=checkpoint.folder,
        tensor=spec.name,
        remedy="Compare the files with the published list, and config.json with its original",
    )
