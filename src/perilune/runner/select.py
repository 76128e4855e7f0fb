"""Which runner computes a model here: the one place that decides, for the engine and `doctor`."""

from __future__ import annotations

import torch

from perilune.errors import DeviceError, UsageError
from perilune.model.model import KimiK2Model
from perilune.runner.cpu.runner import CpuRunner, check_dense_format
from perilune.runner.runner import ModelRunner
from perilune.runner.torch_runner import TorchRunner


def why_not_native(
    model: KimiK2Model, native: bool | None = None, *, exact: bool = False, device: str = "cpu"
) -> str | None:
    """Why the model's own torch modules compute it and not the C kernels; None: these do.

    `device`: where its tensors lie now; "meta" for a model that is still to be loaded to the CPU.
    """
    if native is False:
        return "torch was asked for"
    return CpuRunner.unsupported(model, exact=exact, device=device)


def check_runner_options(
    device: torch.device, *, native: bool | None = None, dense_format: str | None = None
) -> None:
    """Raises UsageError for what cannot be on that device, before anything is loaded."""
    check_dense_format(dense_format)
    if device.type == "cpu":
        return
    if native:
        raise DeviceError(
            f"the C kernels compute on the CPU, not on {device}",
            remedy="Leave native out, or take device cpu",
        )
    if dense_format is not None:
        raise DeviceError(
            f"dense_format needs the C kernels, which compute on the CPU, not on {device}",
            remedy="Leave dense_format out, or take device cpu",
        )


def select_runner(
    model: KimiK2Model,
    *,
    native: bool | None = None,
    exact: bool = False,
    dense_format: str | None = None,
    expanded_prefill: bool = False,
) -> ModelRunner:
    """The C kernels where they can run the model, else the model's own modules.

    `native`: True: the C kernels or an error; False: torch. The others as in `CpuRunner`; the
    runner takes the model over. Raises UsageError for what this runner cannot do.
    """
    cause = why_not_native(model, native, exact=exact)
    if cause is None:
        return CpuRunner(
            model, exact=exact, dense_format=dense_format, expanded_prefill=expanded_prefill
        )
    if native:
        raise UsageError(f"the C kernels cannot run this model: {cause}", remedy="native=None")
    if dense_format is not None:
        raise UsageError(f"dense_format needs the C kernels: {cause}")
    return TorchRunner(model.float() if exact else model)
