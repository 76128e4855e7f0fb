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
from perilune.chat.media.reader import MediaReader
from perilune.config import ModelConfig
from perilune.engine.engine import Engine
from perilune.engine.input_processor import EngineConfig
from perilune.engine.media import MOST_ITEM_PATCHES, media_reader
from perilune.engine.media_decoder import MediaDecoder
from perilune.engine.media_encoder import EncoderConfig, MediaEncoder
from perilune.engine.metrics import ReadCost, device_bandwidth
from perilune.engine.options import EngineOptions
from perilune.engine.scheduler import SchedulerConfig
from perilune.errors import OutOfMemoryError
from perilune.formats import format_named
from perilune.model.model import KimiK2Model
from perilune.runner.cache import PAGE_SIZE, PagedLatentCache, page_bytes, pages_for
from perilune.runner.placement import place_checkpoint
from perilune.runner.select import check_runner_options, choose_runner, select_runner
from perilune.runner.vision import VisionEncoder
from perilune.vision_config import VisionConfig
from perilune.weights.checkpoint import Checkpoint, open_checkpoint, stored_config
from perilune.weights.device import AUTO, try_device
from perilune.weights.format_bytes import gigabytes
from perilune.weights.load import build_model, load_model, loaded_tensors
from perilune.weights.memory import available_memory
from perilune.weights.progress import ProgressCallback

__all__ = [
    "EngineOptions", "MemoryPlan", "check_options", "checkpoint_identity", "load_engine",
    "plan_memory",
]  # fmt: skip

