"""nano's episodes as a source of training documents (`nano-episodes` in a configuration)."""

from __future__ import annotations

from pathlib import Path

from perilune.chat.tokenizer import Tokenizer
from perilune.errors import UsageError
from perilune.nano.training.mixture import KIND_WEIGHTS, episode
from perilune.nano.training.render import Renderer
from perilune.train.data.document import Document
from perilune.train.data.sources import Source


def nano_source(
    seed: int, tokenizer: Path | None, *, kinds: dict[str, int] | None = None
) -> Source:
    """An episode a document; what the model says is trained, what tools and people say is read.

    `kinds`: weights of the kinds of episodes, all of `KIND_WEIGHTS` where left out.
    """
    if tokenizer is None:
        raise UsageError(
            "nano-episodes needs a tokenizer", remedy="Name its folder: tokenizer = ..."
        )
    unknown = set(kinds or ()) - set(KIND_WEIGHTS)
    if unknown:
        raise UsageError(
            f"nano has no episodes of kind {sorted(unknown)[0]!r}", remedy=f"Use {[*KIND_WEIGHTS]}"
        )
    renderer = Renderer(Tokenizer.from_pretrained(tokenizer))

    def document(index: int) -> Document:
        played = episode(seed * 2**44 + index, kinds or KIND_WEIGHTS)
        ids, trained = renderer.render(played.messages)
        return Document(ids, trained, renderer.header, played.kind)

    return document
