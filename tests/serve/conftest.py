"""Fixtures: a tiny random model, a chat format for scripts, and clients of whole applications."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import torch

from perilune.chat.format import ChatFormat
from perilune.engine.async_engine import AsyncEngine
from perilune.serve.media.admission import MediaAdmission, limits_of
from perilune.serve.service import Service
from perilune.serve.settings import Settings

from ..engine.models import write_tiny
from .scripted import Scripted, Turn, scripted_engine
from .seeing import Eyes
from .servers import asgi_client, make_service


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A K2.5 of toy width with random weights: what it says is noise."""
    return write_tiny(tmp_path_factory.mktemp("serve") / "tiny")


@pytest.fixture(scope="session")
def chat_format(tiny_folder: Path) -> ChatFormat:
    return ChatFormat.from_pretrained(tiny_folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def random_service(tiny_folder: Path) -> AsyncIterator[Service]:
    """A service over the random model; shared by a module's tests (loop_scope="module")."""
    async with AsyncEngine(tiny_folder, cache_tokens=65_536, max_sequences=16, seed=1) as engine:
        yield make_service(engine)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def random_client(random_service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with asgi_client(random_service) as client:
        yield client


@pytest.fixture
def scripted(chat_format: ChatFormat, tiny_folder: Path) -> Any:
    """`async with scripted(Turn(...), ...) as client`, or with a function of the prompt's text.

    `eyes=True`: the model takes pictures, and `client.eyes.seen` has what it saw.
    """
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def make(
        *turns: Any, settings: Any = None, keys: Any = None, guard: Any = None, **options: Any
    ) -> Any:
        only = turns[0] if len(turns) == 1 else None
        script = (
            only
            if isinstance(only, Scripted)
            else Scripted(only if callable(only) else list(turns) or [Turn("Hello!")])
        )
        eyes = None
        if options.pop("eyes", False):
            eyes = options["eyes"] = Eyes(tiny_folder, limits_of(settings or Settings()))
        engine = AsyncEngine(scripted_engine(script, chat_format, **options))
        async with engine:
            service = make_service(engine, settings)
            if guard is not None:
                service.media = MediaAdmission(service.settings, engine.media_reader, guard=guard)
            async with asgi_client(service, keys) as client:
                client.service = service
                client.script = script
                client.eyes = eyes
                yield client

    return make
