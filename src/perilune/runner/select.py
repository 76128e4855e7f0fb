"""Which runner computes a model here: the one place that decides, for the engine and `doctor`."""

from __future__ import annotations

from perilune.errors import UsageError
from perilune.model.model import KimiK2Model
from perilune.runner.cpu.runner import CpuRunner
from perilune.runner.runner import ModelRunner
from perilune.runner.torch_runner import TorchRunner


def why_not_native(model: KimiK2Model, native: bool | None = None) -> str | None:
    """Why the model's own torch modules compute it and not the C kernels; None: these do."""
    return "torch was asked for" if native is False else CpuRunner.unsupported(model)


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
    cause = why_not_native(model, native)
    if cause is None:
        return CpuRunner(
            model, exact=exact, dense_format=dense_format, expanded_prefill=expanded_prefill
        )
    if native:
        raise UsageError(f"the C kernels cannot run this model: {cause}", remedy="native=None")
    if dense_format is not None:
        raise UsageError(f"dense_format needs the C kernels: {cause}")
    return TorchRunner(model.float() if exact else model)
