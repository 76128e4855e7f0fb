"""Small random towers, and the same in transformers, to compare with.

Every parameter is random, norms and biases too: swapped norms or a missing bias show.
"""

from __future__ import annotations

import random
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from perilune.model.vision import Projector, VisionTower
from perilune.vision_config import VisionConfig

Grid = tuple[int, int, int]


def random_vision(seed: int, **overrides: Any) -> VisionConfig:
    """A small configuration; consecutive seeds walk through the cases, the sizes are random."""
    pick = random.Random(seed)
    heads = (1, 2, 3, 4)[seed % 4]
    head_dim = (72, 8, 16, 4, 20)[seed % 5]
    side = pick.choice((4, 7, 8, 16))
    values: dict[str, Any] = {
        "vt_hidden_size": heads * head_dim,
        "vt_intermediate_size": pick.choice((24, 50, 70, 96)),
        "vt_num_attention_heads": heads,
        "vt_num_hidden_layers": pick.choice((1, 2, 3)),
        "patch_size": pick.choice((2, 4, 14)),
        "init_pos_emb_height": side,  # transformers knows square tables only
        "init_pos_emb_width": side,
        "projector_ln_eps": (1e-5, 1e-2)[seed % 2],
        "text_hidden_size": pick.choice((40, 64)),
        "media_token_id": 7,
    }
    return VisionConfig(**{**values, **overrides})


def random_grids(seed: int, config: VisionConfig) -> list[Grid]:
    """One to many items: the table's own size, long strips, one token, clips of 1 to 9 frames."""
    pick = random.Random(seed)
    own = config.init_pos_emb_height + config.init_pos_emb_height % 2
    shapes = [(2, 2), (4, 6), (2, 22), (18, 2), (own, own), (own, own + 2), (10, 14), (12, 4)]
    grids: list[Grid] = [(1, *pick.choice(shapes)) for _ in range(pick.choice((1, 1, 2, 5)))]
    frames = seed % 10  # 0: pictures only; a clip of 9 frames is items of 4, 4 and 1
    clip = pick.choice(shapes)
    while frames:
        grids.append((min(frames, 4), *clip))
        frames -= grids[-1][0]
    return grids


def random_patches(config: VisionConfig, grids: list[Grid], seed: int = 0) -> Tensor:
    """Normalised pixels in -1..1, [P, 3*p*p]."""
    generator = torch.Generator().manual_seed(seed)
    rows = sum(t * h * w for t, h, w in grids)
    return torch.rand(rows, config.patch_values, generator=generator) * 2 - 1


@torch.no_grad()
def fill(module: nn.Module, seed: int) -> None:
    """Random values for every parameter, of a size that keeps activations of order one."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.named_parameters():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith(".bias"):
            tensor.copy_(0.2 * noise)
        elif tensor.dim() == 1:
            tensor.copy_(1 + 0.2 * noise)
        elif name.endswith("pos_emb.weight"):
            tensor.copy_(noise)
        else:
            tensor.copy_(noise * tensor[0].numel() ** -0.5)


def random_tower(config: VisionConfig, seed: int) -> tuple[VisionTower, Projector]:
    tower, projector = VisionTower(config), Projector(config)
    fill(tower, seed)
    fill(projector, seed + 1000)
    return tower.eval(), projector.eval()


def reference_config(config: VisionConfig, text: Any = None) -> Any:
    """transformers' configuration of the same model."""
    from transformers import DeepseekV3Config
    from transformers.models.kimi_k25.configuration_kimi_k25 import (
        Kimi_K25Config,
        Kimi_K25VisionConfig,
    )

    vision = Kimi_K25VisionConfig(
        patch_size=config.patch_size,
        pos_emb_height=config.init_pos_emb_height,
        pos_emb_width=config.init_pos_emb_width,
        pos_emb_time=config.init_pos_emb_time,
        num_attention_heads=config.vt_num_attention_heads,
        num_hidden_layers=config.vt_num_hidden_layers,
        hidden_size=config.vt_hidden_size,
        intermediate_size=config.vt_intermediate_size,
    )
    if text is None:
        text = DeepseekV3Config(
            hidden_size=config.text_hidden_size, num_hidden_layers=1, vocab_size=16,
            intermediate_size=8, moe_intermediate_size=8, n_routed_experts=4, n_group=1,
            num_experts_per_tok=2, topk_group=1, num_attention_heads=1, num_key_value_heads=1,
            q_lora_rank=8, kv_lora_rank=8, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8,
        )  # fmt: skip
    return Kimi_K25Config(
        vision_config=vision, text_config=text, projection_hidden_size=config.vt_hidden_size,
        projection_layer_norm_eps=config.projector_ln_eps, tie_word_embeddings=False,
        image_token_id=config.media_token_id, video_token_id=text.vocab_size,
    )  # fmt: skip


