"""Rules on request fields that several APIs share: refused ones, unknown ones, sampling."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel

from perilune.serve.api_error import ApiError, invalid, unsupported
from perilune.serve.chat_schema import SamplingFields
from perilune.serve.constraints import CONSTRAINTS
from perilune.serve.field_rules import IGNORED, REFUSED
from perilune.serve.http import parse
from perilune.serve.service import Service

log = logging.getLogger("perilune.serve")

# Of chat completions and completions, but taken by the other APIs too, with the same bounds.
EXTENSIONS = (
    "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias",
    "seed", "min_tokens", "ignore_eos", "stop_token_ids", "cache_salt",
)  # fmt: skip


def check_extra(body: BaseModel, service: Service, known: Collection[str] = ()) -> None:
    """Raises ApiError for a refused field, and with --strict-params for an unknown one.

    `known`: more names that are read elsewhere.
    """
    check_fields(body.model_extra or {}, known, strict_params=service.settings.strict_params)


def check_fields(
    extra: Mapping[str, Any], known: Collection[str] = (), *, strict_params: bool = False
) -> None:
    """The same for the fields that an API does not declare."""
    unknown = []
    for name, value in extra.items():
        if name in known or name in CONSTRAINTS or name in IGNORED:
            continue
        refusal = REFUSED.get(name)
        if refusal is None:
            unknown.append(name)
        elif not refusal.allows(value):
            raise unsupported(name, refusal.why)
    if unknown and strict_params:
        raise invalid(f"{unknown[0]} is not a known parameter", unknown[0], "unknown_parameter")
    if unknown:
        log.warning("ignored %d unknown request fields: %s", len(unknown), _names(unknown))


def extensions_of(body: BaseModel) -> tuple[dict[str, Any], str]:
    """(fields of `SamplingParams`, cache salt) of the EXTENSIONS that an API does not declare.

    Raises ApiError.
    """
    extra = body.model_extra or {}
    given = {name: extra[name] for name in EXTENSIONS if extra.get(name) is not None}
    if not given:
        return {}, ""
    fields = parse(SamplingFields, given)
    values = sampling_of(fields)
    return {k: v for k, v in values.items() if v is not None}, fields.cache_salt or ""


def sampling_of(body: SamplingFields) -> dict[str, Any]:
    """Fields of `SamplingParams` that the client gave. Raises ApiError."""
    values: dict[str, Any] = {
        name: getattr(body, name)
        for name in (
            "temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty",
            "repetition_penalty", "n", "max_tokens", "min_tokens", "ignore_eos",
        )
    }  # fmt: skip
    if body.top_k is not None:
        values["top_k"] = max(0, body.top_k)  # -1 is vLLM's word for all
    if body.seed is not None:
        values["seed"] = body.seed % 2**63
    if body.stop is not None:
        values["stop"] = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
        if not all(values["stop"]):
            raise invalid("stop must not be empty text", "stop")
    if body.stop_token_ids is not None:
        values["stop_token_ids"] = tuple(body.stop_token_ids)
    if body.logit_bias is not None:
        values["logit_bias"] = logit_bias(body.logit_bias)
    return values


def logit_bias(given: Mapping[str, float]) -> dict[int, float]:
    """Token ids come as text in JSON. Raises ApiError."""
    bias = {}
    for token, value in given.items():
        if not (token.isascii() and token.isdecimal() and len(token) < 10):
            raise invalid(f"logit_bias: {token[:40]!r} is not a token id", "logit_bias")
        if not -100 <= value <= 100:
            raise invalid(f"logit_bias: {value} is not between -100 and 100", "logit_bias")
        bias[int(token)] = float(value)
    return bias


def check_model(service: Service, model: str | None) -> str:
    """The name to answer with, the model's own. Raises ApiError (404) for another model's."""
    if service.names.served(model):
        return service.model_name
    known = ", ".join(f"{name!r:.100}" for name in service.names.all[:10])
    raise ApiError(
        404,
        f"the model {model!r:.200} is not served here; {known} is",
        param="model",
        code="model_not_found",
    )


def _names(names: list[str]) -> str:
    """For the log: names are the client's text."""
    return ", ".join(ascii(name[:40]) for name in names[:10])
