"""The formats in which a checkpoint stores its large weights: one object each, one file each.

Every module of this folder that calls `register` adds a format: nothing else has to be touched for
a new one. What a format is, `format.py` says. The package lies below the configuration, which reads
`quantization_config` by asking the formats, so nothing here imports torch before it computes.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perilune.errors import ConfigError, UsageError
from perilune.formats.format import FORMATS, Part, Role, StorageFormat, TensorLayout, register

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "FORMATS", "Part", "Role", "StorageFormat", "TensorLayout", "format_named", "read_quantization",
    "register", "role_of",
]  # fmt: skip


def format_named(name: str) -> StorageFormat:
    """The format of that name, as the command line has it. Raises UsageError, naming all."""
    found = FORMATS.get(name)
    if found is None:
        raise UsageError(
            f"there is no storage format {name!r}", remedy=f"Give one of {', '.join(FORMATS)}"
        )
    return found


def read_quantization(raw: Mapping[str, Any], file: Path | None) -> StorageFormat:
    """The format that a `quantization_config` describes, with its sizes. Raises ConfigError."""
    best = max(FORMATS.values(), key=lambda each: each.claims(raw))
    if not best.claims(raw):
        known = " and ".join(each.published_as for each in FORMATS.values() if each.published_as)
        raise ConfigError(
            f"quant_method {raw.get('quant_method')!r} is not supported",
            file=file,
            remedy=f"Perilune reads {known}",
        )
    found = best.from_config(raw, file)
    return best if found == best else found  # the registered one, where the sizes are its own


def role_of(name: str) -> Role:
    """What a tensor of a checkpoint is for, told by the end of its name, in any format."""
    suffix = name.rpartition(".")[2]
    for each in FORMATS.values():
        if suffix in each.roles:
            return each.roles[suffix]
    return Role.VALUES
