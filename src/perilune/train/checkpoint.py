"""Training checkpoints: a folder of safetensors and JSON, complete or not there at all.

    step-00001200/weights.safetensors   masters and router biases, by the model's names
    step-00001200/optimizer.safetensors momentum and AdamW averages
    step-00001200/state.json            step, data position, tokens, random state, file hashes

A checkpoint is written beside its place, synced to the disk and renamed, and the old ones are
deleted after that: whatever happens, the last complete one is whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from perilune.errors import CheckpointError, CorruptFileError, DiskFullError, UsageError
from perilune.model.model import KimiK2Model
from perilune.train.balance import routers_of
from perilune.train.config import RunConfig
from perilune.train.optim.muon_clip import MuonClip
from perilune.train.parallel import cut_like, whole

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
BIAS = "e_score_correction_bias"
_NAME = re.compile(r"step-(\d{8})")


@dataclass(slots=True)
class Progress:
    """Where a stage is. `position` is the number of the next document, `task` of the next task."""

    step: int = 0
    position: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0
    finished: bool = False
    task: int = 0


def save_checkpoint(
    folder: Path,
    optimizer: MuonClip,
    progress: Progress,
    *,
    keep: int,
    config: Mapping[str, Any],
    writes: bool = True,
) -> Path:
    """Write the checkpoint of a step into `folder`; returns its own folder.

    All processes of a run call it (shards are gathered); the one that `writes` does.

    Raises DiskFullError or CheckpointError; the earlier checkpoints are untouched then.
    """
    place = folder / f"step-{progress.step:08}"
    partial = folder / f"{place.name}.partial"
    weights = _weights(optimizer)
    states = {name: whole(tensor) for name, tensor in optimizer.state.items()}
    if not writes:
        return place
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir()
        hashes = {
            WEIGHTS: _write(partial / WEIGHTS, save(weights)),
            OPTIMIZER: _write(partial / OPTIMIZER, save(states)),
        }
        state = {
            "progress": asdict(progress),
            "optimizer_steps": optimizer.steps,
            "torch_random_state": torch.get_rng_state().numpy().tobytes().hex(),
            "sha256": hashes,
            "config": config,
        }
        _write(partial / STATE, (json.dumps(state, indent=1) + "\n").encode())
        if place.exists():
            shutil.rmtree(place)
        partial.rename(place)
        _sync(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"the disk of {folder} is full; the checkpoint of step {progress.step} was not "
                "written, the one before is whole",
                remedy="Free space and go on with --resume",
            ) from None
        raise CheckpointError(f"cannot be written: {error}", file=place) from None
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if _NAME.fullmatch(p.name) and p.is_dir())


def load_checkpoint(place: Path, optimizer: MuonClip) -> Progress:
    """Put a checkpoint's weights, biases and optimiser state back. Raises CorruptFileError."""
    state = read_state(place)
    load_weights(place, optimizer.model, optimizer, state)
    stored = _read(place / OPTIMIZER, state)
    if stored.keys() != optimizer.state.keys():
        raise CorruptFileError("holds the state of another model", file=place / OPTIMIZER)
    for name, tensor in optimizer.state.items():
        tensor.copy_(cut_like(stored[name].to(tensor.device), tensor))
    optimizer.steps = int(state["optimizer_steps"])
    random_state = bytearray.fromhex(state["torch_random_state"])
    torch.set_rng_state(torch.frombuffer(random_state, dtype=torch.uint8))
    return Progress(**state["progress"])


@torch.no_grad()
def load_weights(
    place: Path,
    model: KimiK2Model,
    optimizer: MuonClip | None = None,
    state: Mapping[str, Any] | None = None,
) -> None:
    """Put a checkpoint's weights and router biases into a model (into the masters, given those)."""
    stored = _read(place / WEIGHTS, read_state(place) if state is None else state)
    targets = _biases(model)
    if optimizer is None:
        targets |= {
            name: value.detach() for name, value in model.named_parameters() if value.requires_grad
        }
    else:
        targets |= {p.name: p.master for p in optimizer.parameters}
    for name, target in targets.items():
        if name not in stored or stored[name].shape != target.shape:
            raise CorruptFileError(
                "missing, or of another shape than the configured model's",
                file=place / WEIGHTS, tensor=name,
                remedy="Give the configuration that this run was started with",
            )  # fmt: skip
        target.copy_(cut_like(stored[name].to(target.device), target))
    if optimizer is not None:
        optimizer.publish()


def read_state(place: Path) -> dict[str, Any]:
    """`state.json` of a checkpoint. Raises CorruptFileError."""
    try:
        state: dict[str, Any] = json.loads((place / STATE).read_text("utf-8"))
        _ = state["progress"]["step"], state["sha256"][WEIGHTS], state["optimizer_steps"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(
            f"cannot be read: {error!r}", file=place / STATE,
            remedy=f"Delete {place} to go on from the checkpoint before it",
        ) from None  # fmt: skip
    return state


def _weights(optimizer: MuonClip) -> dict[str, Tensor]:
    weights = {p.name: p.master for p in optimizer.parameters} | _biases(optimizer.model)
    return {name: whole(tensor).contiguous() for name, tensor in weights.items()}


def _biases(model: KimiK2Model) -> dict[str, Tensor]:
    names = {id(module): name for name, module in model.named_modules()}
    return {
        f"{names[id(block.gate)]}.{BIAS}": block.gate.e_score_correction_bias.detach()
        for block in routers_of(model)
    }


def _write(path: Path, data: bytes) -> str:
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return hashlib.sha256(data).hexdigest()


def _read(path: Path, state: Mapping[str, Any]) -> dict[str, Tensor]:
    remedy = f"Delete {path.parent} to go on from the checkpoint before it"
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != state["sha256"][path.name]:
            raise CorruptFileError("its sha256 is not the recorded one", file=path, remedy=remedy)
        return load(data)
    except (OSError, SafetensorError) as error:
        raise CorruptFileError(f"cannot be read: {error}", file=path, remedy=remedy) from None


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def last_checkpoint(config: RunConfig, name: str) -> Path:
    """The newest checkpoint of a stage. Raises UsageError where there is none."""
    found = checkpoints(Path(config.folder) / name)
    if not found:
        raise UsageError(
            f"stage {name!r} has no checkpoint in {config.folder}", remedy="Run that stage first"
        )
    return found[-1]
