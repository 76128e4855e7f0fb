"""Run a load: the requests of a plan, in a closed or an open loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from perilune.agent.models.endpoint_url import read_endpoint_url
from perilune.errors import PeriluneError
from perilune.exam.load.client import RequestRecord, stream_once
from perilune.exam.load.plan import LoadPlan

OnRecord = Callable[[RequestRecord], None]


async def run_load(
    plan: LoadPlan, api_key: str | None = None, on_record: OnRecord = lambda record: None
) -> tuple[list[RequestRecord], float]:
    """The records and the seconds from the first request to the last answer.

    Raises PeriluneError when the warm-up fails: nothing would be measured.
    """
    url = f"{root_of(plan.base_url)}/v1/chat/completions"
    prompts = plan.prompts()
    async with _client(plan, api_key) as client:
        for _ in range(plan.warmup):
            record = await stream_once(client, url, body_of(plan, next(prompts)), time.monotonic())
            if record.error:
                raise PeriluneError(
                    f"the server fails at the warm-up: {record.error}",
                    remedy="`perilune verify` says what it does wrong",
                )
        records: list[RequestRecord] = []

        async def ask(due: float) -> None:
            record = await stream_once(client, url, body_of(plan, next(prompts)), due)
            records.append(record)
            on_record(record)

        start = time.monotonic()
        if plan.open_loop:
            async with asyncio.TaskGroup() as group:
                for moment in plan.arrivals():
                    await asyncio.sleep(max(0.0, start + moment - time.monotonic()))
                    group.create_task(ask(start + moment))
        else:
            left = iter(range(plan.requests))

            async def user() -> None:
                for _ in left:
                    await ask(time.monotonic())

            async with asyncio.TaskGroup() as group:
                for _ in range(min(plan.concurrency, plan.requests)):
                    group.create_task(user())
    return records, max(record.ended for record in records) - start


async def first_model(base_url: str, api_key: str | None) -> str:
    """The first model that a server lists. Raises PeriluneError."""
    try:
        async with httpx.AsyncClient(timeout=30.0, headers=_key(api_key)) as client:
            response = await client.get(f"{root_of(base_url)}/v1/models")
            return str(response.json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        raise PeriluneError(
            f"{base_url} lists no model ({type(error).__name__})",
            remedy="Start the server, or name the model with --model",
        ) from None


def body_of(plan: LoadPlan, prompt: str) -> dict[str, Any]:
    """A request whose answer has `output_tokens` tokens, where the server can be told so."""
    return {
        "model": plan.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": plan.output_tokens,
        "min_tokens": plan.output_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def root_of(base_url: str) -> str:
    """The server itself, without `/v1`. Raises UsageError for what is not a URL."""
    return read_endpoint_url(base_url).root


def _key(api_key: str | None) -> dict[str, str]:
    return {} if api_key is None else {"authorization": f"Bearer {api_key}"}


@asynccontextmanager
async def _client(plan: LoadPlan, api_key: str | None) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        timeout=plan.timeout, limits=limits, headers=_key(api_key)
    ) as client:
        yield client
