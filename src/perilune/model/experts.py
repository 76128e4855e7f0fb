"""The routed experts of one layer, held stacked: one module, not 384.

`RoutedExperts` groups the rows of a batch by expert and adds up what the experts answer; how one
expert computes, and in which format its weights lie, is the business of a subclass.

Shape suffixes: T tokens, K chosen experts per token, E experts, D hidden, F expert hidden,
N rows that one expert got.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perilune.model.init import init_normal


class RoutedExperts(nn.Module, ABC):
    """Base of the experts modules of every storage format.

    Its state dict reads and writes the checkpoint's names (`0.gate_proj.weight`, ...), which
    `expert_slots` gives; the stacked tensors themselves never appear in it.
    """

    def __init__(self, num_experts: int, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size

    @abstractmethod
    def expert(self, e: int, x_ND: Tensor) -> Tensor:
        """What expert `e` answers to its rows: [N, D] -> [N, D]."""

    @abstractmethod
    def expert_slots(self) -> Iterator[tuple[str, Tensor]]:
        """(name below `experts.`, writable view) of every checkpoint tensor of this layer."""

    def forward(self, x_TD: Tensor, weights_TK: Tensor, indices_TK: Tensor) -> Tensor:
        """Weighted sum of the chosen experts' answers, added in float32 in order of expert id."""
        order_R = indices_TK.flatten().argsort(stable=True)  # R = T*K rows, sorted by expert
        token_R = order_R // indices_TK.shape[1]
        weight_R = weights_TK.flatten()[order_R].float()
        # The one wait for the device: which experts have rows decides which products are started.
        starts_E = self._first_rows(indices_TK.flatten()[order_R]).tolist()
        y_TD = torch.zeros_like(x_TD, dtype=torch.float32)
        for e, (start, end) in enumerate(pairwise(starts_E)):
            if start < end:
                token_N = token_R[start:end]
                answer_ND = self.expert(e, x_TD[token_N])
                y_TD.index_add_(0, token_N, answer_ND.float() * weight_R[start:end, None])
        return y_TD.to(x_TD.dtype)

    def _first_rows(self, sorted_R: Tensor) -> Tensor:
        """Sorted expert ids -> where the rows of each expert begin, and the end: int64 [E + 1].

        `bincount` says the same, but waits for the device itself to learn how much memory it needs.
        """
        experts_E = torch.arange(self.num_experts + 1, dtype=sorted_R.dtype, device=sorted_R.device)
        return torch.searchsorted(sorted_R, experts_E)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        for name, view in self.expert_slots():
            destination[prefix + name] = view if keep_vars else view.detach()

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        known = set()
        for name, view in self.expert_slots():
            key = prefix + name
            known.add(key)
            value = state_dict.get(key)
            if value is None:
                missing_keys.append(key)
            elif value.shape != view.shape:
                error_msgs.append(
                    f"size mismatch for {key}: {tuple(value.shape)} in the state dict, "
                    f"{tuple(view.shape)} in the model"
                )
            elif view.is_meta:
                error_msgs.append(f"{key} has no memory yet: call model.to_empty(device=...) first")
            else:
                with torch.no_grad():
                    view.copy_(value)
        if strict:
            unexpected_keys += [k for k in state_dict if k.startswith(prefix) and k not in known]

    def extra_repr(self) -> str:
        return f"{self.num_experts} experts, {self.hidden_size} -> {self.intermediate_size}"


class Experts(RoutedExperts):
    """Experts with plain floating-point weights."""

    def __init__(self, num_experts: int, hidden_size: int, intermediate_size: int) -> None:
        super().__init__(num_experts, hidden_size, intermediate_size)
        self.gate_proj = nn.Parameter(torch.empty(num_experts, intermediate_size, hidden_size))
        self.up_proj = nn.Parameter(torch.empty(num_experts, intermediate_size, hidden_size))
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_size, intermediate_size))
        for weight in self.parameters():
            init_normal(weight, std=0.02)

    def expert(self, e: int, x_ND: Tensor) -> Tensor:
        hidden_NF = F.silu(F.linear(x_ND, self.gate_proj[e])) * F.linear(x_ND, self.up_proj[e])
        return F.linear(hidden_NF, self.down_proj[e])

    def expert_slots(self) -> Iterator[tuple[str, Tensor]]:
        for e in range(self.num_experts):
            for name in ("gate_proj", "up_proj", "down_proj"):
                yield f"{e}.{name}.weight", getattr(self, name)[e]
