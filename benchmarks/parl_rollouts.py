"""How fast PARL's attempts are, and what they look like, before a stage is run.

    python benchmarks/parl_rollouts.py --config run.toml [--stage parl] [--groups 8] [--threads 1]

Plays one step's groups of attempts with the weights that the stage starts from (nothing is
trained), and prints attempts and sampled tokens per second by the clock and by processor time, the
share of the sub-agents' completions that had to be computed, and the step's metrics by width.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import msgspec
import torch

from perilune.kernels import native
from perilune.train.config import read_run_config
from perilune.train.parl.frozen import RememberedModel, frozen_worker
from perilune.train.parl.metrics import step_metrics
from perilune.train.parl.rollout import Rollouts
from perilune.train.parl.tasks import make_tasks
from perilune.train.qat import round_int4
from perilune.train.rl.engine_policy import EnginePolicy
from perilune.train.stages.stage import stage_config, starting_model

SHOWN = (
    "attempts", "reward", "performance", "f1", "cut_off", "critical_steps", "speed_up", "spawned",
    "finish_rate", "wasted", "died", "spawn_entropy", "groups_without_difference",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--stage", default="parl")
    parser.add_argument("--groups", type=int)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--first", type=int, default=0, help="number of the first task")
    parser.add_argument("--threads", type=int, default=0, help="of the kernels; 0: all")
    parser.add_argument("--show", action="store_true", help="print an attempt of each group")
    options = parser.parse_args()
    if options.threads:
        native.set_threads(options.threads)
    torch.set_num_threads(1)
    run = read_run_config(options.config)
    stage = stage_config(run, options.stage)
    assert stage.parl is not None
    config = stage.parl
    if options.samples:
        config = msgspec.structs.replace(config, samples=options.samples)
    model = starting_model(run, stage, resumes=False)
    if stage.qat is not None:
        with torch.no_grad():
            for name, value in model.named_parameters():
                if ".experts." in name and "shared" not in name:
                    value.copy_(round_int4(value, stage.qat.group_size))
    tokenizer = None if run.tokenizer is None else Path(run.tokenizer)
    tasks = make_tasks(config, tokenizer, model.config.max_position_embeddings)
    count = options.groups or config.groups_per_step
    with tempfile.TemporaryDirectory() as folder:
        worker = frozen_worker(config, Path(folder), lambda: model, run.tokenizer)
        frozen = RememberedModel(tasks.worker(worker))

        async def play() -> None:
            await frozen.prepare()
            rollouts = Rollouts(tasks, frozen, config)
            wall, processor = time.perf_counter(), time.process_time()
            async with EnginePolicy(model, tasks.chat) as policy:
                await policy.warm(tasks.header)
                groups = await rollouts.groups(
                    policy, range(options.first, options.first + count),
                    temperature=config.temperatures[0], progress=0.0,
                )  # fmt: skip
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            await frozen.close()
            number = sum(len(group) for group in groups)
            print(
                f"{number} attempts, {policy.tokens} tokens sampled: {wall:.1f} s "
                f"({number / wall:.2f} attempts/s, {policy.tokens / wall:,.0f} tokens/s), "
                f"{processor:.1f} s of processor time ({number / processor:.2f}, "
                f"{policy.tokens / processor:,.0f}); sub-agents: {frozen.asked} completions, "
                f"{frozen.computed} computed"
            )
            for name, values in step_metrics(groups).items():
                shown = (f"{key} {values[key]:.2f}" for key in SHOWN if key in values)
                print(f"{name:>5}: {', '.join(shown)}")
            if options.show and tasks.chat is not None:
                for group in groups:
                    print(f"--- {group[0].task.stratum}")
                    print(tasks.chat.tokenizer.decode(group[0].trajectory.ids))

        asyncio.run(play())


if __name__ == "__main__":
    main()
