"""Which device is meant, and whether this machine has it: asked once, before anything is read."""

from __future__ import annotations

import torch

from perilune.errors import DeviceError

AUTO = "auto"
REMEDY = "perilune doctor lists what this machine has; cpu always works"


def find_device(name: torch.device | str) -> torch.device:
    """The device of that name; "auto" is the CPU, whose kernels are the fastest that there are.

    Nothing is allocated on it. Raises DeviceError where this machine has none of the name.
    """
    try:
        device = torch.device("cpu" if name == AUTO else name)
    except (RuntimeError, TypeError) as error:
        raise _absent(name, str(error).splitlines()[0]) from None
    if device.type == "meta":
        raise DeviceError(
            "nothing can be computed on the device meta: it holds no values",
            remedy="Build KimiK2Model under torch.device('meta') for shapes alone",
        )
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise _absent(name, f"torch sees {count} CUDA devices")
    return device


def try_device(name: torch.device | str) -> torch.device:
    """As `find_device`, and tried out: something was put there."""
    device = find_device(name)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise _absent(name, str(error).splitlines()[0]) from None
    return device


def _absent(name: torch.device | str, cause: str) -> DeviceError:
    return DeviceError(f"device {name} is not available: {cause}", remedy=REMEDY)
