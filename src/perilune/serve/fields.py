"""Rules on request fields that several APIs share: refused ones, unknown ones, sampling."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel

from perilune.serve.api_error import ApiError, invalid, unsupported
from perilune.serve.chat_schema import SamplingFields
from perilune.serve.service import Service

log = logging.getLogger("perilune.serve")

# Fields that would mislead if they were ignored. Value: why, or what to use.
REFUSED: Mapping[str, str] = {
    "audio": "",
    "web_search_options": "",
    "moderation": "",
    "prediction": "",
    "functions": "use tools",
    "function_call": "use tool_choice",
    "prompt_embeds": "tensors are never read",
    "chat_template": "templates are never taken from a request",
    "documents": "put them into messages",
    "use_beam_search": "",
    "best_of": "",
    "structured_outputs": "use response_format",
    "guided_json": "use response_format",
    "guided_regex": "use response_format",
    "guided_grammar": "use response_format",
    "guided_choice": "use response_format",
    "prompt_logprobs": "use /v1/completions with echo and logprobs",
}


def check_extra(body: BaseModel, service: Service, known: Collection[str] = ()) -> None:
    """Raises ApiError for a refused field, and with --strict-params for an unknown one.

    `known`: more names that are fine.
    """
    extra = body.model_extra or {}
    for name, value in extra.items():
        if name == "store":
            if value:
                raise unsupported("store", "nothing is stored; leave it out or send false")
        elif name == "modalities":
            if value not in (None, ["text"]):
                raise unsupported("modalities", "only text comes out")
        elif name in REFUSED and value is not None:
            raise unsupported(name, REFUSED[name])
    ignored = [name for name in extra if name not in known]
    ignored = [name for name in ignored if name not in _HARMLESS]
    if ignored and service.settings.strict_params:
        raise invalid(f"{ignored[0]} is not a known parameter", ignored[0], "unknown_parameter")
    if ignored:
        log.warning("ignored %d unknown request fields: %s", len(ignored), _names(ignored))


_HARMLESS = frozenset(
    {"store", "modalities", "verbosity", "service_tier", "safety_identifier",
     "prompt_cache_options", "prompt_cache_retention", "session_id", "request_id"}
)  # fmt: skip


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
