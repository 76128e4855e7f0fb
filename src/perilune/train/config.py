"""The configuration of a run: one TOML file, one typed object, every default here.

[model] gives the network, [stages.NAME] what differs from stage to stage. Unknown names are
refused.
"""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import msgspec

from perilune.config import ModelConfig, RopeConfig
from perilune.errors import UsageError
from perilune.swarm.reward import RewardWeights


class Method(StrEnum):
    """Which polynomial orthogonalises an update; `OptimConfig.steps` says how often."""

    POLAR_EXPRESS = "polar-express"
    QUINTIC = "quintic"


class ModelShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The network's sizes, by the names of `perilune.config.ModelConfig`.

    The defaults are the 13 M parameter row that two CPU cores can train.
    """

    vocab_size: int = 2048
    hidden_size: int = 256
    num_hidden_layers: int = 6
    first_k_dense_replace: int = 1
    intermediate_size: int = 768
    moe_intermediate_size: int = 96
    n_routed_experts: int = 24
    num_experts_per_tok: int = 3
    n_shared_experts: int = 1
    num_attention_heads: int = 4
    q_lora_rank: int | None = 128
    kv_lora_rank: int = 96
    qk_nope_head_dim: int = 32
    qk_rope_head_dim: int = 16
    v_head_dim: int = 48
    routed_scaling_factor: float = 1.7320508
    max_position_embeddings: int = 4096
    rope_theta: float = 50_000.0

    def model_config(self) -> ModelConfig:
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        theta = values.pop("rope_theta")
        rope = RopeConfig(
            theta=theta,
            original_max_position_embeddings=self.max_position_embeddings,
        )
        return ModelConfig(**values, rms_norm_eps=1e-5, rope=rope)


class SourceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One source of documents in a mixture; `options` go to its maker."""

    name: str
    weight: float = 1.0
    options: dict[str, Any] = {}


class DataConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where documents come from. `workers` processes make them ahead; 0 makes them in line."""

    sources: list[SourceConfig]
    seed: int = 0
    workers: int = 1
    max_tokens: int = 1024  # longer documents are left out, and counted


class OptimConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """MuonClip. `lr` is Muon's, `adamw_lr` that of embeddings, head and norms."""

    lr: float = 2e-3
    adamw_lr: float = 4e-3
    weight_decay: float = 0.1
    momentum: float = 0.95
    method: Method = Method.POLAR_EXPRESS
    steps: int = 7
    snap: bool = False
    adamw_betas: tuple[float, float] = (0.9, 0.95)
    adamw_eps: float = 1e-8
    clip_norm: float = 1.0
    qk_clip: float | None = 100.0


class ScheduleConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Steps of a stage; `decay_steps` 0 keeps the rate constant, `final` is the last factor."""

    total_steps: int
    warmup_steps: int = 40
    decay_steps: int = 0
    final: float = 0.05


class BalanceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Router biases: (from which fraction of the steps, rate); and the sequence-wise loss."""

    bias_rates: tuple[tuple[float, float], ...] = ((0.0, 3e-3), (0.33, 1e-3), (0.85, 0.0))
    loss_factor: float = 1e-4


class QatConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """INT4 training of the routed experts."""

    group_size: int = 32


class RolloutConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Learning from attempts that are rewarded; [data] is what PTX keeps the policy near.

    `clip_low` and `clip_high` bound the log ratio, `tau` weighs its square (see rl/objective.py).
    `temperatures` are those of the first and last step. A trajectory that generates more than
    `token_budget` loses `budget_penalty`.
    """

    seed: int = 0
    groups_per_step: int = 16
    samples: int = 8
    max_tokens: int = 256
    temperatures: tuple[float, float] = (1.0, 0.7)
    clip_low: float = -0.2
    clip_high: float = 0.2
    tau: float = 1e-3
    token_budget: int | None = None
    budget_penalty: float = 0.2
    ptx_weight: float = 0.1
    ptx_tokens: int = 2048


class RlConfig(RolloutConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Reinforcement learning with verifiable rewards: of which environment."""

    environment: str
    options: dict[str, Any] = {}


class ParlConfig(RolloutConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parallel-agent reinforcement learning: an orchestrator is trained, its sub-agents are frozen.

    `tasks` names where tasks come from (`parl/tasks.py`); they go round `widths` (1 to 12 parts
    that do not need each other) and `deep` (that many steps that do), so a number that stands twice
    comes twice as often. `worker` is the checkpoint folder of the sub-agents; left out, they are
    the weights that the stage starts from. An assignment ends after `worker_steps`, an episode has
    at most `sub_agents`. `reward` are the weights of `perilune.swarm.reward`; `performance`
    "item_f1" gives part of the reward for part of a table (speed is paid for a whole one only).
    Without `budget`, episodes over their critical steps are not cut off.
    """

    groups_per_step: int = 8
    max_tokens: int = 1536
    temperatures: tuple[float, float] = (1.0, 1.0)
    tasks: str = "nano"
    widths: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 10, 12)
    deep: tuple[int, ...] = (2, 3, 4)
    worker: str | None = None
    worker_steps: int = 6
    sub_agents: int = 16
    performance: Literal["exact", "item_f1"] = "exact"
    budget: bool = True
    reward: RewardWeights = RewardWeights()


class StageConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One stage: it starts from the weights of the stage `start_from`, or from random ones."""

    data: DataConfig
    schedule: ScheduleConfig
    start_from: str | None = None
    optim: OptimConfig = OptimConfig()
    balance: BalanceConfig = BalanceConfig()
    qat: QatConfig | None = None
    rl: RlConfig | None = None
    parl: ParlConfig | None = None
    tokens_per_step: int = 16_384
    micro_tokens: int = 2048
    checkpoint_minutes: float = 5.0
    keep_checkpoints: int = 2
    eval_every: int = 0  # steps; 0 never
    eval_documents: int = 200


class RunConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole run. `folder`, `tokenizer` and `worker` are relative to the file."""

    stages: dict[str, StageConfig]
    folder: str = "run"
    tokenizer: str | None = None
    model: ModelShape = ModelShape()
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    sharded: bool = False  # FSDP2 over the processes of torchrun; else each holds all weights
    replicas: int = 2  # threads that compute micro-batches side by side on a CPU


def read_run_config(file: str | Path) -> RunConfig:
    """Read a run's TOML file. Raises UsageError that names the field."""
    path = Path(file)
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
        config = msgspec.convert(raw, RunConfig)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"{path}: {error}", remedy="docs/training.md explains the file") from None
    stages = {name: _placed(stage, path.parent) for name, stage in config.stages.items()}
    return msgspec.structs.replace(
        config,
        stages=stages,
        folder=str(path.parent / config.folder),
        tokenizer=None if config.tokenizer is None else str(path.parent / config.tokenizer),
    )


def _placed(stage: StageConfig, folder: Path) -> StageConfig:
    """The stage with its worker's folder as seen from here."""
    if stage.parl is None or stage.parl.worker is None:
        return stage
    parl = msgspec.structs.replace(stage.parl, worker=str(folder / stage.parl.worker))
    return msgspec.structs.replace(stage, parl=parl)
