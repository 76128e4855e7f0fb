"""Pictures and text together: our walk against transformers, from memory and from a folder.

The folder is of the checkpoint's layout and names, and transformers reads it by its own classes and
its own renaming (`from_pretrained`), so this also holds the names of the tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from perilune import load_model
from perilune.cli import models
from perilune.config import CheckpointConfig, Family, ModelConfig, read_config
from perilune.errors import UsageError
from perilune.model import KimiK2Model, generate
from perilune.model.vision import token_counts
from perilune.vision_config import VisionConfig
from perilune.weights.published_config import VISION_CONFIG
from perilune.weights.write import save_model
from tests.model.random_models import random_config, random_model
from tests.model.vision.random_towers import (
    Grid,
    Reference,
    difference,
    fill,
    random_grids,
    random_patches,
    random_vision,
    reference_config,
)

MEDIA = 7
BOUND = 1e-4


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small models: two threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def eyed_model(seed: int) -> KimiK2Model:
    text = random_config(seed, vocab_size=200, max_position_embeddings=4096)
    vision = random_vision(seed, text_hidden_size=text.hidden_size, media_token_id=MEDIA)
    model = KimiK2Model(text, vision)
    model.load_state_dict(random_model(text, seed).state_dict(), strict=False)
    assert model.vision_tower is not None and model.mm_projector is not None
    fill(model.vision_tower, seed)
    fill(model.mm_projector, seed + 1000)
    return model.eval()


def prompt(grids: list[Grid], seed: int) -> list[int]:
    """Text before, between and behind the items; no other token is the placeholder's."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = []
    for count in [*token_counts(grids), 0]:
        words = torch.randint(8, 200, (int(torch.randint(2, 6, (), generator=generator)),),
                              generator=generator)  # fmt: skip
        ids += words.tolist() + [MEDIA] * count
    return ids


def reference_text(text: ModelConfig) -> Any:
    from transformers import DeepseekV3Config

    rope = text.rope
    return DeepseekV3Config(
        **{name: getattr(text, name) for name in (
            "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size",
            "num_hidden_layers", "first_k_dense_replace", "num_attention_heads",
            "n_shared_experts", "n_routed_experts", "num_experts_per_tok", "n_group",
            "topk_group", "norm_topk_prob", "routed_scaling_factor", "q_lora_rank",
            "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "rms_norm_eps",
            "max_position_embeddings", "tie_word_embeddings",
        )},
        num_key_value_heads=text.num_attention_heads, num_nextn_predict_layers=0,
        rope_interleave=True, bos_token_id=None, eos_token_id=None, pad_token_id=None,
        rope_parameters={
            "rope_type": "yarn", "rope_theta": rope.theta, "factor": rope.factor,
            "original_max_position_embeddings": rope.original_max_position_embeddings,
            "beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow, "mscale": rope.mscale,
            "mscale_all_dim": rope.mscale_all_dim,
        },
    )  # fmt: skip


