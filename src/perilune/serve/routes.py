"""All routes of the server. Each API has a file with its own table, `ROUTES`."""

from __future__ import annotations

from perilune.serve import chat_completions, completions, health, models, tokenize
from perilune.serve.anthropic import routes as anthropic
from perilune.serve.http import Route
from perilune.serve.responses import routes as responses


def all_routes() -> list[Route]:
    return [
        *health.ROUTES,
        *chat_completions.ROUTES,
        *completions.ROUTES,
        *models.ROUTES,
        *tokenize.ROUTES,
        *anthropic.ROUTES,
        *responses.ROUTES,
    ]
