"""Kimi K2: the whole text network, token ids -> logits.

    embed -> 61 x (latent attention, feed-forward) -> norm -> lm_head

Attribute names are the checkpoint's tensor names. Storage formats, parallelism and memory tiers
replace modules from outside, and a context says how attention and the experts are computed
(`context.py`); nothing in here knows of them. Architecture: arXiv 2507.20534 (Kimi
K2), which is that of arXiv 2412.19437 (DeepSeek-V3).

Shape suffixes: B batch, T new tokens, S tokens attended to, D hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from perilune.config import ModelConfig
from perilune.errors import ConfigError, UsageError
from perilune.model.cache import LatentCache
from perilune.model.context import ContiguousContext, ForwardContext
from perilune.model.init import init_normal
from perilune.model.layer import DecoderLayer
from perilune.model.norm import RMSNorm
from perilune.model.rotary import RotaryEmbedding
from perilune.model.vision import Projector, VisionTower
from perilune.model.vision.grids import Grids
from perilune.model.vision.operators import PLAIN, VisionOperators
from perilune.vision_config import VisionConfig


class Decoder(nn.Module):
    """`model.`: everything below the vocabulary projection. Token ids -> hidden states."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        table_VD = init_normal(torch.empty(config.vocab_size, config.hidden_size), std=1.0)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, _weight=table_VD)
        self.layers = nn.ModuleList(
            DecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = RotaryEmbedding(config.rope, config.qk_rope_head_dim)

    def forward(self, input_ids: Tensor, context: ForwardContext) -> Tensor:
        """Token ids [..., T] -> normed hidden states of the wanted tokens, [..., D]."""
        x = context.embed(self.embed_tokens, input_ids)
        for layer in self.layers:
            x = layer(x, context)
        return context.norm(self.norm, context.wanted(x))


class KimiK2Model(nn.Module):
    """Kimi K2, K2 Thinking and K2.5: the text network, and the tower of K2.5 where it is asked for.

    Build it on the meta device and load the weights into it (`perilune.load_model`); built on a
    real device it has random weights, for tests. `vision_tower` and `mm_projector` are None without
    a `vision`. Raises ConfigError where the two do not fit.
    """

    def __init__(self, config: ModelConfig, vision: VisionConfig | None = None) -> None:
        super().__init__()
        self.config = config
        self.vision = vision
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.vision_tower: VisionTower | None = None
        self.mm_projector: Projector | None = None
        if vision is not None:
            if vision.text_hidden_size != config.hidden_size:
                raise ConfigError(
                    f"the projector gives vectors of {vision.text_hidden_size}, but the text "
                    f"network takes {config.hidden_size}"
                )
            self.vision_tower = VisionTower(vision)
            self.mm_projector = Projector(vision)

    def encode_pictures(
        self, patches: Tensor, grids: Grids, operators: VisionOperators = PLAIN
    ) -> Tensor:
        """Patches [P, 3*p*p] of items and their grids [S, 3] -> what stands for them, [tokens, D].

        As `VisionTower`, through the projector; item by item, `token_counts(grids)` rows each.
        Raises UsageError, also for a model without a tower.
        """
        if self.vision_tower is None or self.mm_projector is None:
            raise UsageError(
                "this model has no vision tower",
                remedy="Load a K2.5 checkpoint that holds one, with vision=True",
            )
        tokens: Tensor = self.mm_projector(self.vision_tower(patches, grids, operators), operators)
        return tokens

    def forward(
        self,
        input_ids: Tensor,
        context: ForwardContext | None = None,
        *,
        cache: LatentCache | None = None,
        positions: Tensor | None = None,
        absorbed: bool | None = None,
        pictures: Tensor | None = None,
    ) -> Any:
        """Token ids, integer [B, T] -> logits [B, T, V] in the dtype of the model.

        `cache` holds the tokens before these (same B) and takes up these. `positions` [T] are
        these tokens' where they do not simply follow (who sees whom is the order of the rows).
        `absorbed` picks the form of attention; by default absorbed for one token, else expanded.
        `pictures` [n, D] (of `encode_pictures`) stand for the n placeholder tokens, in order.
        Another `context` decides all of this itself, and what is returned.
        """
        if context is not None:
            return context.output(self.lm_head, self.model(input_ids, context))
        x_BTD = self.hidden_states(
            input_ids, cache=cache, positions=positions, absorbed=absorbed, pictures=pictures
        )
        return self.lm_head(x_BTD)

    def hidden_states(
        self,
        input_ids: Tensor,
        *,
        cache: LatentCache | None = None,
        positions: Tensor | None = None,
        absorbed: bool | None = None,
        pictures: Tensor | None = None,
    ) -> Tensor:
        """-> normed hidden states [B, T, D]; arguments as in `forward`."""
        context = ContiguousContext(
            self.model, input_ids, cache=cache, positions=positions, absorbed=absorbed,
            pictures=pictures,
            media_token_id=None if self.vision is None else self.vision.media_token_id,
        )  # fmt: skip
        x_BTD: Tensor = self.model(input_ids, context)
        if cache is not None:
            cache.advance(input_ids.shape[1])
        return x_BTD
