"""`load_model`: a checkpoint folder -> the network with its weights, each in its stored format.

The order is: check everything that can be checked without reading weights, build on the meta
device, ask whether it fits, and only then read, each tensor straight into its place. So peak
memory is that of the weights plus small buffers.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from perilune.errors import CorruptFileError, OutOfMemoryError, TensorMismatchError, UsageError
from perilune.formats import FORMATS, Role, role_of
from perilune.kernels import native
from perilune.model.model import KimiK2Model
from perilune.model.slots import named_slots
from perilune.weights.bulk import STAGING_BYTES, read_tensors
from perilune.weights.checkpoint import Checkpoint, StoredTensor, mismatches, open_checkpoint
from perilune.weights.device import try_device
from perilune.weights.format_bytes import gigabytes
from perilune.weights.memory import available_memory, require_memory
from perilune.weights.progress import ByteCounter, ProgressCallback, progress_bar
from perilune.weights.reader import TORCH_DTYPES
from perilune.weights.stored import apply_format
from perilune.weights.tensor_table import expected_tensors, is_vision, stored_name

LONG_LOAD = 2 * 10**9  # bytes; from here on a terminal gets a bar without asking
_EXPONENTS = {  # dtype of scales -> integers of its width, the bits of the exponent
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float16: (torch.int16, 0x7C00),
    torch.float32: (torch.int32, 0x7F800000),
}
COMPUTE_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def load_model(
    path: str | Path | Checkpoint,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    vision: bool = True,
    progress: ProgressCallback | bool | None = None,
) -> KimiK2Model:
    """Read the model of a checkpoint folder, ready for inference (`eval`, no gradients).

    `vision`: with the tower of K2.5 and its projector, where the folder holds them; False reads the
    text model alone, whatever is wrong with the rest.

    `path`: the folder, or the checkpoint that somebody has opened already. `dtype` is that of the
    plain tensors (norms, embeddings, unquantised weights), and with them of the computation; None
    keeps the stored one. Quantised weights stay as they are stored, the router's correction bias
    stays float32. `progress` is a callback; None shows a bar on a terminal for loads of 2 GB and
    more, False never does.

    Pickles and Python files beside the weights are never opened; an UnsafeFileWarning names each.
    Raises CheckpointError (its subclasses name file, tensor and remedy), OutOfMemoryError before
    the first byte is read, UsageError (dtype), DeviceError (a device that is not available).
    """
    device = try_device(device)
    checkpoint = path if isinstance(path, Checkpoint) else open_checkpoint(path)
    for warning in checkpoint.warnings:
        warnings.warn(warning, stacklevel=2)
    check_tensors(checkpoint, vision=vision)
    with torch.inference_mode(False):  # the weights outlive the mode of the caller
        model = build_model(checkpoint, dtype, vision=vision)
        needed = sum(slot.nbytes for _, slot in named_slots(model))
        require_memory(needed + STAGING_BYTES, device, f"loading {checkpoint.folder}")
        available = available_memory(device)
        _materialize(model, device)
        bar = progress_bar(f"Loading {checkpoint.folder.name}", minimum=LONG_LOAD)
        callback = nullcontext(None if isinstance(progress, bool) else progress)
        with bar if progress is None else callback as shown:
            # A load that fills most of the memory must not compete with its own file cache.
            drop_cache = available is not None and 2 * needed > available
            _read_slots(checkpoint, dict(named_slots(model)), shown, drop_cache=drop_cache)
        return model.eval().requires_grad_(False)


def build_model(
    checkpoint: Checkpoint, dtype: torch.dtype | None = None, *, vision: bool = True
) -> KimiK2Model:
    """The model of an open checkpoint on the meta device, its modules those of the format.

    A text-only folder has no tower, whatever its config.json says.
    """
    if dtype is None:
        dtype = stored_dtype(checkpoint)
    elif dtype not in COMPUTE_DTYPES:
        raise UsageError(f"{dtype} is not a dtype to compute in")
    with torch.device("meta"):
        seen = checkpoint.config.vision_config if vision and checkpoint.vision else None
        model = KimiK2Model(checkpoint.config.text, seen).to(dtype)
    apply_format(model, checkpoint.config)
    return model


def stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The dtype of the plain tensors: that of the embeddings (bfloat16 in published files)."""
    name = f"{checkpoint.config.tensor_prefix}model.embed_tokens.weight"
    found = checkpoint.tensors.get(name)  # `check_tensors` says so where it is missing
    return torch.bfloat16 if found is None else TORCH_DTYPES[found.dtype]


