"""The names under which one model is served: the first is its own, the others are aliases.

As in vLLM's `--served-model-name`: a request may use any of them, answers and metrics carry the
first.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from perilune.errors import UsageError
from perilune.serve.chat_schema import MOST_MODEL_NAME


class ModelNames:
    """What a request may call the model. `any_name`: anything."""

    def __init__(self, names: Iterable[str], *, any_name: bool = False) -> None:
        """Raises UsageError for a name that no request could have."""
        self.all = tuple(dict.fromkeys(names))
        self._known = {_same(name) for name in self.all}
        self._any = any_name
        for name in self.all:
            if not name.strip() or len(name) > MOST_MODEL_NAME or not _printable(name):
                raise UsageError(
                    f"{name[:100]!r} cannot be the name of a model",
                    remedy=f"Use 1 to {MOST_MODEL_NAME} printable characters",
                )
        if not self.all:
            raise UsageError("a model needs a name", remedy="Give --served-model-name NAME")

    @property
    def first(self) -> str:
        return self.all[0]

    def served(self, name: str | None) -> bool:
        """Whether a request for `name` is for this model; so is one that names none."""
        return not name or self._any or _same(name) in self._known

    def listed(self, name: str) -> str | None:
        """The name as it is listed; None where it is not."""
        return next((one for one in self.all if _same(one) == _same(name)), None)


def _same(name: str) -> str:
    """Unicode has several ways to write a letter with its accent."""
    return unicodedata.normalize("NFC", name)


def _printable(name: str) -> bool:
    return name.isprintable() and not any("\ud800" <= c <= "\udfff" for c in name)
