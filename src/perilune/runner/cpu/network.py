"""The C forward of the whole network (`csrc/forward.h`), as ctypes structures and one handle."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from ctypes import POINTER, byref, c_double, c_float, c_int, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from perilune.kernels import native
from perilune.kernels.native import Experts, Format, KernelError, Matrix
from perilune.runner.batch import RowVectors
from perilune.runner.cpu.store_callbacks import StoreCallbacks, StoreStruct
from perilune.runner.expert_store import ExpertStore

ABI_VERSION: Final = 3
MAX_EXPERTS: Final = 1024
MAX_ROPE: Final = 256


class Network(ctypes.Structure):
    """`plk_network`."""

    _fields_ = [
        ("n_layers", c_int32),
        ("hidden", c_int32),
        ("n_heads", c_int32),
        ("q_rank", c_int32),
        ("kv_rank", c_int32),
        ("nope_dim", c_int32),
        ("rope_dim", c_int32),
        ("value_dim", c_int32),
        ("n_experts", c_int32),
        ("top_k", c_int32),
        ("n_group", c_int32),
        ("topk_group", c_int32),
        ("normalise_top_k", c_int32),
        ("vocabulary", c_int32),
        ("exact", c_int32),
        ("embed_format", c_int32),
        ("embed_native", c_int32),
        ("reserved", c_int32),
        ("routed_scaling", c_float),
        ("norm_eps", c_float),
        ("rank_norm_eps", c_float),
        ("softmax_scale", c_float),
        ("rope_scale", c_float),
        ("reserved_float", c_float),
        ("rope_frequencies", c_void_p),
        ("embed", c_void_p),
        ("final_norm", c_void_p),
        ("head", Matrix),
    ]


class Layer(ctypes.Structure):
    """`plk_layer`."""

    _fields_ = [
        ("input_norm", c_void_p),
        ("post_attention_norm", c_void_p),
        ("q_norm", c_void_p),
        ("kv_norm", c_void_p),
        ("q_a", Matrix),
        ("q_b", Matrix),
        ("kv_a", Matrix),
        ("o", Matrix),
        ("key_up", Matrix),
        ("value_up", Matrix),
        ("key_up_stride", c_int64),
        ("key_up_scale_stride", c_int64),
        ("value_up_stride", c_int64),
        ("value_up_scale_stride", c_int64),
        ("key_out", Matrix),
        ("key_out_stride", c_int64),
        ("key_out_scale_stride", c_int64),
        ("gate", Matrix),
        ("up", Matrix),
        ("down", Matrix),
        ("router", Matrix),
        ("router_bias", c_void_p),
        ("experts", Experts),
    ]


class Step(ctypes.Structure):
    """`plk_step`."""

    _fields_ = [
        ("n_rows", c_int32),
        ("n_sequences", c_int32),
        ("pages_per_sequence", c_int32),
        ("n_logits", c_int32),
        ("input_ids", c_void_p),
        ("positions", c_void_p),
        ("query_starts", c_void_p),
        ("page_tables", c_void_p),
        ("context_lengths", c_void_p),
        ("logits_rows", c_void_p),
        ("expanded_until", c_void_p),
        ("cache", c_void_p),
        ("n_pages", c_int64),
        ("cache_format", c_int32),
        ("most_threads", c_int32),
        ("n_vectors", c_int32),
        ("vector_format", c_int32),
        ("vector_rows", c_void_p),
        ("vectors", c_void_p),
    ]


PHASES: Final = (
    "embed", "project", "query", "attend", "output", "mlp", "route", "experts", "shared", "head",
)  # fmt: skip
_BYTES: Final = ("attention", "mlp", "router", "expert", "head", "embed", "cache")


class _Profile(ctypes.Structure):
    """`plk_profile`."""

    _fields_ = [
        ("seconds", c_double * len(PHASES)),
        ("total_seconds", c_double),
        *((f"{name}_bytes", c_int64) for name in _BYTES),
        ("experts_touched", c_int64),
    ]


@dataclass(frozen=True, slots=True)
class StepProfile:
    """Where one step's time went, and the bytes that it had to read (each weight once)."""

    total_seconds: float
    seconds: dict[str, float]  # by phase, in order of PHASES
    bytes_read: dict[str, int]  # attention, mlp, router, expert, head, embed, cache
    experts_touched: int  # summed over layers

    @property
    def total_bytes(self) -> int:
        return sum(self.bytes_read.values())

    @property
    def bytes_per_second(self) -> float:
        return self.total_bytes / self.total_seconds if self.total_seconds else 0.0


