"""`/health`, `/ping`, `/version`, `/load`, `/metrics`."""

from __future__ import annotations

from importlib.metadata import version

from perilune.serve.api_error import ApiError
from perilune.serve.http import HttpRequest, Reply, Route
from perilune.serve.load_lines import as_json
from perilune.serve.service import Service


async def health(service: Service, request: HttpRequest) -> Reply:
    """200 without a body when requests are taken, else 503 and why: a load with its progress."""
    try:
        service.check_ready()
    except ApiError as error:
        body = {"status": error.code}
        if error.code == "loading":
            body |= as_json(service.loading)
        wait = {} if error.retry_after is None else {"retry-after": str(round(error.retry_after))}
        return Reply(body, error.status, wait)
    return Reply()


async def get_version(service: Service, request: HttpRequest) -> Reply:
    return Reply({"version": version("perilune")})


async def load(service: Service, request: HttpRequest) -> Reply:
    """How many answers clients wait for."""
    return Reply({"server_load": service.open_answers})


async def metrics(service: Service, request: HttpRequest) -> Reply:
    return Reply(
        text=service.render_metrics(),
        media_type="text/plain; version=0.0.4; charset=utf-8",
    )


ROUTES = [
    Route("GET", "/health", health, "200 when requests are taken, else 503 and why.", public=True),
    Route("GET", "/ping", health, "The same as /health.", public=True),
    Route("GET", "/version", get_version, "The version of Perilune."),
    Route("GET", "/load", load, "How many answers are under way."),
    Route("GET", "/metrics", metrics, "Prometheus metrics."),
]