CACHE_SHARE = 0.5  # of the memory that weights and work space leave, unless told otherwise
# Beyond this many full contexts a larger cache only keeps old prefixes; take no more by default.
MOST_CONTEXTS = 8
# Of encoded pictures, unless told otherwise: this share of the free memory, at most so many bytes.
ENCODER_CACHE_SHARE, MOST_ENCODER_BYTES = 1 / 16, 1 << 30


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of each part, and the pages that the cache gets."""

    weights: int
    workspace: int
    cache: int
    pages: int
    available: int | None
    encoder_cache: int = 0  # rows of pictures

    def __str__(self) -> str:
        free = "" if self.available is None else f", {gigabytes(self.available)} are free"
        tokens = self.pages * PAGE_SIZE
        seen = ""
        if self.encoder_cache:
            seen = f"encoded pictures {gigabytes(self.encoder_cache)}, "
        return (
            f"weights {gigabytes(self.weights)}, work space {gigabytes(self.workspace)}, "
            f"{seen}latent cache {gigabytes(self.cache)} ({tokens} tokens){free}"
        )


def plan_memory(
    config: ModelConfig,
    weights: int,
    options: EngineOptions,
    available: int | None,
    vision: VisionConfig | None = None,
) -> MemoryPlan:
    """Divide `available` bytes (None: unknown). `weights`: bytes that are still to be loaded.

    `vision`: of the tower that is loaded, None without one.

    Raises OutOfMemoryError when the weights and a cache for one request do not fit.
    """
    context = _max_context(config, options)
    one_page = page_bytes(config, cache_dtype(options))
    workspace = _workspace(config, options)
    encoder_cache = 0
    if vision is not None:
        workspace += _tower_workspace(vision)
        encoder_cache = _encoder_cache(vision, options, available)
    if options.cache_tokens is not None:
        pages = pages_for(options.cache_tokens)
    else:
        pages = pages_for(context) * min(options.max_sequences, MOST_CONTEXTS)
        if available is not None:
            left = available - weights - workspace - encoder_cache
            pages = min(pages, max(int(left * CACHE_SHARE) // one_page, 0))
    pages = max(pages, pages_for(min(context, options.max_batch_tokens)))
    plan = MemoryPlan(weights, workspace, pages * one_page, pages, available, encoder_cache)
    needed = weights + workspace + encoder_cache + plan.cache
    if available is not None and needed > available:
        raise OutOfMemoryError(
            f"the model does not fit: {plan}",
            remedy="Free memory, give a smaller cache_tokens or max_batch_tokens, or convert the "
            "checkpoint to int4 (perilune convert SRC DST --to int4)",
        )
    return plan


def cache_dtype(options: EngineOptions) -> torch.dtype:
    """Of the cached latents."""
    return torch.float32 if options.exact else torch.bfloat16


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


def _tower_workspace(vision: VisionConfig) -> int:
    """Activations of the largest item in the tower, float32, generously: 10 vectors a patch, and
    the inner values of some.
    """
    largest = MOST_ITEM_PATCHES * (10 * vision.vt_hidden_size + vision.patch_values)
    return 4 * (largest + 4096 * vision.vt_intermediate_size)


def _encoder_cache(vision: VisionConfig, options: EngineOptions, available: int | None) -> int:
    """Bytes of encoded pictures that are kept: those of the largest one at least."""
    largest = MOST_ITEM_PATCHES // 4 * vision.text_hidden_size * cache_dtype(options).itemsize
    wanted = options.encoder_cache_bytes
    if wanted is None:
        share = MOST_ENCODER_BYTES if available is None else int(available * ENCODER_CACHE_SHARE)
        wanted = min(share, MOST_ENCODER_BYTES)
    return max(wanted, largest)


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

    A folder is opened once: its headers and its configuration are what plan, tokenizer and load
    are given. `progress` is told of the bytes as they are read, from several threads; None: a bar
    on a terminal for a large model.

    Raises DeviceError for a device that is not there, CheckpointError, OutOfMemoryError before the
    first byte is read, UsageError.
    """
    options = options or EngineOptions()
    if isinstance(model, KimiK2Model):
        source = _in_memory(model, options)
    else:
        source = _from_folder(Path(model), options, chat, progress)
    chat, network, plan = chat or source.chat, source.network, source.plan
    stop_ids = source.stop_ids
    if chat is not None:
        stop_ids |= chat.stop_ids
    config = network.config
    cache = PagedLatentCache.for_model(
        config, plan.pages, dtype=cache_dtype(options), device=source.device
    )
    bits = None if options.dense_format is None else format_named(options.dense_format).bits
    read_cost = ReadCost.of(network, config, cache.bytes_per_token, bits)
    runner = select_runner(
        network,
        native=options.native,
        exact=options.exact,
        dense_format=options.dense_format,
        expanded_prefill=_expands(options),
    )
    encoder = _media_encoder(source, options)
    return Engine(
        runner,
        cache,
        EngineConfig(
            vocab_size=config.vocab_size,
            max_context=_max_context(config, options),
            identity=source.identity,
            stop_ids=stop_ids,
            scheduler=SchedulerConfig(
                options.max_batch_tokens,
                options.max_sequences,
                options.speculative_tokens,
                options.expanded_prefill,
            ),
            seed=options.seed,
            pad_ids=_pad_ids(network, chat),
            encoder=None if encoder is None else encoder.config,
        ),
        media_encoder=encoder,
        chat=chat,
        read_cost=read_cost,
        bandwidth=options.bandwidth or device_bandwidth(source.device),
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """A loaded network, and what else is known of where it came from."""

    network: KimiK2Model
    plan: MemoryPlan
    device: torch.device
    identity: str
    stop_ids: frozenset[int] = frozenset()
    chat: ChatFormat | None = None
    reader: MediaReader | None = None  # of a model with eyes


def _media_encoder(source: _Source, options: EngineOptions) -> MediaEncoder | None:
    """What decodes and encodes pictures; after the runner has taken the text network over."""
    network = source.network
    if source.reader is None or network.vision is None:
        return None
    tower = VisionEncoder(
        network, native=options.native, exact=options.exact, dense_format=options.dense_format
    )
    dtype = torch.float32 if options.exact else network.model.embed_tokens.weight.dtype
    cache_bytes = source.plan.encoder_cache
    config = EncoderConfig(network.vision, dtype, options.max_encoder_patches, cache_bytes)
    return MediaEncoder(tower, MediaDecoder(source.reader), config, model=source.identity)


def _pad_ids(network: KimiK2Model, chat: ChatFormat | None) -> frozenset[int]:
    """The tokens that stand for rows of pictures in a prompt, which no answer may hold."""
    ids = [] if network.vision is None else [network.vision.media_token_id]
    if chat is not None and chat.template.reads_media:
        ids.append(chat.special_ids.media_pad)
    return frozenset(i for i in ids if i is not None)


def reader_for(
    model: str | Path | KimiK2Model | Engine, options: EngineOptions
) -> MediaReader | None:
    """What opens pictures for this model, before it is loaded; None: it will have no eyes.

    Raises CheckpointError.
    """
    if isinstance(model, Engine):
        return model.media_reader
    if isinstance(model, KimiK2Model):
        return None if model.vision is None else media_reader(model.vision, options.media)
    vision = stored_config(model).vision_config if options.vision else None
    return None if vision is None else media_reader(vision, options.media, model)


def _in_memory(model: KimiK2Model, options: EngineOptions) -> _Source:
    """A model that the caller holds; it moves where the options say, "auto": it stays."""
    here = model.model.embed_tokens.weight.device
    device = here if options.device == AUTO else try_device(options.device)
    check_options(options, device)
    plan = plan_memory(model.config, 0, options, available_memory(device), model.vision)
    network = model if device == here else model.to(device)
    reader = reader_for(network, options)
    return _Source(network, plan, device, uuid.uuid4().hex, reader=reader)


def _from_folder(
    folder: Path,
    options: EngineOptions,
    chat: ChatFormat | None,
    progress: ProgressCallback | None,
) -> _Source:
    device = check_options(options)
    checkpoint = open_checkpoint(folder)
    config = checkpoint.config
    # The runner in torch computes exactly by holding the plain weights in float32.
    widens = options.exact and not _runs_native(checkpoint, options, device)
    dtype = torch.float32 if widens else None
    stored = loaded_tensors(checkpoint, dtype, vision=options.vision)
    placement = place_checkpoint(config, stored, device=str(device))
    vision = config.vision_config if options.vision and checkpoint.vision else None
    reader = None if vision is None else media_reader(vision, options.media, folder)
    plan = plan_memory(config.text, placement.nbytes(), options, available_memory(device), vision)
    return _Source(
        chat=chat or ChatFormat.from_pretrained(folder, config=config),
        network=load_model(checkpoint, device=device, vision=options.vision, progress=progress),
        plan=plan,
        device=device,
        identity=checkpoint_identity(folder),
        stop_ids=frozenset(config.eos_token_ids),
        reader=reader,
    )


def _runs_native(checkpoint: Checkpoint, options: EngineOptions, device: torch.device) -> bool:
    """Whether the C kernels will run a checkpoint, told from a model without memory."""
    if device.type != "cpu":
        return False
    shape = build_model(checkpoint, vision=False)
    kind, _ = choose_runner(shape, options.native, exact=options.exact, device="meta")
    return kind.native


def check_options(options: EngineOptions, device: torch.device | None = None) -> torch.device:
    """What can be said of the options before anything is opened; -> the device that they name.

    `device`: of a model in memory. Raises DeviceError, UsageError.
    """
    device = device or try_device(options.device)
    check_runner_options(device, native=options.native, dense_format=options.dense_format)
    return device


def checkpoint_identity(folder: Path) -> str:
    """A name of the weights in a folder: changes when a file does."""
    digest = hashlib.blake2b(digest_size=16)
    for file in [*sorted(folder.glob("*.safetensors")), folder / "config.json"]:
        stat = file.stat()
        digest.update(f"{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()
