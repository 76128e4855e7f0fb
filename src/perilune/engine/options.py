"""How to run a model: every option of the engine, its default and its bounds, in one place.

`LLM`, `AsyncEngine` and `load_engine` take them by these names; the server's settings embed them,
and its flags, environment and file are made from these fields. No torch here: a command line that
only shows its help reads this file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from perilune.chat.media.limits import MediaLimits


def _option(default: Any, text: str, **bounds: Any) -> Any:
    """A field with what a user is told of it. `least` and `most` bound a number."""
    return field(default=default, metadata={"help": text, **bounds})


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to run a model.

    max_context: tokens of one prompt and answer; None: the model's.
    cache_tokens: tokens that the latent cache holds; None: as many as are sensible.
    exact: float32 activations and cache; logits within 1e-4 of the reference generator's.
    dense_format: attention, shared experts and head in "int8", a half of their bytes (changes the
        logits a bit), or "int4", a quarter (more than a bit). C kernels only. None: as stored.
    expanded_prefill: from so many tokens on that are not cached, a prompt attends in the expanded
        form, which is faster and rounds differently (C kernels; never in exact mode). 0: never;
        then the same text comes out to the bit whatever the cache held.
    native: True: the C kernels or an error; False: torch; None: the C kernels where they can.
    vision: with the tower of K2.5, where the folder holds one; False reads the text model alone.
    max_encoder_patches: of pictures, through the tower in one step; a larger picture takes several.
    encoder_cache_bytes: of encoded pictures that are kept; None: what fits, at most 1 GiB.
    media: bounds of the pictures and clips of a request.
    device: where weights, cache and steps are: "cpu", "cuda", "cuda:1", "mps"; "auto": the CPU,
        whose kernels are the faster ones until a card has its own, or where a model in memory lies.
        On a device other than the CPU torch computes.
    speculative_tokens: guessed behind one token; 0 turns speculation off.
    bandwidth: bytes a second that this device reads from memory; None: measured at the start.
    """

    max_context: int | None = _option(
        None, "Tokens of prompt and answer. Default: the model's.", least=16, most=2**24
    )
    cache_tokens: int | None = _option(
        None, "Tokens that the latent cache holds. Default: what fits.", least=64, most=2**31
    )
    max_sequences: int = _option(64, "Answers computed side by side.", least=1, most=4096)
    max_batch_tokens: int = _option(512, "Rows of one step.", least=1, most=65536)
    speculative_tokens: int = _option(12, "Tokens guessed behind one.", least=0, most=32)
    exact: bool = _option(False, "float32 activations and cache.")
    dense_format: str | None = _option(
        None, "Attention, shared experts and head in int8 or int4. Default: as stored."
    )
    expanded_prefill: int = _option(
        2048,
        "New tokens from which a prompt attends in the expanded form; 0: never.",
        least=0,
        most=2**31 - 1,
    )
    native: bool | None = _option(
        None,
        "The C kernels or an error; with --no-native PyTorch. Default: what can run the model.",
    )
    vision: bool = _option(True, "Load the vision tower, where the checkpoint has one.")
    max_encoder_patches: int = _option(
        2048, "Patches of pictures that are encoded in one step.", least=1, most=2**20
    )
    encoder_cache_bytes: int | None = _option(
        None,
        "Bytes of encoded pictures that are kept. Default: what fits, at most 1 GiB.",
        least=0,
        most=2**40,
    )
    device: str = _option("auto", "Where the model runs: cpu, cuda, cuda:1, mps; auto is the CPU.")
    seed: int | None = _option(None, "Seed for requests that bring none.", least=0, most=2**63 - 1)
    bandwidth: float | None = None
    media: MediaLimits = field(default_factory=MediaLimits)
