"""`CpuRunner`, the C library's `ModelRunner`: the network in one call a step (`csrc/forward.h`).

Every row's arithmetic is the same whatever shares the batch with it, however its prompt is cut into
chunks and on however many threads it runs; so is its result, to the bit.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from torch import Tensor, nn

from perilune.config import ModelConfig
from perilune.errors import UsageError
from perilune.formats import FORMATS
from perilune.kernels import native
from perilune.kernels.expert_table import ExpertTable
from perilune.kernels.native import GROUP
from perilune.kernels.thread_choice import ThreadChoice
from perilune.model.layer import DecoderLayer
from perilune.model.mlp import MLP
from perilune.model.model import KimiK2Model
from perilune.model.moe import MixtureOfExperts
from perilune.model.rotary import inverse_frequencies
from perilune.runner.batch import ForwardBatch
from perilune.runner.cache import PagedLatentCache
from perilune.runner.cpu.layout import PLAIN, NativeLayout, unfit
from perilune.runner.cpu.network import (
    MAX_EXPERTS,
    MAX_ROPE,
    Layer,
    NativeNetwork,
    Network,
    StepProfile,
)
from perilune.runner.expert_store import ExpertStore


def check_dense_format(dense_format: str | None) -> None:
    """Raises UsageError for a format that does not exist."""
    choices = [each.name for each in FORMATS.values() if each.dense_option]
    if dense_format is not None and dense_format not in choices:
        raise UsageError(
            f"dense_format must be {' or '.join(choices[::-1])}, not {dense_format!r}",
            remedy="Leave it out to keep the weights as they are stored",
        )


class CpuRunner:
    """Takes a model over: its weights are rearranged in place, its modules compute nonsense then.

    `exact`: float32 activations everywhere (with a float32 cache the logits are within 1e-4 of the
    reference); otherwise activations are bfloat16, and int8 in groups of 32 for INT4 experts.
    `dense_format`: quantise attention, dense and shared feed-forward and head at load, in groups of
    32, to "int8" or "int4"; a decode step then reads about a half or a quarter of their bytes. Not
    together with `exact`.

    `expanded_prefill`: rows below the step's `expanded_until` attend in the expanded form, at a
    third of the products, all others in the absorbed form; the two round differently. Without it
    all are absorbed.

    `last_profile` describes the last step when `profile` is set.
    """

    def __init__(
        self,
        model: KimiK2Model,
        *,
        exact: bool = False,
        dense_format: str | None = None,
        expanded_prefill: bool = False,
    ) -> None:
        check_dense_format(dense_format)
        if exact and dense_format is not None:
            raise UsageError("exact arithmetic and quantised weights contradict each other")
        cause = self.unsupported(model, exact=exact)
        if cause is not None:
            raise UsageError(
                f"the C kernels cannot run this model: {cause}", remedy="Use TorchRunner"
            )
        self.config = model.config
        self.profile = False
        self.last_profile: StepProfile | None = None
        self._choice: ThreadChoice | None = None
        self._expanded = expanded_prefill
        self._layout = NativeLayout(
            exact=exact,
            dense_format=None if dense_format is None else FORMATS[dense_format],
            expanded=expanded_prefill,
        )
        self.expert_tables: dict[int, ExpertTable] = {}  # by layer: where each expert lies
        self._activation = model.model.embed_tokens.weight.dtype
        network = _network(model, self._layout, exact)
        layers = [self._layer(i, layer) for i, layer in enumerate(model.model.layers)]
        self._native = NativeNetwork(network, layers, self._layout.keep)

    @staticmethod
    def unsupported(model: KimiK2Model, *, exact: bool = False, device: str = "cpu") -> str | None:
        """Why this model needs `TorchRunner`, or None. `device`: where its tensors lie now."""
        if not native.available():
            return "the C library is not available"
        return _odd_sizes(model.config) or unfit(model, exact=exact, device=device)

    def execute(self, batch: ForwardBatch, cache: PagedLatentCache) -> Tensor:
        """-> float32 logits [R, V].

        Raises KernelError for a step that contradicts itself, UsageError for vectors that do, and
        ExpertStoreError.
        """
        if batch.vectors is not None:
            batch.vectors.check(batch.num_rows, self.config.hidden_size, self._activation)
        rows, most = len(batch.input_ids), native.threads()
        if self._choice is None or self._choice.candidates[-1] != most:
            self._choice = ThreadChoice(most)
        started = time.perf_counter()
        logits_RV, self.last_profile = self._native.forward(
            input_ids=batch.input_ids,
            positions=batch.positions,
            query_starts=batch.query_starts,
            page_tables=batch.page_tables,
            context_lengths=batch.context_lengths,
            logits_rows=batch.logits_rows,
            cache=cache.storage,
            expanded_until=batch.expanded_until if self._expanded else None,
            vectors=batch.vectors,
            profile=self.profile,
            most_threads=self._choice.threads(rows),
        )
        self._choice.record(rows, time.perf_counter() - started)
        return logits_RV

    def set_expert_store(
        self, store: ExpertStore | None, layers: Iterable[int] | None = None
    ) -> None:
        """Have `store` bring the experts of `layers` (None: of all that have any), by writing their
        addresses into `expert_tables`, from the next step on. None: they all lie there.
        """
        self._native.set_expert_store(store, self.expert_tables if layers is None else layers)

    def _layer(self, index: int, module: nn.Module) -> Layer:
        layer, table = _layer(module, self._layout)
        if table is not None:
            self.expert_tables[index] = table
        return layer

    def restore(self) -> None:
        """Close, and put the model's weights back. Raises UsageError after quantising."""
        self._layout.restore()
        self._native.close()


