"""The model list in Anthropic's shape, for `/v1/models` with an `anthropic-version` header."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from perilune.serve.service import Service


def wants_anthropic(headers: Mapping[str, str]) -> bool:
    """Whether the client of these headers (lower-case names) reads Anthropic's shapes."""
    return "anthropic-version" in headers


def model_info(service: Service) -> dict[str, Any]:
    """The one model that is served."""
    created = datetime.fromtimestamp(service.started, UTC)
    return {
        "type": "model",
        "id": service.model_name,
        "display_name": service.model_name,
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": service.max_context,
        "max_tokens": service.settings.max_output_tokens or service.max_context,
    }


def model_list(service: Service) -> dict[str, Any]:
    name = service.model_name
    return {"data": [model_info(service)], "has_more": False, "first_id": name, "last_id": name}