def loaded_tensors(
    checkpoint: Checkpoint, dtype: torch.dtype | None = None, *, vision: bool = True
) -> dict[str, int]:
    """Name -> bytes of what `load_model` puts into memory, before anything is built.

    Plain tensors in `dtype` (None: the stored one). `vision` as in `load_model`.
    """
    vision = vision and bool(checkpoint.vision)
    itemsize = (dtype or stored_dtype(checkpoint)).itemsize
    return {
        # The router's correction bias is the one plain tensor that stays float32.
        spec.name: spec.numel * itemsize if spec.is_plain and spec.dtype != "F32" else spec.nbytes
        for spec in expected_tensors(checkpoint.config)
        if vision or not is_vision(spec.name)
    }


def check_tensors(checkpoint: Checkpoint, *, vision: bool = True) -> None:
    """Raise the first TensorMismatchError, with the number of the others; `vision`: of all."""
    wrong = [e for e in mismatches(checkpoint) if vision or not is_vision(e.tensor or "")]
    if wrong:
        first = wrong[0]
        more = f" ({len(wrong) - 1} more do not fit either)" if len(wrong) > 1 else ""
        raise TensorMismatchError(
            first.detail + more, file=first.file, tensor=first.tensor, remedy=first.remedy
        )


def check_values(tensors: Mapping[str, StoredTensor], stored: StoredTensor, value: Tensor) -> None:
    """Raise CorruptFileError for scales that are not finite and for a wrong `weight_shape`.

    `value` is what was read of `stored`, one of `tensors`; other tensors are not looked at.
    """
    base, _, suffix = stored.name.rpartition(".")

    def shape(other: str) -> tuple[int, ...] | None:
        sibling = tensors.get(f"{base}.{other}")
        return None if sibling is None else sibling.shape

    wrong = ""
    role = role_of(stored.name)
    if role is Role.SCALE:
        bad = not_finite(value)
        wrong = f"{bad} of {value.numel()} scales are NaN or infinite" if bad else ""
    elif role is Role.SHAPE:
        knows = (each for each in FORMATS.values() if suffix in each.roles)
        wrong = next((said for each in knows if (said := each.wrong(suffix, value, shape))), "")
    if wrong:
        raise CorruptFileError(
            wrong,
            file=stored.file,
            tensor=stored.name,
            remedy="Download the file again; if it stays so, the checkpoint itself is broken",
        )


def not_finite(value: Tensor) -> int:
    """How many values are NaN or infinite."""
    layout = _EXPONENTS.get(value.dtype)
    if layout is not None and value.device.type == "cpu":
        # One pass over the exponents, on this thread. `isfinite` and its sum took ten times as
        # long, a third of a fast load, and torch's threads wait for each other on a busy machine.
        integer, exponent = layout
        bits = value.view(integer).numpy()
        if not value.numel() or int((bits & exponent).max()) < exponent:
            return 0
    return value.numel() - int(value.isfinite().sum())


def _materialize(model: KimiK2Model, device: torch.device) -> None:
    """Memory for every tensor, not yet touched."""
    try:
        # As `to_empty`, whose way from meta imports torch's compiler: a second of every load.
        model._apply(  # type: ignore[no-untyped-call]
            lambda t: torch.empty(t.shape, dtype=t.dtype, device=device)
        )
    except (RuntimeError, MemoryError) as error:  # torch's own way to say "no memory"
        needed = sum(slot.nbytes for _, slot in named_slots(model))
        raise OutOfMemoryError(
            f"{device} refused {gigabytes(needed)}: {str(error).splitlines()[0]}",
            remedy="Free memory or use a machine with more",
        ) from None
    for tensor in (*model.parameters(), *model.buffers()):
        native.advise_huge_pages(tensor)  # the first touch of 4 KiB pages is up to 5 times slower
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight


def _read_slots(
    checkpoint: Checkpoint,
    slots: dict[str, Tensor],
    progress: ProgressCallback | None,
    *,
    drop_cache: bool,
) -> None:
    prefix = checkpoint.config.tensor_prefix
    targets = [(checkpoint.tensors[stored_name(n, prefix)], slot) for n, slot in slots.items()]
    counter = ByteCounter(sum(stored.nbytes for stored, _ in targets), progress)
    read_tensors(
        targets,
        drop_cache=drop_cache,
        count=counter.add,
        check=lambda stored, slot: check_values(checkpoint.tensors, stored, slot),
    )
