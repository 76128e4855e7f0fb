"""What the formats of the package compressed-tensors share: how `quantization_config` is written.

Source: compressed-tensors, `QuantizationConfig` and `QuantizationArgs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from perilune.config_fields import (
    MAX_SIZE,
    NAMES,
    STORED,
    TRAINING,
    USED,
    Field,
    check_fields,
    checked,
    mapping,
    table,
)
from perilune.errors import ConfigError

METHOD: Final = "compressed-tensors"
PUBLISHED: Final = ("num_bits", "type", "symmetric", "strategy")
Tables = tuple[Mapping[str, Field], Mapping[str, Field], Mapping[str, Field]]


def field_tables(layout: str, bits: int) -> Tables:
    """The fields of the whole object, of its one group, and of the group's weights."""
    return (
        table(
            ("quant_method config_groups", USED),
            ("format", checked(layout)),
            ("quantization_status", checked("compressed", None)),
            ("kv_cache_scheme", checked(None)),
            ("sparsity_config transform_config", checked(None, {})),
            ("ignore", STORED),
            ("version global_compression_ratio", NAMES),
        ),
        table(
            ("weights", USED),
            ("input_activations output_activations", checked(None)),
            ("format", checked(layout, None)),
            ("targets", STORED),
        ),
        table(
            ("group_size", USED),
            ("num_bits", checked(bits)),
            ("type", checked("int")),
            ("symmetric", checked(True)),
            ("strategy", checked("group")),
            ("dynamic", checked(False)),
            ("actorder block_structure", checked(None)),
            ("scale_dtype zp_dtype", STORED),
            ("observer observer_kwargs", TRAINING),
        ),
    )


def read_group_size(raw: Mapping[str, Any], tables: Tables, file: Path | None, layout: str) -> int:
    """The group size of the one group; `layout` is for the message. Raises ConfigError."""
    whole, group, weights = tables
    check_fields(raw, whole, "quantization_config", file, closed=True)
    groups = list(mapping(raw.get("config_groups"), "config_groups", file).values())
    group_0 = mapping(groups[0], "config_groups", file) if len(groups) == 1 else {}
    first = mapping(group_0.get("weights"), "weights", file)
    check_fields(group_0, group, "config_groups", file, closed=True)
    check_fields(first, weights, "config_groups.weights", file, closed=True)
    published = "format" in raw and all(name in first for name in PUBLISHED)
    size = first.get("group_size")
    if not published or type(size) is not int or not 8 <= size <= MAX_SIZE or size % 8:
        raise ConfigError(f"only the published {layout} is read", file=file)
    return size


def config_of(layout: str, bits: int, group: int, ignore: Sequence[str]) -> dict[str, Any]:
    """`quantization_config` of symmetric integers in groups along the inputs."""
    weights: dict[str, Any] = {
        "actorder": None,
        "block_structure": None,
        "dynamic": False,
        "group_size": group,
        "num_bits": bits,
        "observer": "minmax",
        "observer_kwargs": {},
        "strategy": "group",
        "symmetric": True,
        "type": "int",
    }
    group_0 = {
        "input_activations": None,
        "output_activations": None,
        "targets": ["Linear"],
        "weights": weights,
    }
    return {
        "config_groups": {"group_0": group_0},
        "format": layout,
        "ignore": list(ignore),
        "kv_cache_scheme": None,
        "quant_method": METHOD,
        "quantization_status": "compressed",
    }
