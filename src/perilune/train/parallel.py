"""Several processes, started by `torchrun`: data parallel, or FSDP2 with every tensor in shards.

Every process draws the same documents, in the same order, and computes its share of the
micro-batches; sums of gradients, losses, loads and score maxima are exchanged, so a step is that of
one process up to the order of its sums. Process 0 alone writes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from perilune.model.model import KimiK2Model

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run; `size` 1 is one process without any exchange."""

    rank: int = 0
    size: int = 1
    sharded: bool = False
    """Whether parameters are DTensors (FSDP2); else every process holds all of them."""

    @property
    def writes(self) -> bool:
        return self.rank == 0

    def agree(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.size == 1:
            return flag
        device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
        vote = torch.tensor(float(flag), device=device)
        dist.all_reduce(vote, dist.ReduceOp.MAX)
        return bool(vote)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Add up tensors of one dtype over all processes, in place and in one exchange."""
        self._reduce(tensors, dist.ReduceOp.SUM)

    def maximum(self, tensors: Sequence[Tensor]) -> None:
        """Largest values over all processes, in place."""
        self._reduce(tensors, dist.ReduceOp.MAX)

    def _reduce(self, tensors: Sequence[Tensor], operation: Any) -> None:
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([t.flatten() for t in tensors])
        dist.all_reduce(flat, operation)
        begin = 0
        for t in tensors:
            t.copy_(flat[begin : begin + t.numel()].view_as(t))
            begin += t.numel()

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


def join_world(device: str, *, sharded: bool = False) -> World:
    """The world that `torchrun` made of this process, or a world of one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return World(dist.get_rank(), size, sharded)


def shard_model(model: KimiK2Model, world: World) -> None:
    """Cut every parameter over the processes (FSDP2), a layer at a time; in place.

    The modules keep their types and names; FSDP's hooks gather a layer's parameters before it
    computes and scatter its gradients after.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    kind = model.lm_head.weight.device.type
    mesh = init_device_mesh(kind, (world.size,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered; any other as it is. All processes must ask together."""
    shards = _sharded(tensor)
    return tensor if shards is None else shards.full_tensor()


def cut_like(full: Tensor, like: Tensor) -> Tensor:
    """This process's shard of a tensor that all processes hold, as `like` is sharded."""
    shards = _sharded(like)
    if shards is None:
        return full
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(full, shards.device_mesh, shards.placements, src_data_rank=None)


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds."""
    shards = _sharded(tensor)
    return tensor if shards is None else shards.to_local()


def _sharded(tensor: Tensor) -> DTensor | None:
    """The tensor as a DTensor, if it is one. Their import costs most of a second."""
    if not hasattr(tensor, "placements"):
        return None
    from torch.distributed.tensor import DTensor

    return tensor if isinstance(tensor, DTensor) else None
