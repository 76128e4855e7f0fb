"""The rotary embedding that a `config.json` asks for: plain, or stretched by YaRN.

Two spellings are read: `rope_scaling` beside `rope_theta`, and the newer `rope_parameters`.
Source: arXiv 2309.00071 for YaRN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from perilune.config_fields import MAX_SIZE, ROPE, check_fields, mapping
from perilune.errors import ConfigError, UnsupportedArchitectureError


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding with optional YaRN (`factor` > 1). Angles in radians, lengths in tokens."""

    theta: float = 50_000.0
    factor: float = 1.0
    original_max_position_embeddings: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 1.0

    @staticmethod
    def _yarn_mscale(factor: float, mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    @property
    def cos_sin_scale(self) -> float:
        """Multiplier of cos and sin (1.0 for every published K2)."""
        return self._yarn_mscale(self.factor, self.mscale) / self._yarn_mscale(
            self.factor, self.mscale_all_dim
        )

    @property
    def softmax_multiplier(self) -> float:
        """Multiplier of the softmax scale, m(factor, mscale_all_dim)^2; on at every length."""
        if not self.mscale_all_dim:
            return 1.0
        return self._yarn_mscale(self.factor, self.mscale_all_dim) ** 2


def parse_rope(raw: Mapping[str, Any], file: Path | None, notices: list[str]) -> RopeConfig:
    """The rope, from either spelling or both. `notices` is added to; raises ConfigError.

    As in transformers 5, `rope_scaling` goes before `rope_parameters`. Where both are given and
    differ in more than that one of them says nothing ("default"), the file is refused.
    """
    older = mapping(raw.get("rope_scaling"), "rope_scaling", file)
    newer = mapping(raw.get("rope_parameters"), "rope_parameters", file)
    theta = _theta((newer, older, raw), file)
    ropes = [
        _one_rope(given, theta, raw, name, file)
        for name, given in (("rope_scaling", older), ("rope_parameters", newer))
        if given
    ]
    if not ropes:
        return RopeConfig(theta=theta, mscale_all_dim=0.0)
    if len(ropes) == 2 and ropes[0] != ropes[1]:
        if ropes[1].factor > 1 or newer.keys() - {"rope_type", "type", "rope_theta"}:
            raise ConfigError(
                "rope_scaling and rope_parameters contradict each other",
                file=file,
                remedy="Keep the one that the checkpoint was trained with",
            )
        notices.append(
            "rope_parameters says 'default' beside a rope_scaling of YaRN; rope_scaling counts"
        )
    if older and "rope_theta" not in raw and "rope_theta" not in older:
        notices.append(
            f"rope_theta {theta:g} is taken from rope_parameters; transformers 5 leaves it out "
            "beside a rope_scaling"
        )
    return ropes[0]


def _theta(places: tuple[Mapping[str, Any], ...], file: Path | None) -> float:
    given = [place["rope_theta"] for place in places if "rope_theta" in place]
    if not given:
        raise ConfigError("neither rope_theta nor rope_parameters.rope_theta is given", file=file)
    for theta in given:
        if not _is_number(theta) or not 1 < theta < math.inf:
            raise ConfigError(f"rope_theta must be a number above 1, not {theta!r}", file=file)
    if len({float(theta) for theta in given}) > 1:
        raise ConfigError(f"rope_theta has several values: {given}", file=file)
    return float(given[0])


def _one_rope(
    parameters: Mapping[str, Any],
    theta: float,
    raw: Mapping[str, Any],
    place: str,
    file: Path | None,
) -> RopeConfig:
    check_fields(parameters, ROPE, place, file, closed=True)
    kinds = [parameters[name] for name in ("rope_type", "type") if name in parameters]
    kind = kinds[0] if kinds else "default"
    if len(kinds) == 2 and kinds[0] != kinds[1]:
        raise ConfigError(f"{place} has rope_type {kinds[0]!r} and type {kinds[1]!r}", file=file)
    known = {f.name for f in fields(RopeConfig)} - {"theta"}
    given = {k: v for k, v in parameters.items() if k in known and v is not None}
    if kind == "default":
        if given:
            raise ConfigError(
                f"{place} holds {', '.join(sorted(given))} and no rope_type 'yarn'",
                file=file,
                remedy='Add "rope_type": "yarn", or take the fields out',
            )
        return RopeConfig(theta=theta, mscale_all_dim=0.0)
    if kind != "yarn":
        raise UnsupportedArchitectureError(
            f"{place} has rope type {kind!r}; the K2 family has 'yarn' (or 'default')", file=file
        )
    for name, value in given.items():
        if not _is_number(value) or not abs(value) < MAX_SIZE:
            raise ConfigError(f"{place}.{name} must be a number, not {value!r}", file=file)
    if given.get("factor", 0.0) < 1:
        raise ConfigError("a yarn rope needs a factor of at least 1", file=file)
    if min(given.get(k, 1.0) for k in ("beta_fast", "beta_slow")) <= 0:
        raise ConfigError("beta_fast and beta_slow of a yarn rope must be positive", file=file)
    original = given.pop("original_max_position_embeddings", None)
    if original is None or original < 1 or original % 1:
        raise ConfigError(
            f"{place}.original_max_position_embeddings must be a positive integer, not "
            f"{original!r}",
            file=file,
        )
    outer = raw.get("original_max_position_embeddings", original)
    if type(outer) is bool or outer != original:
        raise ConfigError(
            f"original_max_position_embeddings is {outer!r}, and {original!r} in {place}",
            file=file,
        )
    # Two definitions of the factor of cos and sin are about; they agree in these cases only.
    mscale, all_dim = given.get("mscale"), given.get("mscale_all_dim") or 0.0
    if min(mscale or 0.0, all_dim) < 0 or (
        mscale in (None, 0) if all_dim else mscale not in (None, 1)
    ):
        raise ConfigError(
            f"{place} has mscale {mscale!r} with mscale_all_dim {all_dim!r}; supported are both "
            "above 0, or mscale_all_dim 0 with mscale 1 or none",
            file=file,
        )
    values = {name: float(value) for name, value in given.items()}
    values["mscale_all_dim"] = float(all_dim)
    return RopeConfig(theta=theta, original_max_position_embeddings=int(original), **values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
