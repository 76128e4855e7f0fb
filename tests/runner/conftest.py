from __future__ import annotations

from collections.abc import Iterator

import pytest

from perilune.kernels import native
from tests.engine.conftest import one_torch_thread

__all__ = ["one_torch_thread"]


@pytest.fixture
def library_as_it_was() -> Iterator[None]:
    """For tests that choose an instruction set or a number of threads."""
    isa, threads = native.isa(), native.threads()
    yield
    native.select_isa(isa)
    native.set_threads(threads)
