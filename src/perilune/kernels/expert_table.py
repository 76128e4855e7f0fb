"""Where each expert of a layer lies: the pointer table of `plk_experts`.

Six addresses per expert (`plk_expert`), each of weights in the native layout. So experts may lie
side by side, as a loaded checkpoint has them, or each anywhere, and may move between two steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from perilune.errors import UsageError

PARTS: Final = ("gate", "up", "down", "gate_scale", "up_scale", "down_scale")


class ExpertTable:
    """Addresses int64 [experts, 6], in the order of PARTS; 0 where nothing lies.

    Whoever sets an address keeps the memory behind it alive, unchanged and in the native layout for
    as long as it stands here. The C library reads the table anew in every step.
    """

    def __init__(self, num_experts: int) -> None:
        self.addresses = torch.zeros(num_experts, len(PARTS), dtype=torch.int64)

    @property
    def num_experts(self) -> int:
        return self.addresses.shape[0]

    @property
    def pointer(self) -> int:
        """Address of the table itself."""
        return self.addresses.data_ptr()

    def stack(self, part: str, stacked: Tensor) -> None:
        """One part of all experts, which lie side by side: `stacked` [experts, ...]."""
        if stacked.shape[0] != self.num_experts or not stacked.is_contiguous():
            raise UsageError(
                f"{part} of {self.num_experts} experts cannot be a tensor of shape "
                f"{tuple(stacked.shape)}, strides {tuple(stacked.stride())}"
            )
        stride = stacked.nbytes // max(self.num_experts, 1)
        order = torch.arange(self.num_experts)
        self.addresses[:, PARTS.index(part)] = stacked.data_ptr() + order * stride

    def place(self, expert: int, parts: Mapping[str, Tensor]) -> None:
        """One expert, its parts by name. Those that are not named have no address afterwards."""
        if unknown := [name for name in parts if name not in PARTS]:
            raise UsageError(f"an expert has no part {unknown[0]!r}", remedy=f"It has {PARTS}")
        for tensor in parts.values():
            if tensor.device.type != "cpu" or not tensor.is_contiguous():
                raise UsageError(f"an expert needs contiguous CPU tensors, not {tensor.device}")
        row = [parts[name].data_ptr() if name in parts else 0 for name in PARTS]
        self.addresses[expert] = torch.tensor(row)

    def remove(self, expert: int) -> None:
        """This expert lies nowhere."""
        self.addresses[expert] = 0
