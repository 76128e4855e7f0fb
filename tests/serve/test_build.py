"""A service that cannot be is refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from perilune.errors import UsageError
from perilune.serve.build import build_service
from perilune.serve.settings import Settings


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("dense_format", "int5", "int8 or int4"),
        ("isolation", "vm", "process or thread"),
        ("device", "moon", "moon"),
    ],
)
def test_a_word_that_there_is_not_is_refused(name: str, value: str, message: str) -> None:
    settings = Settings.from_options({name: value})
    with pytest.raises(UsageError, match=message):
        build_service(Path("no such folder"), settings)
