"""What the engine around the network costs and saves, on the tiny K2.

    python benchmarks/engine_steps.py [--json]

- overhead: share of a decode step that is not the forward (scheduling, sampling, bookkeeping);
- prefix: seconds to the first token of a 1,024-token prompt, new and known;
- conversation: 20 turns of one agent, each prompt being the last one, its answer of 20 tokens and
  10 new ones: tokens of all prompts, rows computed for them, median seconds to the first token;
- speculation: tokens per second with guessing over without, on text that goes in circles of 16
tokens
  (the same network, its weights set so) and on noise, where it should switch itself off. Taken in
  turns, medians of three.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from typing import Any

import torch

from perilune.engine.bench import small_model
from perilune.engine.engine import Engine
from perilune.engine.load import EngineOptions, load_engine
from perilune.engine.sampling_params import SamplingParams
from perilune.model.model import KimiK2Model
from perilune.model.slots import named_slots

REPETITIONS = 3
TOKENS = 128


def run(engine: Engine, prompt: list[int], params: SamplingParams) -> tuple[float, Any]:
    """Seconds of one request alone, and its metrics."""
    engine.add_request(prompt, params)
    start = time.perf_counter()
    metrics = None
    while engine.has_work:
        for output in engine.step():
            metrics = output.metrics or metrics
    return time.perf_counter() - start, metrics


def overhead(engine: Engine, streams: int) -> float:
    pick = random.Random(streams)
    params = SamplingParams(max_tokens=80, temperature=0, ignore_eos=True, speculate=False)
    for _ in range(streams):
        engine.add_request([pick.randrange(36_864) for _ in range(16)], params)
    engine.step()
    shares = []
    for _ in range(64):
        start = time.perf_counter()
        engine.step()
        seconds = time.perf_counter() - start
        shares.append(1 - engine.metrics.latest_steps[-1].forward_seconds / seconds)
    while engine.has_work:
        engine.step()
    return statistics.median(shares)


def prefix(engine: Engine) -> dict[str, float]:
    params = SamplingParams(max_tokens=1, temperature=0)
    seconds: dict[str, list[float]] = {"new": [], "known": []}
    for repetition in range(REPETITIONS):
        pick = random.Random(repetition)
        prompt = [pick.randrange(36_864) for _ in range(1024)]
        for kind in seconds:
            seconds[kind].append(run(engine, prompt, params)[0])
    return {kind: statistics.median(values) for kind, values in seconds.items()}


def conversation(engine: Engine) -> dict[str, float]:
    pick = random.Random(3)

    def new(count: int) -> list[int]:
        return [pick.randrange(36_864) for _ in range(count)]

    params = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True, speculate=False)
    prompt = new(200)
    tokens = rows = 0
    seconds = []
    for _ in range(20):
        prompt += new(10)
        engine.add_request(prompt, params)
        metrics = None
        while engine.has_work:
            for output in engine.step():
                prompt += output.tokens
                metrics = output.metrics or metrics
        assert metrics is not None
        tokens += metrics.prompt_tokens
        rows += metrics.prompt_tokens - metrics.cached_tokens
        seconds.append(metrics.prefill_seconds or 0.0)
    return {"tokens": tokens, "rows": rows, "seconds": statistics.median(seconds)}


def circling_model() -> KimiK2Model:
    """The tiny K2 with layers that add nothing and a head that answers t with its neighbour."""
    model = small_model()
    for name, tensor in named_slots(model):
        if ".o_proj." in name or (".down_proj.weight" in name and tensor.is_floating_point()):
            tensor.zero_()
    token = torch.arange(model.config.vocab_size)
    follower = torch.where(token % 16 == 15, token - 15, token + 1)
    model.lm_head.weight[follower] = model.model.embed_tokens.weight[token]
    return model


def speculation(engine: Engine, temperature: float) -> dict[str, float]:
    rates: dict[bool, list[float]] = {True: [], False: []}
    acceptance = proposed = 0.0
    for repetition in range(REPETITIONS):
        for speculate in rates:
            params = SamplingParams(
                max_tokens=TOKENS, temperature=temperature, seed=repetition, ignore_eos=True,
                speculate=speculate,
            )  # fmt: skip
            seconds, metrics = run(engine, [5, 6, 7, 8] * 8, params)
            rates[speculate].append(TOKENS / seconds)
            if speculate:
                acceptance, proposed = metrics.acceptance or 0.0, metrics.proposed_tokens
    gain = statistics.median(rates[True]) / statistics.median(rates[False])
    return {"gain": gain, "acceptance": acceptance, f"guesses in {TOKENS} tokens": proposed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    options = EngineOptions(cache_tokens=32_768, seed=1)
    engine = load_engine(small_model(), options)
    figures = {
        "overhead, 1 stream": overhead(engine, 1),
        "overhead, 16 streams": overhead(engine, 16),
        "prefix": prefix(engine),
        "conversation": conversation(engine),
        "speculation, circles": speculation(load_engine(circling_model(), options), 0.0),
        "speculation, noise": speculation(engine, 2.0),
    }
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        cells = value if isinstance(value, dict) else {"share": value}
        print(f"{name:26}" + "".join(f"  {k} {v:.4g}" for k, v in cells.items()))


if __name__ == "__main__":
    main()