class WholeReference:
    """transformers' Kimi_K25ForConditionalGeneration, read from a folder of ours, in float32."""

    def __init__(self, folder: Path, text: ModelConfig, vision: VisionConfig) -> None:
        from transformers import Kimi_K25ForConditionalGeneration

        config = reference_config(vision, reference_text(text))
        self.model, said = Kimi_K25ForConditionalGeneration.from_pretrained(
            folder, config=config, dtype=torch.float32, attn_implementation="eager",
            experts_implementation="eager", output_loading_info=True,
        )  # fmt: skip
        assert not said["missing_keys"] and not said["unexpected_keys"], said
        self.model.eval()
        self.side = vision.patch_size

    @torch.inference_mode()
    def pictures(self, patches: Tensor, grids: list[Grid]) -> Tensor:
        reference = Reference.__new__(Reference)
        reference.side = self.side
        reference.tower = self.model.model.vision_tower
        reference.projector = self.model.model.mm_projector
        return reference(patches, grids)[1]

    @torch.inference_mode()
    def logits(self, ids: list[int], pictures: Tensor) -> Tensor:
        """Its own placing of the vectors; only the tower's call is made apart (see `Reference`)."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        encoded = {"image": BaseModelOutputWithPooling(pooler_output=[pictures])}
        out = self.model.model(torch.tensor([ids]), mm_encoder_outputs=encoded, use_cache=False)
        return self.model.lm_head(out.last_hidden_state)[0]


def compare(model: KimiK2Model, reference: WholeReference, seed: int) -> None:
    vision = model.vision
    assert vision is not None
    grids = random_grids(seed, vision)
    patches = random_patches(vision, grids, seed)
    with torch.inference_mode():
        ours = model.encode_pictures(patches, grids)
    theirs = reference.pictures(patches, grids)
    ids = prompt(grids, seed)
    with torch.inference_mode():
        logits = model(torch.tensor([ids]), pictures=ours)[0]
    expected = reference.logits(ids, theirs)
    found = difference(ours, theirs), difference(logits, expected)
    print(f"difference {max(found):.2g} pictures {found[0]:.2g} logits {found[1]:.2g}")
    assert max(found) <= BOUND
    chosen = generate(model, ids, max_tokens=32, pictures=ours, prefill_chunk=33).token_ids
    # As an answer the placeholder is a token like any other here, and a picture there.
    answer = chosen[: chosen.index(MEDIA)] if MEDIA in chosen else chosen
    # Theirs, after each of our tokens, would choose the next of them: so the two are the same.
    expected = reference.logits(ids + answer[:-1], theirs)[len(ids) - 1 :]
    assert expected.argmax(-1).tolist() == answer and len(answer) > 8


@pytest.mark.parametrize("seed", range(2))
def test_logits_and_32_greedy_tokens_from_a_folder(tmp_path: Path, seed: int) -> None:
    """float32 weights in memory, written by `save_model` as bfloat16, read by both."""
    made = eyed_model(seed)
    assert made.vision is not None
    config = CheckpointConfig(
        made.config, Family.K25, tensor_prefix="language_model.",
        vision=published(made.vision), raw={"media_placeholder_token_id": MEDIA},
    )  # fmt: skip
    folder = save_model(made, tmp_path / "m", config)
    model = load_model(folder, dtype=torch.float32)
    model.vision = replace(made.vision)
    compare(model, WholeReference(folder, made.config, made.vision), seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 8))
def test_more_seeds(tmp_path: Path, seed: int) -> None:
    test_logits_and_32_greedy_tokens_from_a_folder(tmp_path, seed)


def test_a_folder_of_models_new_is_read_by_transformers(tmp_path: Path) -> None:
    """`models new --like k2.5`, bfloat16: same vectors, same logits, in float32."""
    folder = tmp_path / "m"
    made = CliRunner().invoke(models.app, ["new", str(folder), "--like", "k2.5"])
    assert made.exit_code == 0, made.output
    config = read_config(folder)
    model = load_model(folder, dtype=torch.float32)
    vision = model.vision
    assert vision is not None and vision.media_token_id == 768 - 256 + 21
    reference = WholeReference(folder, config.text, vision)
    grids: list[Grid] = [(1, 4, 6), (1, 8, 8), (1, 2, 10), (3, 4, 2), (3, 6, 6)]
    patches = random_patches(vision, grids)
    with torch.inference_mode():
        ours = model.encode_pictures(patches, grids)
        theirs = reference.pictures(patches, grids)
        assert difference(ours, theirs) <= BOUND
        ids = [1, 2, 3]
        for count in token_counts(grids):
            ids += [vision.media_token_id] * count + [40]
        logits = model(torch.tensor([ids]), pictures=ours)[0]
    assert difference(logits, reference.logits(ids, theirs)) <= BOUND


def published(vision: VisionConfig) -> dict[str, Any]:
    """As `vision_config` says it."""
    names = VISION_CONFIG.keys() & set(VisionConfig.__dataclass_fields__)
    return {**VISION_CONFIG, "mm_hidden_size": vision.vt_hidden_size,
            **{name: getattr(vision, name) for name in names}}  # fmt: skip


def test_the_vectors_stand_where_the_placeholders_are() -> None:
    model = eyed_model(1)
    ids = torch.tensor([[9, MEDIA, 10, MEDIA, 11]])
    vectors = torch.randn(2, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain = model(ids)
        seen = model(ids, pictures=vectors)
        assert torch.allclose(plain[:, 0], seen[:, 0], atol=1e-5)
        assert not torch.allclose(plain[:, 1], seen[:, 1], atol=0.1)
        table = model.model.embed_tokens.weight
        same = model(ids, pictures=table[[MEDIA, MEDIA]])
        assert torch.equal(plain, same)
        for wrong in (vectors[:1], vectors[[0, 1, 1]]):
            with pytest.raises(UsageError, match="placeholder"):
                model(ids, pictures=wrong)
            with pytest.raises(UsageError, match="placeholder"):
                generate(model, ids[0].tolist(), max_tokens=2, pictures=wrong, prefill_chunk=2)


def test_a_model_without_a_tower_says_so() -> None:
    model = random_model(random_config(1), 1)
    with pytest.raises(UsageError, match="no vision tower"):
        model.encode_pictures(torch.zeros(4, 588), [(1, 2, 2)])
    with pytest.raises(UsageError, match="placeholder"):
        model(torch.tensor([[1, 2]]), pictures=torch.zeros(1, model.config.hidden_size))
