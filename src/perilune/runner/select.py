"""Which runner computes a model here: the one place that decides, for the engine and `doctor`.

RUNNERS are asked in order; the first that can run a model, on the device where its weights lie,
gets it. A runner of another device registers itself in front of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import torch

from perilune.errors import DeviceError, UsageError
from perilune.model.model import KimiK2Model
from perilune.runner.cpu.runner import CpuRunner, check_dense_format
from perilune.runner.runner import ModelRunner
from perilune.runner.torch_runner import TorchRunner


@dataclass(frozen=True, slots=True)
class RunnerOptions:
    """How a model is to be computed; the fields are those of `CpuRunner`."""

    exact: bool = False
    dense_format: str | None = None
    expanded_prefill: bool = False


class WhyNot(Protocol):
    """Why a runner cannot run a model, or None."""

    def __call__(
        self, model: KimiK2Model, *, exact: bool = False, device: str = "cpu"
    ) -> str | None: ...


@dataclass(frozen=True, slots=True)
class RunnerKind:
    """A way to compute a model.

    name: for people, as in "C kernels". native: kernels of its own, not the model's torch modules.
    why_not: why it cannot run a model, or None. build: takes the model over.
    """

    name: str
    native: bool
    why_not: WhyNot
    build: Callable[[KimiK2Model, RunnerOptions], ModelRunner]


def _build_cpu(model: KimiK2Model, options: RunnerOptions) -> ModelRunner:
    return CpuRunner(
        model,
        exact=options.exact,
        dense_format=options.dense_format,
        expanded_prefill=options.expanded_prefill,
    )


def _build_torch(model: KimiK2Model, options: RunnerOptions) -> ModelRunner:
    return TorchRunner(model.float() if options.exact else model)


CPU: Final = RunnerKind("C kernels", True, CpuRunner.unsupported, _build_cpu)
TORCH: Final = RunnerKind("torch", False, lambda model, **_: None, _build_torch)
RUNNERS: Final = [CPU, TORCH]


def register_runner(kind: RunnerKind) -> None:
    """Ask this kind before all others. Raises UsageError for a name that is taken."""
    if any(kind.name == known.name for known in RUNNERS):
        raise UsageError(f"a runner named {kind.name!r} exists already")
    RUNNERS.insert(0, kind)


def unregister_runner(kind: RunnerKind) -> None:
    """Ask this kind no more."""
    RUNNERS.remove(kind)


def choose_runner(
    model: KimiK2Model, native: bool | None = None, *, exact: bool = False, device: str = "cpu"
) -> tuple[RunnerKind, str]:
    """What computes this model, and why those before it do not (empty where there are none).

    `native`: True: kernels or an error; False: torch. `device`: where its tensors lie now; "meta"
    for a model that is still to be loaded to the CPU. Raises UsageError.
    """
    causes: list[str] = []
    for kind in RUNNERS:
        if native is False and kind.native:
            cause: str | None = "torch was asked for"
        elif native and not kind.native:
            continue
        else:
            cause = kind.why_not(model, exact=exact, device=device)
        if cause is None:
            return kind, _listed(causes)
        causes.append(cause)
    raise UsageError(
        f"the C kernels cannot run this model: {_listed(causes)}", remedy="Use native=None"
    )


def _listed(causes: list[str]) -> str:
    return "; ".join(dict.fromkeys(causes))


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
            remedy="Leave native out, or use device cpu",
        )
    if dense_format is not None:
        raise DeviceError(
            f"dense_format needs the C kernels, which compute on the CPU, not on {device}",
            remedy="Leave dense_format out, or use device cpu",
        )


def select_runner(
    model: KimiK2Model,
    *,
    native: bool | None = None,
    exact: bool = False,
    dense_format: str | None = None,
    expanded_prefill: bool = False,
) -> ModelRunner:
    """The first of RUNNERS that can run the model: kernels where they can, else torch.

    `native` as in `choose_runner`, the others as in `CpuRunner`; the runner takes the model over.
    Raises UsageError for what this runner cannot do.
    """
    kind, cause = choose_runner(model, native, exact=exact)
    if dense_format is not None and not kind.native:
        raise UsageError(f"dense_format needs the C kernels: {cause}")
    return kind.build(model, RunnerOptions(exact, dense_format, expanded_prefill))
