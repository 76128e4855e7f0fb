"""Training speed: Perilune's ragged step with MuonClip against transformers with AdamW.

Both train the same architecture on the same documents, in float32 on the CPU, for the same number
of tokens: ours packs them ragged with shared headers, transformers gets them padded to the longest
of a batch of similar lengths, each with its header. Steps of the two alternate, so that a busy
machine hits both. Prints tokens per second of wall time and of CPU time a core; a token is one of a
document or of its header as transformers sees it.

    python benchmarks/train_throughput.py --steps 3
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from perilune.model import KimiK2Model
from perilune.train.config import ModelShape, OptimConfig
from perilune.train.data.document import Document
from perilune.train.data.hashing import hash64
from perilune.train.initialise import initialise
from perilune.train.optim.muon_clip import MuonClip
from perilune.train.replicas import Replicas
from perilune.train.steps import micro_batches

BAR = 1.5


def documents(count: int, vocabulary: int, header: int, seed: int) -> list[Document]:
    """80 to 300 tokens each, 60 % trained, one of four headers before them."""
    out = []
    for i in range(count):
        length = 80 + hash64(seed, i) % 221
        ids = [hash64(seed + i, k) % vocabulary for k in range(length)]
        head = [hash64(hash64(seed, i) % 4, k) % vocabulary for k in range(header)]
        out.append(Document(ids, [hash64(i, k) % 5 < 3 for k in range(length)], head))
    return out


def theirs(shape: ModelShape) -> torch.nn.Module:
    """transformers' network of the same sizes."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    config = DeepseekV3Config(
        vocab_size=shape.vocab_size, hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        moe_intermediate_size=shape.moe_intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        first_k_dense_replace=shape.first_k_dense_replace,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_attention_heads, n_shared_experts=1,
        n_routed_experts=shape.n_routed_experts, num_experts_per_tok=shape.num_experts_per_tok,
        n_group=1, topk_group=1, routed_scaling_factor=shape.routed_scaling_factor,
        q_lora_rank=shape.q_lora_rank, kv_lora_rank=shape.kv_lora_rank,
        qk_nope_head_dim=shape.qk_nope_head_dim, qk_rope_head_dim=shape.qk_rope_head_dim,
        v_head_dim=shape.v_head_dim, max_position_embeddings=4096, use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    return DeepseekV3ForCausalLM(config).float().train()


def their_step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, listed: list[Document], rows: int
) -> None:
    """Padded batches of `rows` documents of similar length; loss on the trained tokens."""
    ordered = sorted(listed, key=lambda d: len(d.ids))
    optimizer.zero_grad()
    for begin in range(0, len(ordered), rows):
        part = ordered[begin : begin + rows]
        longest = max(d.length for d in part)
        ids = torch.zeros(len(part), longest, dtype=torch.int64)
        labels = torch.full_like(ids, -100)
        mask = torch.zeros_like(ids)
        for row, d in enumerate(part):
            whole = torch.tensor([*d.header, *d.ids])
            trained = torch.tensor([*[False] * len(d.header), *d.trained])
            ids[row, : d.length], mask[row, : d.length] = whole, 1
            labels[row, : d.length] = torch.where(trained, whole, -100)
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=16_384, help="of documents, a step")
    parser.add_argument("--header", type=int, default=80)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=16, help="documents a padded batch")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    shape = ModelShape()
    listed = documents(options.tokens // 190, shape.vocab_size, options.header, 1)
    seen = sum(d.length for d in listed)
    model = KimiK2Model(shape.model_config())
    initialise(model, 0)
    optimizer = MuonClip(model, OptimConfig())
    replicas = Replicas(model, optimizer.parameters, threads=options.threads)
    other = theirs(shape)
    adamw = torch.optim.AdamW(other.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)

    def ours() -> None:
        _, batches = micro_batches(listed, 2048, replicas.workers)
        result = replicas.gradients(batches, 1e-4)
        optimizer.step(result.gradients, 1.0, result.max_logit_LH, executor=replicas.executor)

    def peer() -> None:
        torch.set_num_threads(options.threads)
        their_step(other, adamw, listed, options.rows)
        torch.set_num_threads(1)

    wall: dict[str, list[float]] = {"perilune": [], "transformers": []}
    cpu: dict[str, list[float]] = {"perilune": [], "transformers": []}
    for step in range(options.steps + 1):
        for name, run in (("perilune", ours), ("transformers", peer)):
            begin, begin_cpu = time.perf_counter(), time.process_time()
            run()
            if step:  # the first one warms up
                wall[name].append(time.perf_counter() - begin)
                cpu[name].append(time.process_time() - begin_cpu)
    replicas.close()
    result = {
        name: {
            "tokens_per_second": seen / statistics.median(wall[name]),
            "tokens_per_cpu_second": seen / statistics.median(cpu[name]),
        }
        for name in wall
    }
    ratios = {
        key: result["perilune"][key] / result["transformers"][key]
        for key in ("tokens_per_second", "tokens_per_cpu_second")
    }
    if options.json:
        print(json.dumps({"documents": len(listed), "tokens": seen, **result, "ratio": ratios}))
        return
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{parameters:.1f}M parameters, {len(listed)} documents, {seen} tokens with headers")
    for name, values in result.items():
        print(
            f"{name:<14}{values['tokens_per_second']:>9,.0f} tokens/s"
            f"{values['tokens_per_cpu_second']:>9,.0f} tokens/s of CPU"
        )
    print(
        f"ratio {ratios['tokens_per_second']:.2f} (wall), "
        f"{ratios['tokens_per_cpu_second']:.2f} (CPU); the bar is {BAR}"
    )


if __name__ == "__main__":
    main()
