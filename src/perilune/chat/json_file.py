"""A JSON object from a file of a checkpoint, bounded in size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from perilune.errors import ChatError


def read_json_object(path: Path, max_bytes: int) -> dict[str, Any]:
    """A JSON object from a file of limited size. Raises ChatError."""
    try:
        if path.stat().st_size > max_bytes:
            raise ChatError(f"{path.name}: larger than {max_bytes >> 20} MiB")
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ChatError(
            f"{path.name}: cannot be read as JSON: {error}", remedy="Download the file again"
        ) from None
    if not isinstance(value, dict):
        raise ChatError(f"{path.name}: is not a JSON object", remedy="Download the file again")
    return value
