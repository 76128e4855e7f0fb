"""Pre-training, fine-tuning, INT4 training, reinforcement learning: one loop, other steps.

A stage starts from the weights of an earlier one (with a fresh optimiser) or from random ones, and
leaves checkpoints and metrics in RUN/NAME.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import torch

from perilune.errors import UsageError
from perilune.model.model import KimiK2Model
from perilune.train.checkpoint import checkpoints, last_checkpoint, load_weights, read_state
from perilune.train.config import RunConfig, StageConfig
from perilune.train.initialise import initialise
from perilune.train.loop import Observer, Outcome, Step, run_stage
from perilune.train.optim.muon_clip import MuonClip
from perilune.train.parallel import join_world, shard_model
from perilune.train.qat import start_qat
from perilune.train.replicas import Replicas
from perilune.train.rl.step import rl_step
from perilune.train.steps import supervised_step

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def train_stage(
    config: RunConfig,
    name: str,
    *,
    device: str = "cpu",
    minutes: float | None = None,
    resume: bool = False,
    observe: Observer = lambda _: None,
) -> Outcome:
    """Run stage `name` of a configuration. Raises UsageError and what `run_stage` raises."""
    stage = stage_config(config, name)
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no CUDA device here", remedy="Use --device cpu")
    folder = Path(config.folder) / name
    world = join_world(device, sharded=config.sharded)
    if stage.rl is not None and stage.parl is not None:
        raise UsageError(f"stage {name!r} has [rl] and [parl]", remedy="Make two stages of it")
    if world.sharded and (stage.rl is not None or stage.parl is not None):
        raise UsageError("rollouts need whole weights", remedy="Set sharded = false")
    model = starting_model(config, stage, resumes=resume and bool(checkpoints(folder)))
    model.to(device)
    if stage.qat is not None:
        check_qat(config, stage)
    if world.sharded:
        shard_model(model, world)
    optimizer = MuonClip(model, stage.optim)
    if stage.qat is not None:
        start_qat(optimizer, stage.qat.group_size)
    replicas = Replicas(
        model, optimizer.parameters, threads=config.replicas, dtype=DTYPES[config.dtype],
        world=world,
    )  # fmt: skip
    try:
        return run_stage(
            stage, folder, optimizer,
            partial(_open_step(config, stage, folder), stage, optimizer, replicas,
                    config.tokenizer),
            minutes=minutes, resume=resume, observe=observe, world=world,
        )  # fmt: skip
    finally:
        replicas.close()


def _open_step(
    config: RunConfig, stage: StageConfig, folder: Path
) -> Callable[..., AbstractContextManager[Step]]:
    """What makes the steps of a stage of this kind."""
    if stage.rl is not None:
        return rl_step
    if stage.parl is None:
        return supervised_step
    # Late: the other stages need no agents.
    from perilune.train.parl.frozen import frozen_worker
    from perilune.train.parl.step import parl_step

    worker = frozen_worker(
        stage.parl, folder, lambda: starting_model(config, stage, resumes=False), config.tokenizer
    )
    return partial(parl_step, worker=worker)


def stage_config(config: RunConfig, name: str) -> StageConfig:
    """A stage by name. Raises UsageError."""
    if name not in config.stages:
        raise UsageError(
            f"the configuration has no stage {name!r}",
            remedy=f"Add [stages.{name}], or use one of {[*config.stages]}",
        )
    return config.stages[name]


def starting_model(config: RunConfig, stage: StageConfig, *, resumes: bool) -> KimiK2Model:
    """The model that a stage starts from; what a resumed one starts from is overwritten."""
    model = KimiK2Model(config.model.model_config())
    if resumes:
        return model
    if stage.start_from is None:
        initialise(model, config.seed)
        return model
    load_weights(last_checkpoint(config, stage.start_from), model)
    return model


def is_finished(config: RunConfig, name: str) -> bool:
    """Whether a stage has run to the end of its schedule."""
    found = checkpoints(Path(config.folder) / name)
    return bool(found) and bool(read_state(found[-1])["progress"]["finished"])


def check_qat(config: RunConfig, stage: StageConfig) -> None:
    """Raise UsageError where the experts' inputs do not divide into the groups of the format."""
    assert stage.qat is not None
    shape, group = config.model, stage.qat.group_size
    if shape.hidden_size % group or shape.moe_intermediate_size % group or group % 8:
        raise UsageError(
            f"hidden_size {shape.hidden_size} and moe_intermediate_size "
            f"{shape.moe_intermediate_size} do not divide into INT4 groups of {group}"
        )
