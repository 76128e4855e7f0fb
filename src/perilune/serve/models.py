"""`/v1/models` and `/v1/models/{id}`, in OpenAI's shape or, by its header, in Anthropic's."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

from perilune.serve.api_error import ApiError
from perilune.serve.http import HttpRequest, Reply, Route
from perilune.serve.service import Service


async def models(service: Service, request: HttpRequest) -> Reply:
    """The one model that is served, under each of its names."""
    if "anthropic-version" in request.headers:
        rows = [anthropic_model(service, name) for name in service.names.all]
        first, last = rows[0]["id"], rows[-1]["id"]
        return Reply({"data": rows, "has_more": False, "first_id": first, "last_id": last})
    data = [openai_model(service, name) for name in service.names.all]
    return Reply({"object": "list", "data": data})


async def model(service: Service, request: HttpRequest) -> Reply:
    asked = request.path_params["model"]
    name = service.names.listed(asked)
    if name is None:
        if not service.names.served(asked):
            raise ApiError(
                404, f"the model {asked!r:.200} is not served here", "model", "model_not_found"
            )
        name = service.model_name
    anthropic = "anthropic-version" in request.headers
    return Reply(anthropic_model(service, name) if anthropic else openai_model(service, name))


def openai_model(service: Service, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": service.started,
        "owned_by": "perilune",
        "root": service.model_name,
        "parent": None,
        "max_model_len": service.max_context,
        "context_length": service.max_context,
        "supports_reasoning": service.format.template.has_thinking,
        "supports_image_in": service.media.eyes,
        "supports_video_in": service.media.eyes and find_spec("av") is not None,
    }


def anthropic_model(service: Service, name: str) -> dict[str, Any]:
    created = datetime.fromtimestamp(service.started, UTC).isoformat().replace("+00:00", "Z")
    most = service.settings.max_output_tokens or service.max_context
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": created,
        "max_input_tokens": service.max_context,
        "max_tokens": min(most, service.max_context),
        "lifecycle": "active",
    }


ROUTES = [
    Route("GET", "/v1/models", models, "The model that is served."),
    Route("GET", "/v1/models/{model:path}", model, "One model."),
]
