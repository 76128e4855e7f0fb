from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from perilune.engine.llm import LLM
from perilune.formats.int4 import INT4

from .models import write_tiny


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from more, and a busy machine makes more of them slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def bf16_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("engine") / "bf16")


@pytest.fixture(scope="session")
def int4_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("engine") / "int4", INT4)


@pytest.fixture(scope="session")
def llm(bf16_folder: Path) -> Iterator[LLM]:
    """A tiny model with its tokenizer, exact; shared, so leave nothing running in it."""
    with LLM(bf16_folder, exact=True, cache_tokens=8192, max_sequences=8, seed=1) as llm:
        yield llm
