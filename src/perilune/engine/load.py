"""From a checkpoint folder (or a model in memory) to an engine: what fits is decided beforehand.

The plan counts weights, the work space of a step and the pages of the latent cache against the
memory that is free, before the first byte is read, and refuses with these numbers.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from pathlib import Path

import torch

from perilune.chat.format import ChatFormat
from perilune.config import ModelConfig
from perilune.engine.engine import Engine
from perilune.engine.intake import EngineConfig
from perilune.engine.metrics import ReadCost, machine_bandwidth
from perilune.engine.scheduler import SchedulerConfig
from perilune.errors import OutOfMemoryError
from perilune.model.model import KimiK2Model
from perilune.runner.cache import PAGE_SIZE, PagedLatentCache, page_bytes, pages_for
from perilune.runner.cpu.runner import check_dense_format
from perilune.runner.select import select_runner
from perilune.weights.checkpoint import open_checkpoint
from perilune.weights.format_bytes import gigabytes
from perilune.weights.load import load_model
from perilune.weights.memory import available_memory
from perilune.weights.progress import ProgressCallback
from perilune.weights.tensor_table import is_vision

CACHE_SHARE = 0.5  # of the memory that weights and work space leave, unless told otherwise
# Beyond this many full contexts a larger cache only keeps old prefixes; take no more by default.
MOST_CONTEXTS = 8


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to run a model.

    exact: float32 activations and cache; logits within 1e-4 of the reference generator's.
    dense_format: attention, shared experts and head in "int8", a half of their bytes (changes the
        logits a bit), or "int4", a quarter (more than a bit). C kernels only. None: as stored.
    expanded_prefill: from so many tokens on that are not cached, a prompt attends in the expanded
        form, which is faster and rounds differently (C kernels; never in exact mode). 0: never;
        then the same text comes out to the bit whatever the cache held.
    native: True: the C kernels or an error; False: torch; None: the C kernels where they can.
    vision: with the tower of K2.5, where the folder holds one; False reads the text model alone.
    cache_tokens: tokens that the latent cache holds; None: as many as are sensible.
    speculative_tokens: guessed behind one token; 0 turns speculation off.
    bandwidth: bytes a second that this machine reads from memory; None: measured at the start.
    """

    exact: bool = False
    dense_format: str | None = None
    expanded_prefill: int = 2048
    native: bool | None = None
    vision: bool = True
    cache_tokens: int | None = None
    max_context: int | None = None
    max_batch_tokens: int = 512
    max_sequences: int = 64
    speculative_tokens: int = 12
    seed: int | None = None
    bandwidth: float | None = None

    @property
    def cache_dtype(self) -> torch.dtype:
        return torch.float32 if self.exact else torch.bfloat16


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of each part, and the pages that the cache gets."""

    weights: int
    workspace: int
    cache: int
    pages: int
    available: int | None

    def __str__(self) -> str:
        free = "" if self.available is None else f", {gigabytes(self.available)} are free"
        return (
            f"weights {gigabytes(self.weights)}, work space {gigabytes(self.workspace)}, "
            f"latent cache {gigabytes(self.cache)} ({self.pages * PAGE_SIZE} tokens){free}"
        )


def plan_memory(
    config: ModelConfig, weights: int, options: EngineOptions, available: int | None
) -> MemoryPlan:
    """Divide `available` bytes (None: unknown). `weights`: bytes that are still to be loaded.

    Raises OutOfMemoryError when the weights and a cache for one request do not fit.
    """
    context = _max_context(config, options)
    one_page = page_bytes(config, options.cache_dtype)
    workspace = _workspace(config, options)
    if options.cache_tokens is not None:
        pages = pages_for(options.cache_tokens)
    else:
        pages = pages_for(context) * min(options.max_sequences, MOST_CONTEXTS)
        if available is not None:
            left = available - weights - workspace
            pages = min(pages, max(int(left * CACHE_SHARE) // one_page, 0))
    pages = max(pages, pages_for(min(context, options.max_batch_tokens)))
    plan = MemoryPlan(weights, workspace, pages * one_page, pages, available)
    if available is not None and weights + workspace + plan.cache > available:
        raise OutOfMemoryError(
            f"the model does not fit: {plan}",
            remedy="Free memory, give a smaller cache_tokens or max_batch_tokens, or convert the "
            "checkpoint to int4 (perilune convert SRC DST --to int4)",
        )
    return plan


def _max_context(config: ModelConfig, options: EngineOptions) -> int:
    longest = config.max_position_embeddings
    return min(options.max_context or longest, longest)


def _workspace(config: ModelConfig, options: EngineOptions) -> int:
    """Activations of the largest step and the logits of all sequences, float32, generously;
    and what the kernels copy of the weights.
    """
    heads = config.num_attention_heads * (
        config.qk_head_dim + config.v_head_dim + 2 * config.latent_dim
    )
    experts = config.num_experts_per_tok * (3 * config.moe_intermediate_size + config.hidden_size)
    row = 6 * config.hidden_size + heads + experts + 3 * config.intermediate_size
    wanted = options.max_sequences * (1 + options.speculative_tokens)
    logits = min(wanted, options.max_batch_tokens) * config.vocab_size
    activations = 4 * (options.max_batch_tokens * row + 2 * logits)
    return activations + (_expanded_keys(config) if _expands(options) else 0)


def _expands(options: EngineOptions) -> bool:
    """Whether long prompts attend in the expanded form, where the C kernels run the model."""
    return bool(options.expanded_prefill) and not options.exact


def _expanded_keys(config: ModelConfig) -> int:
    """Bytes of the second copy of `kv_b_proj`'s key part that the expanded form reads."""
    heads = config.num_attention_heads * config.qk_nope_head_dim
    return 2 * config.num_hidden_layers * heads * config.kv_lora_rank