def _odd_sizes(config: ModelConfig) -> str | None:
    sizes = {
        "hidden_size": config.hidden_size,
        "q_lora_rank": config.q_lora_rank or 0,
        "kv_lora_rank": config.kv_lora_rank,
        "qk_nope_head_dim": config.qk_nope_head_dim,
        "num_attention_heads * v_head_dim": config.num_attention_heads * config.v_head_dim,
        "intermediate_size": config.intermediate_size if config.first_k_dense_replace else 0,
        "moe_intermediate_size": config.moe_intermediate_size,
    }
    for name, value in sizes.items():
        if value % GROUP:
            return f"{name} {value} is not a multiple of {GROUP}"
    if config.n_routed_experts > MAX_EXPERTS:
        return f"more than {MAX_EXPERTS} experts"
    if config.qk_rope_head_dim > MAX_ROPE:
        return f"qk_rope_head_dim above {MAX_ROPE}"
    return None


def _network(model: KimiK2Model, layout: NativeLayout, exact: bool) -> Network:
    c = model.config
    embed = model.model.embed_tokens.weight.detach()
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    head = layout.matrix(model.lm_head)  # where tied, the embedding is rearranged with it
    layout.keep.append(embed)
    return Network(
        n_layers=c.num_hidden_layers,
        hidden=c.hidden_size,
        n_heads=c.num_attention_heads,
        q_rank=c.q_lora_rank or 0,
        kv_rank=c.kv_lora_rank,
        nope_dim=c.qk_nope_head_dim,
        rope_dim=c.qk_rope_head_dim,
        value_dim=c.v_head_dim,
        n_experts=c.n_routed_experts,
        top_k=c.num_experts_per_tok,
        n_group=c.n_group,
        topk_group=c.topk_group,
        normalise_top_k=c.norm_topk_prob,
        vocabulary=c.vocab_size,
        exact=exact,
        embed_format=PLAIN[embed.dtype],
        embed_native=tied and layout.dense_format is None,
        routed_scaling=c.routed_scaling_factor,
        norm_eps=c.rms_norm_eps,
        rank_norm_eps=c.lora_norm_eps,
        softmax_scale=c.softmax_scale,
        rope_scale=c.rope.cos_sin_scale,
        rope_frequencies=layout.vector(inverse_frequencies(c.rope, c.qk_rope_head_dim)),
        embed=embed.data_ptr(),
        final_norm=layout.vector(model.model.norm.weight),
        head=head,
    )


def _layer(module: nn.Module, layout: NativeLayout) -> tuple[Layer, ExpertTable | None]:
    assert isinstance(module, DecoderLayer)
    attention, mlp = module.self_attn, module.mlp
    layer = Layer(
        input_norm=layout.vector(module.input_layernorm.weight),
        post_attention_norm=layout.vector(module.post_attention_layernorm.weight),
        kv_norm=layout.vector(attention.kv_a_layernorm.weight),
        kv_a=layout.matrix(attention.kv_a_proj_with_mqa),
        o=layout.matrix(attention.o_proj),
    )
    if attention.low_rank_query:
        layer.q_norm = layout.vector(attention.q_a_layernorm.weight)
        layer.q_a = layout.matrix(attention.q_a_proj)
        layer.q_b = layout.matrix(attention.q_b_proj)
    else:
        layer.q_b = layout.matrix(attention.q_proj)
    layout.up_projections(attention, layer)
    table = None
    if isinstance(mlp, MixtureOfExperts):
        layer.router = layout.matrix(mlp.gate, dense=False)
        layer.router_bias = layout.vector(mlp.gate.e_score_correction_bias)
        layer.experts, table = layout.experts(mlp.experts)
        mlp = mlp.shared_experts
    assert isinstance(mlp, MLP)
    if mlp.gate_proj.out_features:  # a model may have no shared expert
        layer.gate = layout.matrix(mlp.gate_proj)
        layer.up = layout.matrix(mlp.up_proj)
        layer.down = layout.matrix(mlp.down_proj)
    return layer, table
