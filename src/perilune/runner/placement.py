"""Where each module's weights and each expert's lie, in bytes: known before anything is loaded.

One description that the memory plan of the engine and `perilune models show` read. It comes from
what a checkpoint must hold (`weights.tensor_table`), or does hold, alone. Today everything that is
loaded is in the memory of one device; what is not loaded has no place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from perilune.config import CheckpointConfig
from perilune.errors import UsageError
from perilune.formats import Part
from perilune.weights.tensor_table import TensorSpec, expected_tensors


class Tier(StrEnum):
    """A kind of memory, fastest first."""

    MEMORY = "memory"  # of the device that computes


@dataclass(frozen=True, slots=True)
class Place:
    """Weights that lie together: a module, or one routed expert of one layer."""

    module: str  # "model.layers.3.self_attn.o_proj", "model.layers.3.mlp.experts.17"
    part: Part
    nbytes: int
    tier: Tier = Tier.MEMORY
    device: str = "cpu"
    layer: int | None = None  # of a routed expert
    expert: int | None = None


class Placement:
    """The places of a model, in the order of the network."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._places = {place.module: place for place in places}

    def __iter__(self) -> Iterator[Place]:
        return iter(self._places.values())

    def __len__(self) -> int:
        return len(self._places)

    def module(self, name: str) -> Place:
        """Where a module lies. Raises UsageError where there is none of this name."""
        try:
            return self._places[name]
        except KeyError:
            raise UsageError(f"no module {name!r} has weights in this model") from None

    def expert(self, layer: int, expert: int) -> Place:
        """Where one routed expert lies. Raises UsageError where there is none."""
        return self.module(f"model.layers.{layer}.mlp.experts.{expert}")

    def nbytes(
        self, tier: Tier = Tier.MEMORY, *, part: Part | None = None, device: str | None = None
    ) -> int:
        """Bytes in a tier, of one part or device or of all."""
        return sum(
            place.nbytes
            for place in self
            if place.tier is tier and part in (None, place.part) and device in (None, place.device)
        )

    def moved(self, where: Callable[[Place], tuple[Tier, str]]) -> Placement:
        """The same weights elsewhere: `where` says tier and device of each place."""
        moved = []
        for place in self:
            tier, device = where(place)
            moved.append(replace(place, tier=tier, device=device))
        return Placement(moved)


def place_checkpoint(
    config: CheckpointConfig,
    stored: Mapping[str, int] | None = None,
    *,
    device: str = "cpu",
) -> Placement:
    """Everything that is loaded of a checkpoint, in the memory of `device`.

    `stored`: bytes by name of the tensors that are loaded, which may differ from the format's own
    (float32 norms, say); without it, all tensors as the format has them. Raises ConfigError as
    `expected_tensors` does.
    """
    nbytes: dict[str, int] = {}
    parts: dict[str, Part] = {}
    for spec in expected_tensors(config):
        if stored is None or spec.name in stored:
            name = _module(spec, config.tensor_prefix)
            parts[name] = spec.part
            loaded = spec.nbytes if stored is None else stored[spec.name]
            nbytes[name] = nbytes.get(name, 0) + loaded
    return Placement(
        Place(name, part, nbytes[name], Tier.MEMORY, device, *_expert(name, part))
        for name, part in parts.items()
    )


def _module(spec: TensorSpec, prefix: str) -> str:
    """The module that a tensor belongs to; the three matrices of an expert are one."""
    module = spec.name.removeprefix(prefix).rpartition(".")[0]
    return module.rpartition(".")[0] if spec.part is Part.ROUTED_EXPERTS else module


def _expert(module: str, part: Part) -> tuple[int, int] | tuple[None, None]:
    """Layer and number of a routed expert."""
    if part is not Part.ROUTED_EXPERTS:
        return None, None
    _, _, layer, _, _, expert = module.split(".")
    return int(layer), int(expert)
