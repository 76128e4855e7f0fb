"""Expert stores for tests: they register themselves with a runner and bring experts late."""

from __future__ import annotations

import threading
import time

import torch
from torch import Tensor

from perilune.kernels.expert_table import PARTS, ExpertTable
from perilune.model.experts import RoutedExperts
from perilune.model.layer import DecoderLayer
from perilune.model.model import KimiK2Model
from perilune.model.moe import MixtureOfExperts
from perilune.runner.cpu.runner import CpuRunner
from perilune.runner.torch_runner import TorchRunner

POISON = 0xFF  # bytes of NaN: weights, or their scales


class LateStore:
    """Takes a runner's experts away; another thread brings each back when it is asked for.

    What was acquired is poisoned again on release, so whoever reads an expert without asking, or
    after letting go, computes nonsense. `asked`: (layer, expert ids) of each call, in order.
    """

    def __init__(
        self, runner: CpuRunner | TorchRunner, model: KimiK2Model, *, delay: float = 0.0
    ) -> None:
        self.asked: list[tuple[int, list[int]]] = []
        self.released: list[int] = []
        self.delay = delay
        self._brought: dict[int, list[int]] = {}
        self._shelf: dict[int, Shelf] = {}
        for layer, module in experts_by_layer(model).items():
            if isinstance(runner, CpuRunner):
                self._shelf[layer] = TableShelf(runner.expert_tables[layer], experts_of(module))
            else:
                self._shelf[layer] = ModuleShelf(module)
        runner.set_expert_store(self)

    def acquire(self, layer: int, experts: Tensor) -> None:
        assert experts.dtype == torch.int32 and experts.dim() == 2
        wanted = sorted(set(experts.flatten().tolist()))
        self.asked.append((layer, wanted))
        self._brought[layer] = wanted
        reader = threading.Thread(target=self._bring, args=(layer, wanted))
        reader.start()
        reader.join()

    def _bring(self, layer: int, experts: list[int]) -> None:
        time.sleep(self.delay)
        for expert in experts:
            self._shelf[layer].bring(expert)

    def release(self, layer: int) -> None:
        self.released.append(layer)
        for expert in self._brought.pop(layer):
            self._shelf[layer].take(expert)


class Shelf:
    """One layer's experts, all of them away at first."""

    def bring(self, expert: int) -> None:
        raise NotImplementedError

    def take(self, expert: int) -> None:
        raise NotImplementedError


class TableShelf(Shelf):
    """Each bringing is a new piece of memory; the table says where."""

    def __init__(self, table: ExpertTable, parts: list[dict[str, Tensor]]) -> None:
        self._table = table
        self._cold = [{name: part.clone() for name, part in one.items()} for one in parts]
        self._warm: dict[int, dict[str, Tensor]] = {}
        for expert, one in enumerate(parts):
            for part in one.values():
                poison(part)
            table.remove(expert)

    def bring(self, expert: int) -> None:
        self._warm[expert] = {name: part.clone() for name, part in self._cold[expert].items()}
        self._table.place(expert, self._warm[expert])

    def take(self, expert: int) -> None:
        self._table.remove(expert)
        for part in self._warm.pop(expert).values():
            poison(part)


class ModuleShelf(Shelf):
    """An expert's slots in its module are filled and poisoned."""

    def __init__(self, module: RoutedExperts) -> None:
        self._slots: dict[int, list[Tensor]] = {}
        for name, slot in module.expert_slots():
            self._slots.setdefault(int(name.partition(".")[0]), []).append(slot.detach())
        self._cold = {e: [slot.clone() for slot in slots] for e, slots in self._slots.items()}
        for expert in self._slots:
            self.take(expert)

    def bring(self, expert: int) -> None:
        for slot, value in zip(self._slots[expert], self._cold[expert], strict=True):
            slot.copy_(value)

    def take(self, expert: int) -> None:
        for slot in self._slots[expert]:
            poison(slot)


def poison(part: Tensor) -> None:
    part.view(torch.uint8).fill_(POISON)


def experts_by_layer(model: KimiK2Model) -> dict[int, RoutedExperts]:
    """The experts modules, whose tensors the C kernels read in place, by layer."""
    return {
        index: layer.mlp.experts
        for index, layer in enumerate(model.model.layers)
        if isinstance(layer, DecoderLayer) and isinstance(layer.mlp, MixtureOfExperts)
    }


def experts_of(module: RoutedExperts) -> list[dict[str, Tensor]]:
    """The parts of each expert by their names in the pointer table, as views of the module's."""
    experts: list[dict[str, Tensor]] = [{} for _ in range(module.num_experts)]
    for name, slot in module.expert_slots():
        number, projection, kind = name.split(".")
        if kind == "weight_shape":
            continue
        part = projection.removesuffix("_proj")
        experts[int(number)][f"{part}_scale" if "scale" in kind else part] = slot.detach()
    assert all(set(one) <= set(PARTS) for one in experts)
    return experts


class FailingStore:
    """Brings nothing: raises for one layer, and only where `poisoned` is among the experts."""

    def __init__(self, layer: int, error: BaseException, poisoned: int | None = None) -> None:
        self.layer, self.error, self.poisoned = layer, error, poisoned
        self.released: list[int] = []

    def acquire(self, layer: int, experts: Tensor) -> None:
        needed = self.poisoned is None or self.poisoned in experts
        if layer == self.layer and needed:
            raise self.error

    def release(self, layer: int) -> None:
        self.released.append(layer)
