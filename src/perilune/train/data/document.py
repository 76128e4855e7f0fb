"""What a model is trained on: documents of token ids, some of them trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perilune.errors import UsageError


@dataclass(frozen=True, slots=True)
class Document:
    """Token ids, and for each whether the model is trained to predict it.

    `header` holds ids that come before (tool declarations, system prompt): read, never trained,
    and computed once for all documents of a batch that begin with the same. `source` names where
    the document came from; metrics are kept by it.
    """

    ids: Sequence[int]
    trained: Sequence[bool]
    header: Sequence[int] = ()
    source: str = ""

    def __post_init__(self) -> None:
        if not self.ids or len(self.ids) != len(self.trained):
            raise UsageError(
                f"a document has {len(self.ids)} ids, but {len(self.trained)} trained marks",
                remedy="Give at least one id, and one mark for each",
            )

    @property
    def length(self) -> int:
        """Tokens, the header's included: the context that the document needs."""
        return len(self.header) + len(self.ids)