class NativeNetwork:
    """A handle of the C forward. Keeps the tensors alive whose addresses it was given.

    Raises KernelError when there is no library or the network does not fit its kernels.
    """

    def __init__(self, network: Network, layers: Sequence[Layer], keep: Sequence[Tensor]) -> None:
        self._library = _library()
        self._keep = tuple(keep)
        self.vocabulary: int = network.vocabulary
        self._latent: int = network.kv_rank + network.rope_dim
        self._n_layers: int = network.n_layers
        handle = c_void_p()
        code = self._library.plk_model_create(
            byref(network), (Layer * len(layers))(*layers), byref(handle)
        )
        native.check(code, "the native forward of this network")
        self._handle: c_void_p | None = handle
        self._stores: dict[int, StoreCallbacks] = {}  # by layer

    def set_expert_store(self, store: ExpertStore | None, layers: Iterable[int]) -> None:
        """Ask `store` for the experts of `layers` from the next step on; None: ask nobody."""
        if self._handle is None:
            raise KernelError("the native forward was closed")
        callbacks = None if store is None else StoreCallbacks(store)
        for layer in layers:
            code = self._library.plk_model_set_expert_store(
                self._handle, layer, None if callbacks is None else byref(callbacks.struct)
            )
            native.check(code, f"an expert store of layer {layer}")
            if callbacks is None:
                self._stores.pop(layer, None)
            else:
                self._stores[layer] = callbacks

    def forward(
        self,
        *,
        input_ids: Tensor,
        positions: Tensor,
        query_starts: Tensor,
        page_tables: Tensor,
        context_lengths: Tensor,
        logits_rows: Tensor,
        cache: Tensor,
        expanded_until: Tensor | None = None,
        vectors: RowVectors | None = None,
        profile: bool = False,
        most_threads: int = 0,
    ) -> tuple[Tensor, StepProfile | None]:
        """One step: int32 tensors as in `runner.batch.ForwardBatch`, cache [layers, pages, 64, C].

        `expanded_until`: int32 [S]; rows at positions below it attend in the expanded form, for
        which the layers need their `key_out`. `vectors` are float32 or bfloat16. `most_threads`: 0
        is all of the pool; the result is the same.
        -> float32 logits [R, V] and the profile if wanted. Raises KernelError for a step that
        contradicts itself; then nothing was written. Raises ExpertStoreError where a store did not
        bring the experts.
        """
        if self._handle is None:
            raise KernelError("the native forward was closed")
        if cache.shape[0] != self._n_layers or cache.shape[2:] != (64, self._latent):
            raise KernelError(f"a cache of shape {tuple(cache.shape)} does not fit this network")
        int32 = [
            t.contiguous()
            for t in (
                input_ids, positions, query_starts, page_tables, context_lengths, logits_rows,
            )
        ]  # fmt: skip
        until = None if expanded_until is None else expanded_until.contiguous()
        given = None if vectors is None else _on_cpu(vectors)
        step = Step(
            input_ids.shape[0],
            context_lengths.shape[0],
            page_tables.shape[1] if page_tables.dim() == 2 else 0,
            logits_rows.shape[0],
            *(native.address(t, torch.int32) for t in int32),
            None if until is None else native.address(until, torch.int32),
            native.address(cache, cache.dtype),
            cache.shape[1],
            _format(cache),
            most_threads,
        )
        if given is not None:
            step.n_vectors, step.vector_format = len(given.rows), _format(given.values)
            step.vector_rows = native.address(given.rows, torch.int32)
            step.vectors = native.address(given.values, given.values.dtype)
        for callbacks in self._stores.values():
            callbacks.begin()
        logits = torch.empty(logits_rows.shape[0], self.vocabulary, dtype=torch.float32)
        figures = _Profile() if profile else None
        code = self._library.plk_model_forward(
            self._handle, byref(step), logits.data_ptr(), byref(figures) if figures else None
        )
        if code == native.NO_EXPERT:
            for callbacks in self._stores.values():
                callbacks.explain()
        native.check(code, "a step of the native forward")
        for callbacks in self._stores.values():
            callbacks.raise_error()
        return logits, _profile(figures) if figures else None

    def close(self) -> None:
        """Free the C side and let the weights go. Also done when collected."""
        if self._handle is not None:
            self._library.plk_model_free(self._handle)
            self._handle = None
            self._keep = ()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.close()


def _format(values: Tensor) -> int:
    return int(Format.F32 if values.dtype == torch.float32 else Format.BF16)


def _on_cpu(vectors: RowVectors) -> RowVectors:
    return RowVectors(vectors.rows.contiguous(), vectors.values.detach().cpu().contiguous())


def _profile(figures: _Profile) -> StepProfile:
    return StepProfile(
        total_seconds=figures.total_seconds,
        seconds=dict(zip(PHASES, figures.seconds, strict=True)),
        bytes_read={name: getattr(figures, f"{name}_bytes") for name in _BYTES},
        experts_touched=figures.experts_touched,
    )


def _library() -> ctypes.CDLL:
    """The C library with the signatures of forward.h."""
    lib = native.require()
    try:
        lib.plk_forward_abi_version.restype = c_int
        lib.plk_forward_abi_version.argtypes = []
        lib.plk_model_create.restype = c_int
        lib.plk_model_create.argtypes = [POINTER(Network), POINTER(Layer), POINTER(c_void_p)]
        lib.plk_model_free.restype = None
        lib.plk_model_free.argtypes = [c_void_p]
        lib.plk_model_set_expert_store.restype = c_int
        lib.plk_model_set_expert_store.argtypes = [c_void_p, c_int32, POINTER(StoreStruct)]
        lib.plk_model_forward.restype = c_int
        lib.plk_model_forward.argtypes = [c_void_p, POINTER(Step), c_void_p, POINTER(_Profile)]
    except AttributeError as error:
        raise KernelError(f"the C library has no forward ({error})") from None
    if lib.plk_forward_abi_version() != ABI_VERSION:
        raise KernelError("the C library comes from another build", remedy="Rebuild the package")
    return lib