def load_engine(
    model: str | Path | KimiK2Model,
    options: EngineOptions | None = None,
    *,
    chat: ChatFormat | None = None,
    progress: ProgressCallback | None = None,
) -> Engine:
    """An engine over a checkpoint folder, or over a model in memory (which it takes over).

    `progress` is told of the bytes as they are read, from several threads; None: a bar on a
    terminal for a large model.

    Raises CheckpointError, OutOfMemoryError before the first byte is read, UsageError.
    """
    options = options or EngineOptions()
    check_dense_format(options.dense_format)
    cpu = torch.device("cpu")
    if isinstance(model, KimiK2Model):
        plan = plan_memory(model.config, 0, options, available_memory(cpu))
        network, identity = model, uuid.uuid4().hex
        stop_ids: frozenset[int] = frozenset()
    else:
        checkpoint = open_checkpoint(model)
        read = [t for t in checkpoint.tensors.values() if options.vision or not is_vision(t.name)]
        weights = sum(tensor.nbytes for tensor in read)
        if options.exact and options.native is False:
            weights *= 2  # computed in float32
        plan = plan_memory(checkpoint.config.text, weights, options, available_memory(cpu))
        stop_ids = frozenset(checkpoint.config.eos_token_ids)
        identity = checkpoint_identity(Path(model))
        chat = chat or ChatFormat.from_pretrained(model)
        network = load_model(model, vision=options.vision, progress=progress)
    if chat is not None:
        stop_ids |= chat.stop_ids
    config = network.config
    cache = PagedLatentCache.for_model(config, plan.pages, dtype=options.cache_dtype)
    bits = {None: None, "int8": 8.5, "int4": 4.5}[options.dense_format]  # scales included
    read_cost = ReadCost.of(network, config, cache.bytes_per_token, bits)
    return Engine(
        select_runner(
            network,
            native=options.native,
            exact=options.exact,
            dense_format=options.dense_format,
            expanded_prefill=_expands(options),
        ),
        cache,
        EngineConfig(
            vocab_size=config.vocab_size,
            max_context=_max_context(config, options),
            identity=identity,
            stop_ids=stop_ids,
            scheduler=SchedulerConfig(
                options.max_batch_tokens,
                options.max_sequences,
                options.speculative_tokens,
                options.expanded_prefill,
            ),
            seed=options.seed,
        ),
        chat=chat,
        read_cost=read_cost,
        bandwidth=options.bandwidth or machine_bandwidth(),
    )


def checkpoint_identity(folder: Path) -> str:
    """A name of the weights in a folder: changes when a file does."""
    digest = hashlib.blake2b(digest_size=16)
    for file in [*sorted(folder.glob("*.safetensors")), folder / "config.json"]:
        stat = file.stat()
        digest.update(f"{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()