def reference_names(state: dict[str, Tensor], heads: int) -> dict[str, Tensor]:
    """Checkpoint layout -> transformers': wqkv split, rows of q and k to half-split pairs."""
    renamed: dict[str, Tensor] = {}
    for full, tensor in state.items():
        name = full.replace("encoder.blocks.", "layers.").replace("encoder.final", "final")
        name = name.replace("norm1.", "norm2.").replace("norm0.", "norm1.")
        name = name.replace("mlp.fc1.", "mlp.fc2.").replace("mlp.fc0.", "mlp.fc1.")
        name = name.replace("wo.", "attn.proj.")
        name = name.replace("pos_emb.weight", "pos_emb.position_embeddings")
        name = name.replace("proj.0.", "in_proj.").replace("proj.2.", "out_proj.")
        if "wqkv." not in name:
            renamed[name] = tensor
            continue
        for which, part in zip("qkv", tensor.chunk(3), strict=True):
            if which != "v":
                pairs = part.reshape(heads, -1, 2, *part.shape[1:])
                part = pairs.transpose(1, 2).reshape(part.shape)
            renamed[name.replace("wqkv.", f"attn.{which}_proj.")] = part
    return renamed


class Reference:
    """transformers' tower and projector with the weights of ours."""

    def __init__(self, config: VisionConfig, tower: VisionTower, projector: Projector) -> None:
        from transformers.models.kimi_k25.modeling_kimi_k25 import (
            Kimi_K25MultimodalProjection,
            Kimi_K25VisionModel,
        )

        full = reference_config(config)
        full.vision_config._attn_implementation = "eager"
        self.side = config.patch_size
        self.tower = Kimi_K25VisionModel(full.vision_config).eval()
        self.projector = Kimi_K25MultimodalProjection(full).eval()
        heads = config.vt_num_attention_heads
        dtype = tower.patch_embed.proj.weight.dtype
        self.tower.load_state_dict(reference_names(tower.state_dict(), heads))
        self.projector.load_state_dict(reference_names(projector.state_dict(), heads))
        self.tower.to(dtype), self.projector.to(dtype)

    @torch.inference_mode()
    def __call__(self, patches: Tensor, grids: list[Grid]) -> tuple[Tensor, Tensor]:
        """-> the four vectors of each token [M, 4, D], and the tokens [M, text hidden].

        Its tower cannot pool items of different numbers of frames in one call (the index of a
        `cat` is ragged), so neighbours of equal frames go together.
        """
        pixels = patches.view(len(patches), 3, self.side, self.side)
        pooled = []
        for _, neighbours in groupby(grids, key=lambda grid: grid[0]):
            together = torch.tensor(list(neighbours))
            rows, pixels = pixels.tensor_split([int(together.prod(1).sum())])
            pooled.append(self.tower(rows, grid_thw=together).pooler_output)
        vectors = torch.cat(pooled)
        return vectors, self.projector(vectors).squeeze(1)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference over the largest absolute value."""
    assert ours.shape == theirs.shape
    return float((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max())
