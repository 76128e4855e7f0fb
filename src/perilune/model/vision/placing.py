"""The vectors of pictures in place of the embeddings of their placeholder token."""

from __future__ import annotations

from torch import Tensor

from perilune.errors import UsageError


def placed(x: Tensor, input_ids: Tensor, media_token_id: int | None, pictures: Tensor) -> Tensor:
    """Embeddings x [..., T, D] of `input_ids` [..., T], those of the placeholder from `pictures`.

    `pictures` [n, D]: one row for each placeholder, in order. Raises UsageError where the numbers
    differ, or where the model has no placeholder.
    """
    here = input_ids == media_token_id if media_token_id is not None else input_ids < 0
    wanted = int(here.sum())
    if wanted != len(pictures):
        raise UsageError(
            f"the prompt has {wanted} placeholder tokens for {len(pictures)} picture vectors",
            remedy="Write one placeholder for each vector: token_counts(grids) says how many",
        )
    return x.masked_scatter(here[..., None], pictures.to(x.device, x.dtype))
